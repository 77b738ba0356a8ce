"""Pairs of answers as rows: the tokens of both, which of them are the answer, and what is known of each before training."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.core.batch import PreferenceBatch
from stillhouse.core.errors import ModelError
from stillhouse.core.numbers import Numbers
from stillhouse.data.chat import ChatReader
from stillhouse.data.examples import Example
from stillhouse.data.kept import Kept, keep, lengths_of, seen, sizes_of
from stillhouse.data.packing import PackedRows, one_each, to_batch
from stillhouse.data.preference_forms import Preference, Scores
from stillhouse.data.text import Row, to_example


@dataclass(frozen=True)
class AnswerPair:
    """The same prompt twice, with the answer that was chosen and with the other one: only the answers carry weight."""

    chosen: Example
    rejected: Example
    scores: Scores | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of either, with its prompt."""
        return len(self.chosen.ids), len(self.rejected.ids)

    @property
    def sides(self) -> tuple[Example, Example]:
        """The chosen one, then the rejected."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Weighed:
    """What was found of each answer before training, pair by pair: the chosen one's number, then the rejected one's."""

    reference_logprobs: Float[Tensor, "pairs 2"]
    """How likely the student before training finds it, in nats."""
    teacher_ratios: Float[Tensor, "pairs 2"] | None = None
    """By how much likelier the teacher finds it than the teacher's own reference does, in nats."""


class PreferenceReader:
    """Turns pairs into tokens, and counts those that cannot be learnt from. A pair is never cut: where one of its answers does
    not fit, both are left out.

    Raises:
        ModelError: if it needs a chat template and there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, needs_template: bool = True) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        if needs_template and not tokenizer.chat_template:
            raise ModelError(
                "data.kind preferences needs a chat template, and the teacher's tokenizer has none. Name another teacher, or "
                "say data.reads: text, so that prompts and answers are read as they stand."
            )
        self._chats = ChatReader(tokenizer) if needs_template else None
        self.dropped: Counter[str] = Counter()

    def pairs(self, rows: Iterable[Preference]) -> Kept[AnswerPair]:
        """Those of them that can be learnt from."""
        return keep(self._learnt(rows), of=AnswerPair)

    def _learnt(self, rows: Iterable[Preference]) -> Iterator[AnswerPair]:
        for row in rows:
            pair = AnswerPair(self._example(row.chosen), self._example(row.rejected), row.scores)
            reason = self._reason(pair)
            if reason:
                self.dropped[reason] += 1
            else:
                yield pair

    def _example(self, told: object) -> Example:
        if isinstance(told, Row):
            return to_example(told, self.tokenizer)
        assert self._chats is not None, "messages need a template"
        return self._chats.example(told)  # type: ignore[arg-type]

    def _reason(self, pair: AnswerPair) -> str:
        """Why nothing can be learnt of a pair; empty where it can."""
        if any(not any(side.weights[1:]) for side in pair.sides):
            return "an answer without a token"
        if pair.chosen.ids == pair.rejected.ids:
            return "two answers of the same tokens"
        prompts = [side.ids[: _first_weighted(side)] for side in pair.sides]
        if prompts[0] != prompts[1]:
            return "a prompt that the chat template writes in two ways"
        if max(len(side.ids) for side in pair.sides) > self.max_tokens:
            return f"an answer that ends beyond data.sequence_tokens ({self.max_tokens}), so both are left out"
        return ""


def _first_weighted(example: Example) -> int:
    return next(place for place, weight in enumerate(example.weights) if weight)


class PreferenceRows(PackedRows):
    """Pairs of answers, one a row: a batch has the chosen answer of each and, in the row after it, the rejected one.

    To everything that knows nothing of pairs these are rows of the chosen answers.
    """

    def __init__(self, pairs: Sequence[AnswerPair], *, weighed: Weighed | None = None) -> None:
        self.pairs, self.weighed = pairs, weighed
        sizes = sizes_of(pairs)
        self.examples = seen(pairs, attrgetter("chosen"), sizes.each(lambda both: both[:, :1]))
        self.rows = one_each(len(pairs))
        self.row_tokens = sizes.max()

    @cached_property
    def lengths(self) -> Numbers:
        """Tokens of each pair's longer side."""
        return lengths_of(self.pairs)

    def with_weighed(self, weighed: Weighed) -> "PreferenceRows":
        """The same pairs, with what was found of them."""
        assert len(weighed.reference_logprobs) == len(self.pairs), "these numbers are other pairs'"
        return PreferenceRows(self.pairs, weighed=weighed)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        return index

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:  # type: ignore[override]
        """Pairs as tensors [2 * pairs, seq], `seq` being the longest answer's with its prompt."""
        pairs = [self.pairs[number] for number in items]
        read = to_batch([[side] for pair in pairs for side in pair.sides])
        weights = read.weights.clone()
        weights[1::2] = 0.0
        known: dict[str, Tensor] = {}
        if all(pair.scores is not None for pair in pairs):
            known["scores"] = torch.tensor([score for pair in pairs for score in pair.scores or ()])
        if self.weighed is not None:
            known["reference_logprobs"] = self.weighed.reference_logprobs[list(items)].flatten()
            if self.weighed.teacher_ratios is not None:
                known["teacher_ratios"] = self.weighed.teacher_ratios[list(items)].flatten()
        batch = PreferenceBatch(read.ids, read.positions, read.documents, weights, answer_weights=read.weights)
        return replace(batch, **known).tensors()
