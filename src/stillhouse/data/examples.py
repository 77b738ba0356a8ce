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
    part_of: str = ""
    """Key of the document that this is a piece of; empty for a whole one."""

    @property
    def sizes(self) -> tuple[int]:
        """Tokens."""
        return (len(self.ids),)

    @property
    def key(self) -> str:
        """Hash of the token ids: what a stored label is found by."""
        return key_of(self.ids)

    @property
    def document(self) -> str:
        """Key of the document that this is, or is a piece of."""
        return self.part_of or self.key


def windows(example: Example, *, max_tokens: int) -> Iterator[Example]:
    """The example in pieces of at most `max_tokens`, each a document of its own that begins with the last token of the
    piece before: so every token but the first is predicted exactly once. A piece with nothing to learn is left out. A byte
    counts in the piece that predicts its token, and the bytes of all pieces add up to those of the example.
    """
    part_of = example.part_of if len(example.ids) <= max_tokens else example.document
    total_weight, judged_weight, told_bytes = sum(example.weights[1:]), 0.0, 0
    for start in range(0, len(example.ids) - 1, max_tokens - 1):
        weights = (0.0, *example.weights[start + 1 : start + max_tokens])
        if any(weights):
            judged_weight += sum(weights)
            num_bytes = round(example.num_bytes * judged_weight / total_weight) - told_bytes
            told_bytes += num_bytes
            yield Example(example.ids[start : start + max_tokens], weights, num_bytes, part_of)
