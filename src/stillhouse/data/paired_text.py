"""Texts and conversations as two tokenizers cut them: each side in its own special tokens and its own chat template."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.data.chat import ChatReader, ChatWeight, ReadConversation, ReadTurn
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.examples import Example
from stillhouse.data.paired import NOWHERE, Pair, PlacedExample, pair_pieces
from stillhouse.data.text import Row, start_ids
from stillhouse.models.token_bytes import TextCutter


class PairedTextReader:
    """Turns texts into pairs.

    Raises:
        ModelError: if of one of the tokenizers it cannot be told which bytes its tokens stand for.
    """

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, *, max_tokens: int) -> None:
        self.cutters, self.max_tokens = (TextCutter(student), TextCutter(teacher)), max_tokens

    def pairs(self, rows: Iterable[Row]) -> list[Pair]:
        """Each text in pieces of at most so many tokens on either side.

        Prompt and text are cut apart, so that no token crosses from one into the other, and the end of a finished text is a
        token to learn, on each side its own.
        """
        return list(self.each_pair(rows))

    def each_pair(self, rows: Iterable[Row]) -> Iterator[Pair]:
        """The same one after the other."""
        return (pair for row in rows for pair in self.pieces(row))

    def pieces(self, row: Row) -> Iterator[Pair]:
        """One text."""
        ours, theirs = (placed_text(row, cutter) for cutter in self.cutters)
        return pair_pieces(ours, theirs, max_tokens=self.max_tokens)


def placed_text(row: Row, cutter: TextCutter, *, is_drawn: bool = False) -> PlacedExample:
    """A text in one side's tokens, and where each ends. What was `drawn` holds no special token, even if it spells one."""
    tokenizer = cutter.tokenizer
    prompt, text = cutter.cut(row.prompt), cutter.cut(row.text, splits_special=is_drawn)
    before = () if row.prompt else tuple(start_ids(tokenizer))
    end = (tokenizer.eos_token_id,) if row.finished and tokenizer.eos_token_id is not None else ()
    prompt_bytes, text_bytes = len(row.prompt.encode()), len(row.text.encode())
    example = Example(
        (*before, *prompt.ids, *text.ids, *end),
        (*[0.0] * (len(before) + len(prompt.ids)), *[1.0] * (len(text.ids) + len(end))),
        text_bytes,
    )
    ends = (
        *[NOWHERE] * len(before),
        *prompt.ends,
        *(prompt_bytes + place for place in text.ends),
        *[prompt_bytes + text_bytes + 1] * len(end),
    )
    return PlacedExample(example, ends)


class PairedChatReader:
    """Turns conversations into pairs: each side is shown its own template, and every turn that is learnt is compared.

    A turn that the two templates write differently, by more than white space around it, is learnt by its tokens alone.

    Raises:
        ModelError: as `ChatReader`, of either tokenizer, and as `PairedTextReader`.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase,
        *,
        max_tokens: int,
        weight: ChatWeight = "assistant",
        thinking: bool = False,
    ) -> None:
        self.student = ChatReader(student, weight=weight, thinking=thinking, owner="student")
        self.teacher = ChatReader(teacher, weight=weight, thinking=thinking, owner="teacher")
        self.cutters, self.max_tokens = (TextCutter(student), TextCutter(teacher)), max_tokens
        self.dropped: Counter[str] = self.student.dropped
        self.turns_apart = 0
        """Turns that the two templates write differently."""

    def pairs(self, conversations: Iterable[Conversation]) -> list[Pair]:
        """Those of them that have something to learn, in pieces of at most so many tokens on either side.

        Raises:
            DataError: naming the row that one of the templates refuses.
        """
        return list(self.each_pair(conversations))

    def each_pair(self, conversations: Iterable[Conversation]) -> Iterator[Pair]:
        """The same one after the other."""
        return (pair for _, *sides in self.read(conversations) for pair in self.pieces(*sides))

    def read(
        self, conversations: Iterable[Conversation]
    ) -> Iterator[tuple[Conversation, ReadConversation, ReadConversation]]:
        """The same, each as student and teacher read it."""
        kept = self.student.each_learnt(map(_refuse_parts, conversations))
        return ((one, ours, self.teacher.read(one)) for one, ours in kept)

    def pieces(self, ours: ReadConversation, theirs: ReadConversation) -> Iterator[Pair]:
        """One conversation on both sides."""
        sides = ours, theirs
        ends = [[NOWHERE] * len(side.example.ids) for side in sides]
        base = 0
        for turns in zip(ours.turns, theirs.turns, strict=True):
            core = _core(*turns)
            if core is None:
                self.turns_apart += 1
                continue
            turns = turns if turns[0].is_finished else (replace(turns[0], closing=()), replace(turns[1], closing=()))
            are_equal = len(turns[0].closing) == len(turns[1].closing)
            for turn, cutter, side, own in zip(turns, self.cutters, sides, ends, strict=True):
                said = cutter.ends([side.example.ids[token] for token in turn.tokens], turn.characters, turn.said)
                closing = range(len(turn.closing)) if are_equal else [0] * len(turn.closing)
                place(turn, core, said, closing, ends=own, base=base)
            base += len(core.encode()) + 1 + max(len(turn.closing) for turn in turns)
        placed = (PlacedExample(side.example, tuple(own)) for side, own in zip(sides, ends, strict=True))
        return pair_pieces(*placed, max_tokens=self.max_tokens)


def _refuse_parts(one: Conversation) -> Conversation:
    """What is written out already is in one template's tokens, and parts of turns end at other places in each."""
    if one.segments or one.parts:
        what = "segments, which are written out" if one.segments else "parts of turns"
        raise DataError(
            f"{one.where} gives weight to {what} for one tokenizer, but teacher and student have two. Give whole turns as "
            "'messages', or use a student with the teacher's tokenizer."
        )
    return one


def _core(ours: ReadTurn, theirs: ReadTurn) -> str | None:
    """What both sides say in a turn, white space aside that one of them writes around it; None where it is not the same."""
    if ours.said == theirs.said:
        return ours.said
    core = ours.said.strip()
    return core if core == theirs.said.strip() else None


def place(
    turn: ReadTurn, core: str, said: Sequence[int], closing: Sequence[int], *, ends: list[int], base: int
) -> None:
    """Write down where the tokens of one turn end, counted on from `base`: by the bytes of its core, in which white space
    around it takes no room, and behind that by the places of the tokens that close it."""
    before, num_bytes = len(turn.said[: turn.said.index(core)].encode()), len(core.encode())
    for token, end in zip(turn.tokens, said, strict=True):
        ends[token] = base + min(max(end - before, 0), num_bytes)
    for token, behind in zip(turn.closing, closing, strict=True):
        ends[token] = base + num_bytes + 1 + behind
