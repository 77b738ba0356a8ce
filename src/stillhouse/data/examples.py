"""One example: the tokens of a document or a piece of it, and what predicting each of them counts for."""

from collections.abc import Iterator
from dataclasses import dataclass

from stillhouse.core.label_store import key_of


@dataclass(frozen=True)
class Example:
    """Token ids and their weights, of equal length; `num_bytes` of UTF-8 text stand behind the weighted ones."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    num_bytes: int = 0

    @property
    def key(self) -> str:
        """Hash of the token ids: what a stored label is found by."""
        return key_of(self.ids)


def windows(example: Example, *, max_tokens: int) -> Iterator[Example]:
    """The example in pieces of at most `max_tokens`, each a document of its own; a piece of one token predicts nothing
    and is left out. A byte counts in the piece that predicts its token.
    """
    total_weight = sum(example.weights[1:])
    for start in range(0, len(example.ids), max_tokens):
        ids = example.ids[start : start + max_tokens]
        weights = (0.0, *example.weights[start + 1 : start + max_tokens])
        if len(ids) > 1 and any(weights):
            share = sum(weights) / total_weight
            yield Example(ids, weights, round(example.num_bytes * share))
