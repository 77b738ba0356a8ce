"""What a student must not forget: a sample of other data, a part of which is mixed in and a part of which it is judged by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from stillhouse.core.config import Config, Seed
from stillhouse.core.errors import DataError
from stillhouse.data.asked import Asked, ask_in_turn, ask_to_go_on
from stillhouse.data.chat import ChatReader
from stillhouse.data.chat_forms import each_conversation, stream_conversations
from stillhouse.data.config import HELD_OUT_SHARE, ChatDataConfig, TextDataConfig
from stillhouse.data.examples import Example
from stillhouse.data.paired import Pair
from stillhouse.data.paired_text import PairedChatReader, PairedTextReader
from stillhouse.data.sampling import reservoir, stratified
from stillhouse.data.split import Texts, split_held_out
from stillhouse.data.tables import Record
from stillhouse.data.text import each_row, stream_rows, to_example

KEY = "replay.path"

AnyData = TextDataConfig | ChatDataConfig


class ReplayDataConfig(Config):
    """Rows of other data, mixed into those to train on: against forgetting, or as a corpus beside answers."""

    path: Path
    """A file or folder as `data.path` of its kind. What stands in `data.path` too is left out."""
    kind: Literal["text", "chat"] | None = None
    """What its rows are; those of `data.kind` if left out."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all rows that are learnt from; 0 only measures."""
    learn: Literal["objectives", "next_token"] = "objectives"
    """What is learnt of them: the recipe's objectives, or the text alone, apart from the objectives."""
    weight: PositiveFloat = 1.0
    """Of `learn: next_token`: what its mean counts for, beside the weights of the objectives."""
    sample: PositiveInt | None = None
    """How many documents are taken out of the file; all if left out."""
    choose: Literal["first", "reservoir", "stratified"] | None = None
    """Which: the first, any, or each value of the column `by` in its proportion. `reservoir` if left out."""
    by: str | None = None
    """A column of a text or a whole number, such as a topic or a source."""
    held_out: Annotated[float, Field(gt=0, le=0.5)] = HELD_OUT_SHARE
    """Share of these documents that is never mixed in, and everybody is judged by."""
    seed: Seed = 0
    """Which documents are drawn, and in which order they come."""

    @model_validator(mode="before")
    @classmethod
    def _a_sample_is_chosen_somehow(cls, values: Any) -> Any:
        """A resolved recipe says how."""
        if not isinstance(values, dict) or values.get("sample") is None or values.get("choose") is not None:
            return values
        return {**values, "choose": "reservoir"}

    @model_validator(mode="after")
    def _what_is_said_means_something(self) -> "ReplayDataConfig":
        if self.choose is not None and self.sample is None:
            raise ValueError(
                f"choose is {self.choose}, but all documents are taken. Say under sample how many, or leave choose out."
            )
        if (self.choose == "stratified") != (self.by is not None):
            raise ValueError(
                f"choose is {self.choose or 'not given'} and by is {self.by!r}, but choose: stratified and by, the column with "
                "the kinds, go together. Give both or neither."
            )
        if self.learn == "objectives" and self.weight != 1:
            raise ValueError(
                f"weight is {self.weight:g}, but with learn: objectives each objective has its own. Leave weight out, or say "
                "learn: next_token."
            )
        return self

    def of_kind(self, kind: str) -> "ReplayDataConfig":
        """With the kind said, this one where it is not."""
        return self if self.kind is not None else self.model_copy(update={"kind": kind})


@dataclass(frozen=True)
class Replayed:
    """A sample in tokens: what may be mixed in, and what everybody is judged by."""

    asked: tuple[Asked, ...]
    """To mix in, as documents in one tokenizer's tokens; empty where there are pairs."""
    held_out: tuple[Example, ...]
    num_documents: int = 0
    num_held_out: int = 0
    pairs: tuple[Pair, ...] = ()
    """To mix in, where teacher and student have tokens of their own."""
    held_out_told: tuple[Example, ...] = ()
    """What is held out as that teacher reads it."""
    notes: tuple[str, ...] = ()
    """What a user may want to know, a line each."""


