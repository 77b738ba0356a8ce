"""Prompts that a student answers anew in each step, beside the answers that the data has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import InstanceOf

from stillhouse.core.numbers import Counting, Numbers
from stillhouse.data.chat import ReadConversation, ReadTurn
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.examples import Example, windows
from stillhouse.data.kept import Keeping, Kept, ReadOneByOne
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import Pair
from stillhouse.data.shelf import Shelf, Shelving, on_shelf
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
class Told:
    """A prompt as the teacher alone reads it, with more before the answer than the student's."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    """Piece by piece the same answers as the student's, at other places."""
    style: int | None = None
    """Which of the contexts it has read, from 0; None for none."""


@dataclass(frozen=True)
class Spoken:
    """An answer that was given in a conversation."""

    start: int
    """How many tokens of the conversation stand before it."""
    tokens: tuple[int, ...]
    """Its end included, where it is finished."""
    finished: bool


@runtime_checkable
class Across(Protocol):
    """What one conversation is to a teacher with another tokenizer."""

    @property
    def theirs(self) -> "Asked":
        """The same as the teacher is asked it, in its own tokens."""

    def hears(self, spoken: Spoken) -> bool:
        """Whether an answer of the student can be read by the teacher to its end, so that both can read on."""

    def pairs(self, learnt: Example, spoken: Sequence[Spoken]) -> tuple[Pair, ...]:
        """All that was said up to the student's last answer, on both sides; nothing where nothing can be compared."""

    def taught(self, said: Iterable[tuple[Sequence[int], bool, float]]) -> tuple[Pair, ...]:
        """Last answers of the teacher on both sides: the tokens of each, whether it is finished, what it counts for."""


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, and what the data says: the prompt with its answer, in pieces where that is long. A conversation
    may go on behind the answer and ask again."""

    prompt: tuple[int, ...]
    answered: tuple[Example, ...]
    told: Told | None = None
    """What the teacher reads; None where it is the same."""
    followups: tuple[Followup, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    """What a token of each answer counts for."""
    calls_tools: bool = False
    """Whether turns before the answer stay as they are because tools answer in them."""
    behind: tuple[int, ...] = ()
    """What the data has between the prompt and the last answer, other answers included."""
    reference: tuple[int, ...] = ()
    """The last answer as the data has it, alone."""
    pairs: tuple[Pair, ...] = ()
    """Where the teacher has another tokenizer: what is answered, on both sides."""
    across: InstanceOf[Across] | None = None
    """What tells how the teacher reads it; None where it reads the same tokens."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """What a conversation has before the last answer, for a teacher that is asked in messages; empty for a text."""

    @property
    def at_last(self) -> "Asked":
        """The same, asked for its last answer alone: all before is the data's."""
        told = self.told and replace(self.told, prompt=(*self.told.prompt, *self.behind))
        prompt = (*self.prompt, *self.behind)
        return replace(self, prompt=prompt, told=told, followups=(), weights=self.weights[-1:], behind=())

    @property
    def sides(self) -> tuple[tuple[Example, ...], ...]:
        """What is answered, as each side reads it."""
        told = self.told.answered if self.told else ()
        return self.answered, told, tuple(pair.teacher for pair in self.pairs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of what is answered, on each side."""
        return tuple(sum(len(piece.ids) for piece in side) for side in self.sides)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens before the first answer, on the longer side."""
        return max(len(self.prompt), len(self.told.prompt) if self.told else 0)

    def answer(self, tokens: Sequence[int], weights: Sequence[float] | None = None) -> "Asked":
        """The same prompts on both sides, with all that was said behind them; each counts for its weight, or all for 1."""
        told, weights = self.told, weights or (1.0,) * len(tokens)
        return replace(
            self,
            answered=(_answered(self.prompt, tokens, weights),),
            told=told and replace(told, answered=(_answered(told.prompt, tokens, weights),)),
            pairs=(),
        )

    def heard(self, spoken: Sequence[Spoken]) -> "Asked":
        """The same, with what the teacher reads in its own tokens, where these are others."""
        return self if self.across is None else replace(self, pairs=self.across.pairs(self.answered[0], spoken))

    def taught(self, said: Iterable[tuple[Sequence[int], bool, float]]) -> "Asked":
        """The same, but that other last answers are learnt: the tokens of each, in those of the teacher, whether it is
        finished, and what it counts for, times the turn's own weight."""
        if self.across is None:
            return self.with_answers((tokens, weight) for tokens, _, weight in said)
        pairs = self.across.taught(said)
        return replace(self, answered=tuple(pair.student for pair in pairs), pairs=pairs)

    def with_answers(self, said: Iterable[tuple[Sequence[int], float]]) -> "Asked":
        """The same, but that other last answers are learnt: each with what it counts for, times the turn's own weight."""
        last = self.at_last
        each = [last.answer(tokens, (weight * last.weights[0],) * len(tokens)) for tokens, weight in said]
        told = tuple(piece for one in each if one.told for piece in one.told.answered)
        return replace(
            self,
            answered=tuple(piece for one in each for piece in one.answered),
            told=self.told and replace(self.told, answered=told),
        )


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
    start = max(1, starts[0])
    return Asked(
        ids[:start],
        answered,
        followups=tuple(followups),
        weights=tuple(turn.weight for turn in turns),
        calls_tools=stays,
        behind=ids[start : starts[-1]],
        reference=tuple(ids[token] for token in turns[-1].tokens),
    )


def ask_chat(conversation: Conversation, read: ReadConversation, *, max_tokens: int) -> Asked:
    """The same with the messages before the last answer that is learnt; none where a conversation is written out already."""
    last = [turn for turn in read.turns if turn.tokens or turn.closing][-1]
    before = () if conversation.segments else tuple(conversation.messages[: last.message])
    return replace(ask_in_turn(read, max_tokens=max_tokens), messages=before)


def _places(turn: ReadTurn) -> list[int]:
    return [*turn.tokens, *turn.closing]


def ask_to_go_on(row: Row, document: Example, *, max_tokens: int) -> Asked:
    """A row of text, tokenised whole: its own prompt, or else how it begins."""
    given = document.weights.index(1.0) if row.prompt else max(1, min(PROMPT_TOKENS, len(document.ids) // 2))
    return Asked(document.ids[:given], tuple(windows(document, max_tokens=max_tokens)), reference=document.ids[given:])


def _answered(prompt: tuple[int, ...], tokens: Sequence[int], weights: Sequence[float]) -> Example:
    return Example((*prompt, *tokens), ((0.0,) * len(prompt) + tuple(weights)))


class KeptAsked(ReadOneByOne[Asked]):
    """What is asked in a file, and what is learnt on a shelf, piece by piece: each is put together when it is asked for."""

    def __init__(self, pieces: Shelf, rest: Kept[Asked], bounds: Numbers) -> None:
        """The pieces of each lie between two `bounds`."""
        self.pieces, self._rest, self._bounds = pieces, rest, bounds

    def __len__(self) -> int:
        return len(self._rest)

    @property
    def sizes(self) -> Numbers:
        def part(start: int, stop: int) -> NDArray[np.int64]:
            bounds = self._bounds.part(start, stop + 1)
            first, last = int(bounds[0]), int(bounds[-1])
            told = np.cumsum([0, *self.pieces.sizes.part(first, last)[:, 0]])
            return np.diff(told[bounds - first])[:, None]

        return Numbers(len(self), part)

    def read(self, number: int) -> Asked:
        """One of them, from both."""
        start, end = self._bounds.part(number, number + 2).tolist()
        return replace(self._rest[number], answered=tuple(self.pieces[start:end]))


def keep_asked(asked: Iterable[Asked]) -> KeptAsked:
    """All of these that have something to learn, where teacher and student read the same tokens."""
    pieces, rest, bounds = Shelving(), Keeping[Asked](Asked), Counting(np.int64)
    bounds.add(0)
    for one in asked:
        if one.answered:
            pieces.fill(one.answered)
            rest.add(replace(one, answered=()), sizes=())
            bounds.add(len(pieces))
    return KeptAsked(pieces.shelf(), rest.kept(), bounds.numbers())


def packed(rows: Iterable[Asked], *, row_tokens: int) -> PackedRows:
    """The same as documents that are only read and learnt."""
    if isinstance(rows, KeptAsked):
        return PackedRows(rows.pieces, row_tokens=row_tokens)
    return PackedRows(on_shelf(piece for row in rows for piece in row.answered), row_tokens=row_tokens)
