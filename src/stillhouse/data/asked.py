"""Prompts that a student answers anew in each step, beside the answers that the data has."""

from collections.abc import Iterable
from dataclasses import dataclass

from stillhouse.data.chat import ReadConversation, ReadTurn
from stillhouse.data.examples import Example, windows
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import Row

PROMPT_TOKENS = 32
"""Of a document without a prompt of its own, at most this many tokens are given, and at most half of it."""


@dataclass(frozen=True)
class Followup:
    """What comes between two answers of one conversation."""

    closing: tuple[int, ...]
    """What ends the answer before, where its writer did not end it."""
    prompt: tuple[int, ...]
    """What follows up to where the next answer is due."""


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, and what the data says: the prompt with its answer, in pieces where that is long. A conversation
    may go on behind the answer and ask again."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    followups: tuple[Followup, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    """What a token of each answer counts for."""
    calls_tools: bool = False
    """Whether turns before the answer stay as they are because tools answer in them."""


def ask_in_turn(read: ReadConversation, *, max_tokens: int) -> Asked:
    """A conversation up to the first turn that is learnt, and on from turn to turn; what is not learnt stays as it is. Where
    tools answer, all before the last turn stays: they answer what was called, not what another would have called."""
    turns = [turn for turn in read.turns if turn.tokens or turn.closing]
    stays = read.calls_tools and len(turns) > 1
    turns = turns[-1:] if stays else turns
    ids, answered = read.example.ids, tuple(windows(read.example, max_tokens=max_tokens))
    starts, ends = [min(_places(turn)) for turn in turns], [max(_places(turn)) + 1 for turn in turns]
    followups = (
        Followup(tuple(ids[token] for token in turn.closing), ids[end:start])
        for turn, end, start in zip(turns[:-1], ends[:-1], starts[1:], strict=True)
    )
    return Asked(ids[: max(1, starts[0])], answered, tuple(followups), tuple(turn.weight for turn in turns), stays)


def _places(turn: ReadTurn) -> list[int]:
    return [*turn.tokens, *turn.closing]


def ask_to_go_on(row: Row, document: Example, *, max_tokens: int) -> Asked:
    """A row of text, tokenised whole: its own prompt, or else how it begins."""
    given = document.weights.index(1.0) if row.prompt else max(1, min(PROMPT_TOKENS, len(document.ids) // 2))
    return Asked(document.ids[:given], tuple(windows(document, max_tokens=max_tokens)))


def packed(rows: Iterable[Asked], *, row_tokens: int) -> PackedRows:
    """The same as documents that are only read and learnt."""
    return PackedRows([piece for row in rows for piece in row.answered], row_tokens=row_tokens)
