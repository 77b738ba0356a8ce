"""Prompts that a student answers anew in each step, beside the answers that the data has."""

from collections.abc import Iterable
from dataclasses import dataclass

from stillhouse.data.chat import ReadConversation
from stillhouse.data.examples import Example, windows
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import Row

PROMPT_TOKENS = 32
"""Of a document without a prompt of its own, at most this many tokens are given, and at most half of it."""


@dataclass(frozen=True)
class Told:
    """A prompt as the teacher alone reads it, with more before the answer than the student's."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    """Piece by piece the same answers as the student's, at other places."""
    style: int | None = None
    """Which of the contexts it has read, from 0; None for none."""


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, and what the data says: the prompt with its answer, in pieces where that is long."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    told: Told | None = None
    """What the teacher reads; None where it is the same."""

    def answer(self, tokens: tuple[int, ...]) -> "Asked":
        """The same prompts on both sides, with another answer, all of which is learnt."""
        told = self.told
        return Asked(
            self.prompt,
            (_answered(self.prompt, tokens),),
            told and Told(told.prompt, (_answered(told.prompt, tokens),), told.style),
        )


def ask_in_turn(read: ReadConversation, *, max_tokens: int) -> Asked:
    """A conversation up to the last turn that is learnt."""
    places = [[*turn.tokens, *turn.closing] for turn in read.turns]
    start = min(next(found for found in reversed(places) if found))
    return Asked(read.example.ids[:start], tuple(windows(read.example, max_tokens=max_tokens)))


def ask_to_go_on(row: Row, document: Example, *, max_tokens: int) -> Asked:
    """A row of text, tokenised whole: its own prompt, or else how it begins."""
    given = document.weights.index(1.0) if row.prompt else max(1, min(PROMPT_TOKENS, len(document.ids) // 2))
    return Asked(document.ids[:given], tuple(windows(document, max_tokens=max_tokens)))


def _answered(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Example:
    return Example((*prompt, *answer), (0.0,) * len(prompt) + (1.0,) * len(answer))


def packed(rows: Iterable[Asked], *, row_tokens: int) -> PackedRows:
    """The same as documents that are only read and learnt."""
    return PackedRows([piece for row in rows for piece in row.answered], row_tokens=row_tokens)
