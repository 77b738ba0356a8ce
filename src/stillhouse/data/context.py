"""What the teacher alone reads: conversations as the student and as the teacher see them, both with the same answers."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal

from torch import Tensor

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import Numbers
from stillhouse.data.asked import Asked, Told, ask_in_turn
from stillhouse.data.chat import ChatReader, ChatWeight
from stillhouse.data.chat_forms import Conversation, is_speakable, read_conversations
from stillhouse.data.config import StyleConfig
from stillhouse.data.examples import Example
from stillhouse.data.kept import lengths_of
from stillhouse.data.packing import SidedRows, to_batch
from stillhouse.data.tables import read_file

Message = dict[str, Any]


@dataclass(frozen=True)
class Style:
    """One context, read from its files."""

    name: str
    system: str = ""
    examples: tuple[Message, ...] = ()
    before_question: str = ""
    column: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it tells nothing."""
        return not (self.system or self.examples or self.before_question or self.column)


def read_style(config: StyleConfig, *, number: int) -> Style:
    """A style with what stands in its files.

    Raises:
        DataError: naming the key of the recipe, if a file is missing or wrong, or holds nothing.
    """
    key = f"data.teacher_context.styles.{number}"
    system = _text(config.system_path, key=f"{key}.system_path") if config.system_path else config.system
    examples = tuple(message.model_dump() for message in config.examples)
    if config.examples_path:
        examples = _examples(config.examples_path, key=f"{key}.examples_path")
    style = Style("", system, examples, config.before_question, config.column)
    if not is_speakable(json.dumps([system, examples, config.before_question], ensure_ascii=False)):
        raise DataError(
            f"{key} holds half a character, or U+10FFF0 or U+10FFF1, which mark turns here: cut or mend it."
        )
    return replace(style, name=f"{number + 1}: {_named(style)}")


def _named(style: Style) -> str:
    parts = {
        "system prompt": style.system,
        f"{len(style.examples)} messages of examples": style.examples,
        "text before the question": style.before_question,
        f"column {style.column}": style.column,
    }
    return ", ".join(name for name, part in parts.items() if part) or "nothing"


def _text(path: Path, *, key: str) -> str:
    if not path.is_file():
        raise DataError(f"{key} {str(path)!r} is no file. Name a text file with the prompt.")
    text = read_file(path).strip()
    if not text:
        raise DataError(f"{key} {str(path)!r} holds no text.")
    return text


def _examples(path: Path, *, key: str) -> tuple[Message, ...]:
    messages = [dict(message) for one in read_conversations(path, key=key) for message in one.messages]
    if any(message["role"] == "system" for message in messages):
        raise DataError(f"{key} {str(path)!r} holds a system prompt. Say it under system, and leave it out there.")
    return tuple(messages)


def in_context(one: Conversation, style: Style, *, weight: ChatWeight) -> Conversation:
    """The conversation as the teacher reads it. The same turns are learnt; those of the examples have no weight.

    Raises:
        DataError: naming the row, if something comes before its question and it has none.
    """
    if style.is_empty:
        return one
    if one.segments:
        raise DataError(
            f"{one.where} is written out already, so data.teacher_context has no place in it. Give 'messages'."
        )
    messages: list[Message] = [dict(message) for message in one.messages]
    notes = (style.before_question, dict(one.notes).get(style.column, ""))
    text = "\n\n".join(part for part in notes if part)
    if text:
        number = _question(one, messages, weight)
        messages[number]["content"] = f"{text}\n\n{messages[number]['content']}"
    has_system = bool(messages) and messages[0]["role"] == "system"
    first: list[Message] = messages[:1] if has_system else []
    if style.system:
        own = [message["content"] for message in first if message["content"]]
        first = [{"role": "system", "content": "\n\n".join([style.system, *own])}]
    whole = [*first, *style.examples, *messages[has_system:]]
    weights = (0.0,) * (len(whole) - len(messages) + has_system) + one.weights[has_system:]
    said = json.dumps({"messages": whole, "tools": one.tools}, ensure_ascii=False)
    shift = len(whole) - len(messages)
    return replace(
        one,
        text=said,
        weights=weights,
        where=f"{one.where}, with data.teacher_context",
        parts=((None,) * shift + one.parts) if one.parts else (),
        unfinished=frozenset(number + shift for number in one.unfinished),
    )


def _question(one: Conversation, messages: Sequence[Message], weight: ChatWeight) -> int:
    """The user's message before the first turn that is learnt."""
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant" and one.weights[n]]
    learnt = answers[-1:] if weight == "last" else answers[:1]
    asked = [n for n in range(learnt[0]) if messages[n]["role"] == "user"] if learnt else []
    if not asked:
        raise DataError(
            f"{one.where} has no question before the turn that is learnt, where data.teacher_context puts a text. Remove the "
            "row, or use system or examples."
        )
    return asked[-1]


