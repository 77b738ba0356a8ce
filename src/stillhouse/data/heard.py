"""Answers that a model gives in its own tokens, as one with another tokenizer hears them: in its own template and tokens."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import Counting, Numbers
from stillhouse.data.asked import Asked, Spoken, ask_in_turn, ask_to_go_on
from stillhouse.data.chat import ReadConversation, ReadTurn
from stillhouse.data.chat_forms import Conversation, is_speakable
from stillhouse.data.chat_template import CUT, MARK
from stillhouse.data.examples import Example
from stillhouse.data.kept import Keeping, Kept, ReadOneByOne
from stillhouse.data.paired import NOWHERE, Pair, PlacedExample, pair_pieces
from stillhouse.data.paired_text import PairedChatReader, PairedTextReader, place, placed_text
from stillhouse.data.text import Row
from stillhouse.models.load import vocabulary_fingerprint
from stillhouse.models.token_bytes import TextCutter, Utterance, read_back
from stillhouse.models.tokenizers import end_of_turn

SOMETHING = "x"
"""Said in the place of an answer without a word, which templates refuse, and then taken out again."""


class Heard(ReadOneByOne[Asked]):
    """Rows of which something can be compared: their pairs in one file, and themselves in another, so that each is asked, on
    both sides, when it is asked for."""

    def __init__(self, rows: Iterable[Any], *, of: Any, ask: Callable[[Any], Asked | None]) -> None:
        """`ask` makes what is asked of a row, or None where nothing can be compared."""
        kept, pairs, sizes = Keeping[Any](of), Keeping[Pair](Pair), Counting(np.int32)
        for row in rows:
            asked = ask(row)
            if asked is not None:
                kept.add(row)
                sizes.add(asked.sizes)
                for pair in asked.pairs:
                    pairs.add(pair)
        self.pairs: Kept[Pair] = pairs.kept()
        self._rows, self._ask = kept.kept(), ask
        self._sizes = sizes.numbers()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sizes(self) -> Numbers:
        return self._sizes

    def read(self, number: int) -> Asked:
        """One of them, on both sides."""
        asked = self._ask(self._rows[number])
        assert asked is not None, "it was something when it was kept"
        return asked


def ask_texts(reader: PairedTextReader, rows: Iterable[Row]) -> Heard:
    """Texts to be gone on with, each on both sides; those left out of which nothing can be compared."""
    is_same = _are_same(*(cutter.tokenizer for cutter in reader.cutters))

    def ask(row: Row) -> Asked | None:
        pairs = tuple(pair for pair in reader.pieces(row) if pair.num_spans)
        return _asked_text(reader, row, pairs, is_same=is_same) if pairs else None

    return Heard(rows, of=Row, ask=ask)


def ask_conversations(reader: PairedChatReader, conversations: Iterable[Conversation]) -> Heard:
    """Conversations to be answered in, each on both sides; those left out of which nothing can be compared."""
    tokenizers = [cutter.tokenizer for cutter in reader.cutters]
    is_same = _are_same(*tokenizers) and tokenizers[0].chat_template == tokenizers[1].chat_template
    ends = end_of_turn(tokenizers[0]), end_of_turn(tokenizers[1])

    def ask(one: Conversation) -> Asked | None:
        for _, ours, theirs in reader.read([one]):
            pairs = tuple(pair for pair in reader.pieces(ours, theirs) if pair.num_spans)
            if pairs:
                return _asked_chat(reader, one, ours, theirs, pairs, is_same=is_same, ends=ends)
        return None

    return Heard(conversations, of=Conversation, ask=ask)


def _are_same(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> bool:
    return ours is theirs or vocabulary_fingerprint(ours) == vocabulary_fingerprint(theirs)


# Texts


def _asked_text(reader: PairedTextReader, row: Row, pairs: tuple[Pair, ...], *, is_same: bool) -> Asked:
    sides = [placed_text(row, cutter) for cutter in reader.cutters]
    ours, theirs = (ask_to_go_on(row, side.example, max_tokens=reader.max_tokens) for side in sides)
    begun = [side.ends[: len(asked.prompt)] for side, asked in zip(sides, (ours, theirs), strict=True)]
    across = _HeardText(reader, row, theirs, (begun[0], begun[1]), is_same)
    return replace(ours, answered=tuple(pair.student for pair in pairs), pairs=pairs, across=across)


@dataclass(frozen=True)
class _HeardText:
    """A text on which one side has gone on."""

    reader: PairedTextReader
    row: Row
    theirs: Asked
    begun: tuple[tuple[int, ...], tuple[int, ...]]
    """Where the tokens end that are given, of the student and of the teacher."""
    is_same: bool
    """Whether both have one tokenizer: then each reads the other's very tokens."""

    def hears(self, spoken: Spoken) -> bool:
        return True

    def pairs(self, learnt: Example, spoken: Sequence[Spoken]) -> tuple[Pair, ...]:
        if self.is_same:
            return _first_piece(*_alike(learnt), max_tokens=self.reader.max_tokens)
        (one,) = spoken
        said, finished = self._said(one.tokens, one.finished, side=0)
        end = (len((self.row.prompt + said.text).encode()) + 1,) if finished else ()
        ends = _as_many(len(learnt.ids), (*self.begun[0], *said.ends), end)
        teacher = placed_text(Row(said.text, self.row.prompt, finished), self.reader.cutters[1], is_drawn=True)
        return _first_piece(PlacedExample(learnt, ends), teacher, max_tokens=self.reader.max_tokens)

    def taught(self, said: Iterable[tuple[Sequence[int], bool, float]]) -> tuple[Pair, ...]:
        return tuple(pair for one in said for pair in self._taught(*one) if pair.num_spans)

    def _taught(self, tokens: Sequence[int], is_finished: bool, weight: float) -> Iterator[Pair]:
        if self.is_same:
            learnt = self.theirs.answer(tokens, (weight,) * len(tokens)).answered[0]
            return pair_pieces(*_alike(learnt), max_tokens=self.reader.max_tokens)
        said, finished = self._said(tokens, is_finished, side=1)
        given = 0 if self.row.prompt else max(0, self.begun[1][-1])
        row = Row(said.text, self.row.prompt, finished)
        sides = (placed_text(row, cutter, is_drawn=True) for cutter in self.reader.cutters)
        ours, theirs = (_weighted(side, weight, given=given) for side in sides)
        return pair_pieces(ours, theirs, max_tokens=self.reader.max_tokens)

    def _said(self, tokens: Sequence[int], is_finished: bool, *, side: int) -> tuple[Utterance, bool]:
        """What one side said behind a prompt, or behind the beginning of a text, that included; and whether it has an end that
        can be compared."""
        cutter = self.reader.cutters[side]
        body = tokens[:-1] if is_finished else tokens
        if self.row.prompt:
            said = _without(read_back(body, cutter.spelt), self._lead(cutter))
            shift = len(self.row.prompt.encode())
            said = replace(said, ends=tuple(end + shift for end in said.ends))
        else:
            before = self.row.text.encode()[: max(0, self.begun[side][-1])]
            said = read_back(body, cutter.spelt, before=before)
        ends_so = is_finished and tokens[-1] == cutter.tokenizer.eos_token_id
        return said, ends_so and len(said.ends) == len(body)

    def _lead(self, cutter: TextCutter) -> str:
        """The space that a tokenizer puts before every text, and behind every prompt."""
        spelling = b"".join(cutter.spelt[token] or b"" for token in cutter.cut(self.row.text).ids)
        return " " if spelling == b" " + self.row.text.encode() else ""