def read_replay(
    config: ReplayDataConfig,
    data: AnyData,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data_paths: Sequence[Path],
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Replayed:
    """Draw, split and tokenise what `config` names, as `data` is. What stands in `data_paths` is not in it.

    Raises:
        DataError: for a file or a row that is missing or wrong, and where too little is left.
        ModelError: if the tokenizer cannot write conversations.
    """
    kind = "chat" if isinstance(data, ChatDataConfig) else data.kind
    config = config.of_kind(kind)
    taken = Texts(chain.from_iterable(map(_EACH[kind], data_paths)) if config.kind == kind else ())
    stream = _Stream(config, taken)
    rows = _chosen(stream, config)
    if not rows:
        said = "has nothing that data.path has not" if stream.num_left_out else "holds no rows"
        raise DataError(f"{KEY} {str(config.path)!r} {said}. Name another file.")
    train, held_out = split_held_out(rows, share=config.held_out, hint=f", in {KEY}")
    if teacher_tokenizer is None:
        found = _in_one(config, data, tokenizer, (train, held_out))
    else:
        found = _in_two(config, data, tokenizer, teacher_tokenizer, (train, held_out))
    found = replace(found, num_documents=len(train), num_held_out=len(held_out))
    if not (found.asked or found.pairs) or not found.held_out:
        raise DataError(
            f"{KEY} {str(config.path)!r} has no token to learn, or none to judge by. Give other rows, or more."
        )
    return replace(found, notes=(*found.notes, *_notes(found, stream)))


def _notes(found: Replayed, stream: "_Stream") -> Iterator[str]:
    yield f"replay: {found.num_documents:,} documents to mix in and {found.num_held_out:,} held out"
    if stream.num_left_out:
        yield f"replay: {stream.num_left_out:,} left out, as they stand in data.path too"


@dataclass
class _Stream:
    """The rows of a file as they come by, each with its kind, save those that are taken."""

    config: ReplayDataConfig
    taken: Texts
    num_left_out: int = field(default=0, init=False)

    def __call__(self) -> Iterator[tuple[str, Any]]:
        self.num_left_out = 0
        for record, row in _STREAMS[str(self.config.kind)](self.config.path, key=KEY):
            if row.text in self.taken:
                self.num_left_out += 1
            else:
                yield self._kind_of(record), row

    def _kind_of(self, record: Record) -> str:
        return "" if self.config.by is None else record.label(self.config.by, key="replay.by")


_EACH: dict[str, Callable[[Path], Iterator[Any]]] = {"text": each_row, "chat": each_conversation}
_STREAMS: dict[str, Callable[..., Iterator[tuple[Record, Any]]]] = {"text": stream_rows, "chat": stream_conversations}


def _chosen(stream: _Stream, config: ReplayDataConfig) -> list[Any]:
    rows = (row for _, row in stream())
    seed = f"{config.seed}, replay"
    match config.choose:
        case "reservoir":
            return reservoir(rows, size=config.sample or 0, seed=seed)
        case "stratified":
            return stratified(stream, size=config.sample or 0, seed=seed)
    return list(islice(rows, config.sample))


def _in_one(
    config: ReplayDataConfig,
    data: AnyData,
    tokenizer: PreTrainedTokenizerBase,
    sides: Sequence[Sequence[Any]],
) -> Replayed:
    """Both sides where teacher and student read the same tokens."""
    max_tokens, notes = data.sequence_tokens, list[str]()
    if config.kind == "text":
        found = [
            [ask_to_go_on(row, to_example(row, tokenizer), max_tokens=max_tokens) for row in side] for side in sides
        ]
    else:
        has_messages = any(not one.segments for side in sides for one in side)
        chats = ChatReader(tokenizer, **_chat_options(data), needs_template=has_messages)
        found = [[ask_in_turn(read, max_tokens=max_tokens) for _, read in chats.learnt(side)] for side in sides]
        notes = [f"replay: {count:,} left out, with {reason}" for reason, count in chats.dropped.items()]
    train, held_out = (tuple(one for one in side if one.answered) for side in found)
    return Replayed(train, tuple(piece for one in held_out for piece in one.answered), notes=tuple(notes))


def _in_two(
    config: ReplayDataConfig,
    data: AnyData,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    sides: Sequence[Sequence[Any]],
) -> Replayed:
    """The same where each reads its own."""
    if config.kind == "text":
        texts = PairedTextReader(tokenizer, teacher, max_tokens=data.sequence_tokens)
        train, held_out = (texts.pairs(side) for side in sides)
    else:
        chats = PairedChatReader(tokenizer, teacher, max_tokens=data.sequence_tokens, **_chat_options(data))
        train, held_out = (chats.pairs(side) for side in sides)
    ours, theirs = tuple(pair.student for pair in held_out), tuple(pair.teacher for pair in held_out)
    return Replayed((), ours, pairs=tuple(train), held_out_told=theirs)


def _chat_options(data: AnyData) -> dict[str, Any]:
    """Conversations are learnt as those of the data are."""
    return {"weight": data.weight, "thinking": data.thinking} if isinstance(data, ChatDataConfig) else {}