class ContextReader:
    """Turns conversations into prompts with answers on both sides; counts what it leaves out.

    On the teacher's side nothing is ever cut that holds a context: what does not fit is left out. Both sides end in the same
    tokens, or else the row is left out, too.
    """

    def __init__(self, reader: ChatReader, styles: Sequence[Style], *, max_tokens: int) -> None:
        self.reader, self.styles, self.max_tokens = reader, styles, max_tokens
        self.left_out: Counter[str] = Counter()
        """Rows that cannot be shown to both, by reason."""

    @property
    def columns(self) -> list[str]:
        """What each row must have beside its messages."""
        return list(dict.fromkeys(style.column for style in self.styles if style.column))

    def asked(
        self, conversations: Iterable[Conversation], *, rows: Literal["one", "all"], seed: int, answer_tokens: int = 0
    ) -> Iterator[Asked]:
        """Each conversation that has something to learn, under one style, drawn by its text and the seed, or under each.

        Behind its prompt there is room for another answer of `answer_tokens`.
        """
        for one, _ in self.reader.each_learnt(conversations):
            numbers = range(len(self.styles))
            chosen = numbers if rows == "all" else [Random(f"{seed}, {one.text}").choice(numbers)]
            yield from (asked for number in chosen for asked in self._under(one, number, answer_tokens))

    def alike(self, conversations: Iterable[Conversation]) -> Iterator[Asked]:
        """The same without any context: the teacher reads what the student reads."""
        kept = self.reader.each_learnt(conversations)
        return (_alike(ask_in_turn(read, max_tokens=self.max_tokens)) for _, read in kept)

    def _under(self, one: Conversation, number: int, answer_tokens: int) -> list[Asked]:
        style, ours = self.styles[number], self.reader.read(one)
        if style.is_empty:
            asked = ask_in_turn(ours, max_tokens=self.max_tokens)
            return [replace(asked, told=Told(asked.prompt, asked.answered, number))]
        theirs = self.reader.read(in_context(one, style, weight=self.reader.weight))
        reason = self._reason(ours.example, theirs.example)
        if reason:
            self.left_out[reason] += 1
            return []
        asked, told = (ask_in_turn(read, max_tokens=self.max_tokens) for read in (ours, theirs))
        if len(told.prompt) + answer_tokens > self.max_tokens:
            self.left_out[
                f"no room for an answer of source.sampling.max_new_tokens ({answer_tokens}) behind the teacher's context in "
                f"data.sequence_tokens ({self.max_tokens})"
            ] += 1
            return []
        return [replace(asked, told=Told(told.prompt, told.answered, number))]

    def _reason(self, ours: Example, theirs: Example) -> str:
        """Why a row is left out; empty where it is not."""
        longest = max(len(ours.ids), len(theirs.ids))
        if longest > self.max_tokens:
            return f"more tokens than data.sequence_tokens ({self.max_tokens}) where the teacher has read its context"
        if _learnt(ours) != _learnt(theirs):
            return "answers that the chat template writes otherwise behind the context"
        return ""


def _alike(asked: Asked) -> Asked:
    return replace(asked, told=Told(asked.prompt, asked.answered))


def _learnt(example: Example) -> list[tuple[int, float]]:
    """The tokens that are learnt, with their weights; nothing predicts the first."""
    pairs = zip(example.ids[1:], example.weights[1:], strict=True)
    return [(token, weight) for token, weight in pairs if weight]


@dataclass(frozen=True)
class Views:
    """A document, or a piece of one, as the student reads it and as the teacher does."""

    student: Example
    teacher: Example
    """Known by the document that the student's is."""
    style: int | None = None
    """Which context the teacher has read; None for none."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens that the student reads, and the teacher."""
        return len(self.student.ids), len(self.teacher.ids)


def views_of(asked: Iterable[Asked]) -> Iterator[Views]:
    """What the data answers, piece by piece, as both sides read it."""
    return (view for one in asked for view in _views(one))


def _views(asked: Asked) -> list[Views]:
    told = asked.told or Told(asked.prompt, asked.answered)
    pairs = zip(asked.answered, told.answered, strict=True)
    return [Views(ours, replace(theirs, part_of=ours.document), told.style) for ours, theirs in pairs]


class ContextRows(SidedRows):
    """Views packed into rows, whose lengths are those of the longer side."""

    @property
    def views(self) -> Sequence[Views]:
        """All of them."""
        return self.members

    @cached_property
    def lengths(self) -> Numbers:
        """Tokens of each row on its longer side."""
        return self.rows.totals(lengths_of(self.members))

    def collate(self, items: Sequence[Sequence[Views]]) -> dict[str, Tensor]:  # type: ignore[override]
        """Rows as tensors, [batch, seq] of either side, each as wide as its longest row."""
        return collated(items)


def collated(rows: Sequence[Sequence[Views]]) -> dict[str, Tensor]:
    """Rows of documents as the tensors of a `ContextBatch`."""
    student, teacher = (
        to_batch([[view.student for view in row] for row in rows]),
        to_batch([[view.teacher for view in row] for row in rows]),
    )
    return {**student.tensors(), **{f"teacher_{name}": tensor for name, tensor in teacher.tensors().items()}}