def _weighted(side: PlacedExample, weight: float, *, given: int) -> PlacedExample:
    """The same with other weights: none for what begins before `given` bytes."""
    begins = (0, *side.ends[:-1])
    weights = (
        weight if counts and begin >= given else 0.0 for counts, begin in zip(side.example.weights, begins, strict=True)
    )
    return replace(side, example=replace(side.example, weights=tuple(weights)))


# Conversations


def _asked_chat(
    reader: PairedChatReader,
    one: Conversation,
    ours: ReadConversation,
    theirs: ReadConversation,
    pairs: tuple[Pair, ...],
    *,
    is_same: bool,
    ends: tuple[int | None, int | None],
) -> Asked:
    asked, told = (ask_in_turn(side, max_tokens=reader.max_tokens) for side in (ours, theirs))
    numbers = _learnt_numbers(one, reader)
    turns = [n for n, turn in zip(numbers, ours.turns, strict=True) if turn.tokens or turn.closing]
    turns = turns[-len(asked.weights) :]
    of_number = dict(zip(numbers, zip(ours.turns, theirs.turns, strict=True), strict=True))
    spaces = tuple(_space_around(one, n, ours, of_number[n][0], reader.cutters[0]) for n in turns)
    their_space = _space_around(one, turns[-1], theirs, of_number[turns[-1]][1], reader.cutters[1])
    across = _HeardChat(reader, one, tuple(turns), told, spaces, their_space, ends, is_same)
    return replace(asked, answered=tuple(pair.student for pair in pairs), pairs=pairs, across=across)


