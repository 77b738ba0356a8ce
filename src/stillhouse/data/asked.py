"""Prompts that a student answers anew in each step, beside the answers that the data has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stillhouse.data.chat import ReadConversation
from stillhouse.data.examples import Example, windows
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import Row

PROMPT_TOKENS = 32
"""Of a document without a prompt of its own, at most this many tokens are given, and at most half of it."""


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, and what the data says: the prompt with its answer, in pieces where that is long."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    reference: tuple[int, ...] = ()
    """The data's own answer alone."""

    def with_answer(self, answer: Sequence[int], *, weight: float = 1.0) -> Example:
        """The prompt with another answer, of whose tokens each counts for `weight`."""
        return Example((*self.prompt, *answer), (0.0,) * len(self.prompt) + (weight,) * len(answer))


def ask_in_turn(read: ReadConversation, *, max_tokens: int) -> Asked:
    """A conversation up to the last turn that is learnt."""
    places = [[*turn.tokens, *turn.closing] for turn in read.turns]
    start = min(next(found for found in reversed(places) if found))
    said = next(turn.tokens for turn, place in zip(reversed(read.turns), reversed(places), strict=True) if place)
    reference = tuple(read.example.ids[token] for token in said)
    return Asked(read.example.ids[:start], tuple(windows(read.example, max_tokens=max_tokens)), reference)


def ask_to_go_on(row: Row, document: Example, *, max_tokens: int) -> Asked:
    """A row of text, tokenised whole: its own prompt, or else how it begins."""
    given = document.weights.index(1.0) if row.prompt else max(1, min(PROMPT_TOKENS, len(document.ids) // 2))
    return Asked(document.ids[:given], tuple(windows(document, max_tokens=max_tokens)), document.ids[given:])


def packed(rows: Iterable[Asked], *, row_tokens: int) -> PackedRows:
    """The same as documents that are only read and learnt."""
    return PackedRows([piece for row in rows for piece in row.answered], row_tokens=row_tokens)
