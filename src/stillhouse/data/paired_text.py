"""Texts and conversations as two tokenizers cut them: each side in its own special tokens and its own chat template."""

from collections import Counter
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

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
        self._cutters, self._max_tokens = (TextCutter(student), TextCutter(teacher)), max_tokens

    def pairs(self, rows: Iterable[Row]) -> list[Pair]:
        """Each text in pieces of at most so many tokens on either side.

        Prompt and text are cut apart, so that no token crosses from one into the other, and the end of a finished text is a
        token to learn, on each side its own.
        """
        return [pair for row in rows for pair in self._pieces(row)]

    def _pieces(self, row: Row) -> Iterator[Pair]:
        ours, theirs = (_placed_text(row, cutter) for cutter in self._cutters)
        return pair_pieces(ours, theirs, max_tokens=self._max_tokens)


def _placed_text(row: Row, cutter: TextCutter) -> PlacedExample:
    tokenizer = cutter.tokenizer
    prompt, text = cutter.cut(row.prompt), cutter.cut(row.text)
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
        self._cutters, self._max_tokens = (TextCutter(student), TextCutter(teacher)), max_tokens
        self.dropped: Counter[str] = self.student.dropped
        self.turns_apart = 0
        """Turns that the two templates write differently."""

    def pairs(self, conversations: Iterable[Conversation]) -> list[Pair]:
        """Those of them that have something to learn, in pieces of at most so many tokens on either side.

        Raises:
            DataError: naming the row that one of the templates refuses.
        """
        kept = self.student.learnt(conversations)
        return [pair for one, ours in kept for pair in self._pieces(ours, self.teacher.read(one))]

    def _pieces(self, ours: ReadConversation, theirs: ReadConversation) -> Iterator[Pair]:
        sides = ours, theirs
        ends = [[NOWHERE] * len(side.example.ids) for side in sides]
        base = 0
        for turns in zip(ours.turns, theirs.turns, strict=True):
            if _core(turns[0].said) != _core(turns[1].said):
                self.turns_apart += 1
                continue
            length = 0
            for turn, cutter, side, own in zip(turns, self._cutters, sides, ends, strict=True):
                alone = len(turns[0].closing) != len(turns[1].closing)
                length = max(
                    length, _place(turn, cutter, side.example.ids, own, base=base, as_one=alone, as_is=_same(turns))
                )
            base += length
        placed = (PlacedExample(side.example, tuple(own)) for side, own in zip(sides, ends, strict=True))
        return pair_pieces(*placed, max_tokens=self._max_tokens)


def _core(said: str) -> str:
    return said.strip()


def _same(turns: tuple[ReadTurn, ReadTurn]) -> bool:
    return turns[0].said == turns[1].said


def _place(
    turn: ReadTurn,
    cutter: TextCutter,
    ids: tuple[int, ...],
    ends: list[int],
    *,
    base: int,
    as_one: bool,
    as_is: bool,
) -> int:
    """Write down where the tokens of one turn end, counted on from `base`, and return the places that it takes.

    White space around what is said goes with it where one side alone writes it. An end of turn is one place a token, or one
    in all where the two sides have not equally many.
    """
    core = turn.said if as_is else _core(turn.said)
    before = 0 if as_is else len(turn.said.encode()) - len(turn.said.lstrip().encode())
    num_bytes = len(core.encode())
    own = cutter.ends([ids[token] for token in turn.tokens], turn.characters, turn.said)
    for token, end in zip(turn.tokens, own, strict=True):
        ends[token] = base + min(max(end - before, 0), num_bytes)
    for number, token in enumerate(turn.closing):
        ends[token] = base + num_bytes + 1 + (0 if as_one else number)
    return num_bytes + 1 + len(turn.closing)