def _learnt_numbers(one: Conversation, reader: PairedChatReader) -> list[int]:
    """The messages that are learnt, in order: those of the turns of a conversation that has been read."""
    found = [number for number, message in enumerate(one.messages) if message["role"] == "assistant"]
    if reader.student.weight == "last":
        found = found[-1:]
    return [number for number in found if one.weights[number]]


Space = tuple[str, str]
"""What a template has before and behind what is said: white space."""


def _space_around(one: Conversation, number: int, read: ReadConversation, turn: ReadTurn, cutter: TextCutter) -> Space:
    """The white space that the tokens of a turn spell around its text, where that has none of its own."""
    content = str(one.messages[number]["content"])
    spelling = b"".join(cutter.spelt[read.example.ids[token]] or b"" for token in turn.tokens)
    before, found, behind = spelling.partition(content.encode())
    if not content or content != content.strip() or not found or (before + behind).strip():
        return "", ""
    return before.decode(), behind.decode()


@dataclass(frozen=True)
class _HeardChat:
    """A conversation in which one side has answered."""

    reader: PairedChatReader
    conversation: Conversation
    numbers: tuple[int, ...]
    """The messages in whose place answers are due."""
    theirs: Asked
    spaces: tuple[Space, ...]
    """What the student's template has around each of them."""
    their_space: Space
    """What the teacher's has around the last."""
    ends: tuple[int | None, int | None]
    """The token that ends a turn, of the student and of the teacher."""
    is_same: bool
    """Whether both have one tokenizer and one template: then each reads the other's very tokens."""

    def hears(self, spoken: Spoken) -> bool:
        if self.is_same:
            return True
        body = spoken.tokens[:-1] if spoken.finished else spoken.tokens
        said = read_back(body, self.reader.cutters[0].spelt)
        is_read = len(said.ends) == len(body) if spoken.finished else said.is_whole
        return is_read and is_speakable(said.text)

    def pairs(self, learnt: Example, spoken: Sequence[Spoken]) -> tuple[Pair, ...]:
        if self.is_same:
            return _first_piece(*_alike(learnt), max_tokens=self.reader.max_tokens)
        answers = [self._answer(one, space) for one, space in zip(spoken, self.spaces, strict=False)]
        told = self._told({n: answer.content for n, answer in zip(self.numbers, answers, strict=False)}, answers)
        try:
            theirs = self.reader.teacher.read(told)
        except DataError:  # a template may refuse what a student says
            return ()
        turns = dict(zip(_learnt_numbers(told, self.reader), theirs.turns, strict=True))
        sides = self._placed(
            learnt, theirs, [(answer, turns[n]) for n, answer in zip(self.numbers, answers, strict=False)]
        )
        return () if sides is None else _first_piece(*sides, max_tokens=self.reader.max_tokens)

    def _answer(self, one: Spoken, space: Space) -> "_Answer":
        body = one.tokens[:-1] if one.finished else one.tokens
        said = _speakable(read_back(body, self.reader.cutters[0].spelt))
        is_ended = one.finished and len(said.ends) == len(body)
        content = _inside(said.text, space, is_ended=is_ended)
        return _Answer(one, said, content, is_ended, is_ended and one.tokens[-1] == self.ends[0])

    def _told(self, contents: dict[int, str], answers: Sequence["_Answer"]) -> Conversation:
        """The conversation up to the last of these answers, with them in the place of its own."""
        last = max(contents)
        messages = [dict(message) for message in self.conversation.messages[: last + 1]]
        for number, content in contents.items():
            messages[number] = {"role": "assistant", "content": content if content.strip() else SOMETHING}
        unfinished = {number for number in self.conversation.unfinished if number < last and number not in contents}
        unfinished |= {n for n, answer in zip(contents, answers, strict=True) if not answer.is_ended}
        return _with_messages(self.conversation, messages, unfinished)

    def _placed(
        self, learnt: Example, theirs: ReadConversation, turns: Sequence[tuple["_Answer", ReadTurn]]
    ) -> tuple[PlacedExample, PlacedExample] | None:
        """Both sides with the places of all that can be compared; None where the teacher reads an answer as something else."""
        ends = [NOWHERE] * len(learnt.ids), [NOWHERE] * len(theirs.example.ids)
        base, silent = 0, set[int]()
        for answer, turn in turns:
            if not answer.content.strip():
                silent |= set(turn.tokens)
                turn = replace(turn, said="", tokens=(), characters=())
            core = _common_core(answer, turn)
            if core is None or self._is_special(theirs, turn):
                return None
            closing = turn.closing if answer.ends_alike else ()
            cutter = self.reader.cutters[1]
            said = cutter.ends([theirs.example.ids[token] for token in turn.tokens], turn.characters, turn.said)
            place(replace(turn, closing=closing), core, said, [0] * len(closing), ends=ends[1], base=base)
            own = answer.turn
            place(own, core, answer.said.ends[: len(own.tokens)], [0] * len(own.closing), ends=ends[0], base=base)
            base += len(core.encode()) + 2
        return PlacedExample(learnt, tuple(ends[0])), _left_out(PlacedExample(theirs.example, tuple(ends[1])), silent)

    def _is_special(self, theirs: ReadConversation, turn: ReadTurn) -> bool:
        """Whether a word that the student spelt out is a token of its own to the teacher, such as an end of turn."""
        cutter = self.reader.cutters[1]
        ids = {theirs.example.ids[token] for token in turn.tokens} - {cutter.tokenizer.unk_token_id}
        return any(cutter.spelt[token] is None for token in ids)

    def taught(self, said: Iterable[tuple[Sequence[int], bool, float]]) -> tuple[Pair, ...]:
        return tuple(pair for one in said for pair in self._taught(*one) if pair.num_spans)

    def _taught(self, tokens: Sequence[int], is_finished: bool, weight: float) -> Iterable[Pair]:
        number = self.numbers[-1]
        weight *= self.conversation.weights[number]
        if self.is_same:
            learnt = self.theirs.at_last.answer(tokens, (weight,) * len(tokens)).answered[0]
            return pair_pieces(*_alike(learnt), max_tokens=self.reader.max_tokens)
        body = tokens[:-1] if is_finished else tokens
        said = _speakable(read_back(body, self.reader.cutters[1].spelt))
        is_ended = is_finished and len(said.ends) == len(body)
        content = _inside(said.text, self.their_space, is_ended=is_ended)
        if not content.strip():
            return ()
        messages = [*self.conversation.messages[:number], {"role": "assistant", "content": content}]
        told = _with_messages(self.conversation, messages, set() if is_ended else {number})
        told = replace(told, weights=(*[0.0] * number, weight))
        try:
            sides = self.reader.student.read(told), self.reader.teacher.read(told)
        except DataError:  # a template may refuse what a teacher says
            return ()
        return self.reader.pieces(*sides)


@dataclass(frozen=True)
class _Answer:
    """An answer of the student's, and its text."""

    spoken: Spoken
    said: Utterance
    content: str
    """As a message has it: without the white space that the student's own template has around it."""
    is_ended: bool
    """Whether it is read to its end."""
    ends_alike: bool
    """Whether that is the end of a turn, which is to be compared with the teacher's."""

    @property
    def turn(self) -> ReadTurn:
        """As one that was read."""
        start = self.spoken.start
        num_tokens = len(self.said.ends)
        if not self.is_ended:  # white space at a place where it was cut off stands beside nothing
            num_bytes = len(self.said.text.rstrip().encode())
            num_tokens = sum(end <= num_bytes for end in self.said.ends)
        tokens = tuple(range(start, start + num_tokens))
        closing = (start + len(self.spoken.tokens) - 1,) if self.ends_alike else ()
        return ReadTurn(self.said.text, tokens, (), closing)


def _common_core(answer: _Answer, turn: ReadTurn) -> str | None:
    """What both sides say; None where the teacher's template writes something else."""
    if turn.said == answer.content:
        return answer.content
    core = answer.content.strip()
    return core if turn.said.strip() == core else None


def _speakable(said: Utterance) -> Utterance:
    """The same up to a mark of ours, which no template can be given."""
    if is_speakable(said.text):
        return said
    place = min(found for mark in (MARK, CUT) if (found := said.text.find(mark)) >= 0)
    text = said.text[:place]
    num_bytes = len(text.encode())
    return Utterance(text, tuple(end for end in said.ends if end <= num_bytes), is_whole=False)


def _inside(text: str, space: Space, *, is_ended: bool) -> str:
    """What is said, without the white space that a template has around it; that of an end that is still to come is none."""
    before, behind = space
    if not is_ended:
        return text.removeprefix(before).rstrip()
    return text.removeprefix(before).removesuffix(behind)


def _with_messages(one: Conversation, messages: Sequence[object], unfinished: set[int]) -> Conversation:
    """The same conversation with other messages, of which there may be fewer."""
    text = json.dumps({"messages": list(messages), "tools": one.tools}, ensure_ascii=False)
    return replace(one, text=text, weights=one.weights[: len(messages)], parts=(), unfinished=frozenset(unfinished))


# Both


def _alike(learnt: Example) -> tuple[PlacedExample, PlacedExample]:
    """What both read in the same tokens: each that is learnt is a span of its own."""
    ends = tuple(place + 1 if weight else NOWHERE for place, weight in enumerate(learnt.weights))
    return PlacedExample(learnt, ends), PlacedExample(learnt, ends)


def _without(said: Utterance, lead: str) -> Utterance:
    """The same without what it begins with, if it does."""
    if not lead or not said.text.startswith(lead):
        return said
    ends = tuple(max(0, end - len(lead.encode())) for end in said.ends)
    return replace(said, text=said.text[len(lead) :], ends=ends)


def _as_many(number: int, ends: Sequence[int], last: Sequence[int]) -> tuple[int, ...]:
    """Ends of so many tokens: of the first and the last ones these, and of those between none."""
    return (*ends, *[NOWHERE] * (number - len(ends) - len(last)), *last)


def _left_out(side: PlacedExample, dropped: set[int]) -> PlacedExample:
    """The same without some tokens, which weigh nothing."""
    if not dropped:
        return side
    kept = [place for place in range(len(side.ends)) if place not in dropped]
    example = side.example
    ids, weights = (tuple(values[place] for place in kept) for values in (example.ids, example.weights))
    return PlacedExample(
        replace(example, ids=tuple(map(int, ids)), weights=tuple(map(float, weights))),
        tuple(side.ends[place] for place in kept),
    )


def _first_piece(student: PlacedExample, teacher: PlacedExample, *, max_tokens: int) -> tuple[Pair, ...]:
    """What is said as far as it has room on either side: behind that, one of them would not have read the prompt."""
    pair = next(pair_pieces(student, teacher, max_tokens=max_tokens), None)
    return () if pair is None or not pair.num_spans else (pair,)
