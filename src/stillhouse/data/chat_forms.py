"""Conversations in the forms that people keep them in, each told by its keys."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.faults import nearest, said
from stillhouse.core.objects import as_written
from stillhouse.data.chat_template import CUT, MARK, REASONING_KEYS, Message, Span
from stillhouse.data.tables import Record, files_in, is_whole, records_in

FORMATS = (".jsonl", ".json", ".csv", ".tsv")

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""What a speaker is called in the data, and in a template."""

WEIGHT_KEYS = ("weight", "train", "training")
"""What says of a turn whether it is learnt: a number of OpenAI's, a truth of axolotl's. Where a turn has several, they count
together."""

DETAIL_KEYS = ("train_detail", "training_detail")
"""What says it of parts of a turn, as axolotl has it: by places in its text, the last of which is within the part."""


@dataclass(frozen=True)
class Conversation:
    """Messages in the one form that templates read, and how much each counts by the data's own word."""

    text: str
    """Messages and tools as JSON: what a conversation is known again by."""
    weights: tuple[float, ...]
    """One a message; what is not the assistant's has 0."""
    where: str = field(default="it", compare=False)
    form: str = field(default="", compare=False)
    notes: tuple[tuple[str, str], ...] = ()
    """Columns that were asked for beside the messages, and what the row has there."""
    parts: tuple[tuple[Span, ...] | None, ...] = ()
    """Of each message the characters that are learnt, where these are not all; empty where all are in all messages."""
    unfinished: frozenset[int] = frozenset()
    """Numbers of messages that a limit cut off: their ends of turn are not learnt."""

    @property
    def messages(self) -> list[Message]:
        """Who says what, in order."""
        return list(json.loads(self.text)["messages"])

    @property
    def tools(self) -> list[Any]:
        """What the assistant can call; often nothing."""
        return list(json.loads(self.text)["tools"])

    @property
    def segments(self) -> list[tuple[str, bool]]:
        """Texts that are written out already, and whether each is learnt; nothing where there are messages."""
        return [(text, learnt) for text, learnt in json.loads(self.text).get("segments", ())]

    def parts_of(self, number: int) -> tuple[Span, ...] | None:
        """Which characters of a message are learnt; None where all are."""
        return self.parts[number] if self.parts else None


@dataclass(frozen=True)
class Form:
    """A way to keep conversations: what it is called, the keys that tell it, and how a row is read."""

    name: str
    shown: str
    is_in: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], str], list[Message]]


def read_conversations(path: Path, *, key: str = "data.path", notes: Sequence[str] = ()) -> list[Conversation]:
    """The conversations of a file or folder; each file keeps to one form, which is told by its keys. `notes` names columns
    beside it that every row must have: each a text, or a list of them.

    Raises:
        DataError: naming file and line, if a row is in no form that is known, or in another than the rows before it.
    """
    return list(each_conversation(path, key=key, notes=notes))


def conversation(
    messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Any] = (), where: str = "the conversation", form: str = ""
) -> Conversation:
    """One conversation from messages in any of the spellings that files use.

    Raises:
        DataError: for a message without a speaker that is known, or without a text.
    """
    read = [_read_message(message, number, where=where) for number, message in enumerate(messages, start=1)]
    weights = [
        _weight_of(m, where=where) if r["role"] == "assistant" else 0.0 for m, r in zip(messages, read, strict=True)
    ]
    text = _as_json({"messages": read, "tools": list(tools)}, where=where)
    parts = [_parts_of(m, r, n, where=where) for n, (m, r) in enumerate(zip(messages, read, strict=True), start=1)]
    unfinished = frozenset(number for number, message in enumerate(messages) if message.get("finished") is False)
    has_parts = any(part is not None for part in parts)
    return Conversation(
        text, tuple(weights), where, form, parts=tuple(parts) if has_parts else (), unfinished=unfinished
    )


def written_out(segments: Sequence[tuple[str, bool]], *, where: str = "it", form: str = "") -> Conversation:
    """One conversation from texts that need no template, each learnt or not."""
    values = {"messages": [], "tools": [], "segments": [list(segment) for segment in segments]}
    return Conversation(_as_json(values, where=where), (), where=where, form=form)


def as_row(
    one: Conversation, *, messages: Sequence[Message] | None = None, unfinished: Collection[int] | None = None
) -> dict[str, Any]:
    """The conversation as a row of a file, which reads to the same again; other `messages` take the place of its own."""
    if one.segments:
        return {"segments": [{"text": text, "label": learnt} for text, learnt in one.segments]}
    cut_off = one.unfinished if unfinished is None else unfinished
    rows = [dict(message) for message in (one.messages if messages is None else messages)]
    for number, (row, weight) in enumerate(zip(rows, one.weights, strict=True)):
        if row["role"] == "assistant" and weight != 1:
            row["weight"] = weight
        if number in cut_off:
            row["finished"] = False
        parts = one.parts_of(number) if messages is None else None
        if parts is not None:
            named = parts or ((0, len(row["content"])),)
            row[DETAIL_KEYS[0]] = [
                {"begin_offset": start, "end_offset": stop - 1, "train": bool(parts)} for start, stop in named
            ]
    return {"messages": rows, **({"tools": one.tools} if one.tools else {})}


def _as_json(values: Mapping[str, Any], *, where: str) -> str:
    try:
        text = json.dumps(values, ensure_ascii=False)
    except RecursionError:
        raise DataError(f"{where} is nested without end. Mend or remove it.") from None
    if not is_speakable(text):
        raise DataError(
            f"{where} holds half a character, or U+10FFF0 or U+10FFF1, which mark turns here: cut or mend it."
        )
    return text


def _refuse_another_form(record: Record, form: Form) -> None:
    if _form_of(record) is not form:
        raise DataError(
            f"{record.where} has the keys {_keys(record)} ({_form_of(record).name}), but the file begins as {form.name}. "
            "Keep to one form a file."
        )


def each_conversation(path: Path, *, key: str = "data.path", notes: Sequence[str] = ()) -> Iterator[Conversation]:
    """As `read_conversations`, one after the other: more of them than memory holds.

    Raises:
        DataError: as there.
    """
    is_empty = True
    for record, one in stream_conversations(path, key=key):
        is_empty = False
        yield replace(one, notes=_notes_of(record, notes)) if notes else one
    if is_empty:
        raise DataError(f"{key} {as_written(path)!r} holds no rows. Give it at least two.")


def stream_conversations(path: Path, *, key: str = "data.path") -> Iterator[tuple[Record, Conversation]]:
    """As `read_conversations`, one after the other, each with the row that it was read from."""
    for file in files_in(path, key=key, formats=FORMATS):
        form: Form | None = None
        for record in records_in(file):
            form = form or _form_of(record)
            _refuse_another_form(record, form)
            yield record, _read_record(record, form)


def _read_record(record: Record, form: Form) -> Conversation:
    if form is SEGMENTS:
        return written_out(_read_segments(record.values, record.where), where=record.where, form=form.name)
    return conversation(_with_system(record, form), tools=tools_of(record), where=record.where, form=form.name)


def _notes_of(record: Record, columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What the row has in these columns, as text."""
    return tuple((column, _note(record, column)) for column in columns)


def _note(record: Record, column: str) -> str:
    value = record.values.get(column)
    parts = value if isinstance(value, list) else [value]
    text = "\n\n".join(part for part in parts if isinstance(part, str))
    if not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"{record.where} has {said(value)} under {column!r}, which data.teacher_context names. Expected a text or a list "
            "of texts."
        )
    if not is_speakable(text):
        raise DataError(f"{record.where} holds half a character, or a mark of ours, under {column!r}: cut or mend it.")
    return text


def is_speakable(text: str) -> bool:
    """Whether a template can be given it: whole characters, and none of the two that mark turns here."""
    return is_whole(text) and MARK not in text and CUT not in text


def _form_of(record: Record) -> Form:
    for form in FORMS:
        if form.is_in(record.values):
            return form
    for keys, advice in OTHER_FORMS.items():
        if set(keys) <= record.values.keys():
            raise DataError(f"{record.where} has the keys {_keys(record)}, which are no conversation: {advice}")
    known = "; ".join(f"{form.name}: {form.shown}" for form in FORMS)
    raise DataError(f"{record.where} has the keys {_keys(record)}, which are no conversation. Known: {known}.")


def _keys(record: Record) -> str:
    return ", ".join(repr(name) for name in record.values)


def _with_system(record: Record, form: Form) -> list[Message]:
    """The messages, after a system prompt that stands in a column of its own."""
    messages = form.read(record.values, record.where)
    system = record.values.get("system")
    if isinstance(system, str) and system.strip() and not (messages and _role_name(messages[0]) == "system"):
        return [{"role": "system", "content": system}, *messages]
    return messages


def tools_of(record: Record) -> list[Any]:
    """Tools as templates read them; some files keep them as JSON in a string."""
    tools = record.values.get("tools") or record.values.get("functions") or []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise DataError(f"{record.where} has {said(tools)} under 'tools'. Expected a list of tools.") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{record.where} has {said(tools)} under 'tools'. Expected a list of objects.")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


# Messages


def _read_message(message: Any, number: int, *, where: str) -> Message:
    where = f"{where}, message {number}"
    if not isinstance(message, Mapping):
        raise DataError(f"{where} is {said(message)}. Expected an object with a role and a content.")
    name = _role_name(message)
    if not isinstance(name, str) or name not in ROLES:
        raise DataError(f"{where} has the role {said(name)}.{nearest(str(name), list(ROLES))}")
    kept = {key: message[key] for key in ("name", "tool_call_id", *REASONING_KEYS) if message.get(key) is not None}
    content = message.get("content", message.get("value"))
    calls = _calls_in(content, where=where) if name == "function_call" else _calls_of(message, where=where)
    text = "" if name == "function_call" else _text_of(content, where=where)
    if ROLES[name] == "assistant" and not calls and not text.strip():
        raise DataError(f"{where} lets the assistant say nothing. Give it a text or remove the row.")
    # Some templates ask whether there is such a key, not what it holds.
    return {"role": ROLES[name], "content": text, **kept, **({"tool_calls": calls} if calls else {})}


def _role_name(message: Mapping[str, Any]) -> Any:
    return message.get("role", message.get("from"))


def _text_of(content: Any, *, where: str) -> str:
    """The text of a message: itself, or its parts that are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type", "text") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} says {said(content)}. Expected text, or a list of parts that are all text.")
    return "".join(str(text) for text in texts)


def _calls_of(message: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if not isinstance(calls, list):
        raise DataError(f"{where} has {said(calls)} under 'tool_calls'. Expected a list.")
    return [_call(call, where=where) for call in calls]


def _calls_in(content: Any, *, where: str) -> list[dict[str, Any]]:
    """The calls that ShareGPT keeps as JSON in the text of a turn."""
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        raise DataError(
            f"{where} calls a function by {said(content)}. Expected JSON with name and arguments."
        ) from None
    return [_call(call, where=where) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, *, where: str) -> dict[str, Any]:
    """A call as templates read it: arguments as an object, not as the JSON text that OpenAI keeps them in."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError(f"{where} calls {said(call)}. Expected an object with name and arguments.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            read = arguments
        arguments = read if isinstance(read, dict) else arguments
    known = {"id": call["id"]} if call.get("id") is not None else {}
    return {**known, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _weight_of(message: Mapping[str, Any], *, where: str) -> float:
    """What the data says that a turn counts; 1 where it says nothing."""
    weight = 1.0
    for key in WEIGHT_KEYS:
        value = message.get(key)
        if value is not None:
            if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
                raise DataError(
                    f"{where} has {said(value)} under {key!r}. Expected true, false, or a number from 0 on."
                )
            weight *= float(value)
    return weight


def _parts_of(message: Mapping[str, Any], read: Message, number: int, *, where: str) -> tuple[Span, ...] | None:
    """The characters that the data wants learnt, where it says so of parts of a turn: what it does not name is not learnt."""
    key = next((key for key in DETAIL_KEYS if message.get(key)), None)
    if key is None or read["role"] != "assistant":
        return None
    details, last, found = message[key], len(read["content"]) - 1, list[Span]()
    for detail in details if isinstance(details, list) else [details]:
        match detail:
            case {"begin_offset": int(begin), "end_offset": int(end), "train": bool(train)} if (
                0 <= begin <= end <= last
            ):
                found += [(begin, end + 1)] if train else []
            case _:
                raise DataError(
                    f"{where}, message {number} has {said(detail)} under {key!r}. Expected begin_offset and end_offset, places "
                    f"from 0 to {last} of which the second is not before the first, and train, true or false."
                )
    return tuple(sorted(found))


# Forms


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, Mapping) and {"role", "from"} & message.keys() for message in value)
    )


def _column(name: str) -> Callable[[Mapping[str, Any], str], list[Message]]:
    return lambda values, _: list(values[name])


def _read_completion(values: Mapping[str, Any], where: str) -> list[Message]:
    """Only what completes the prompt is learnt: turns of the assistant inside of the prompt are history."""
    prompt, completion = (
        value if isinstance(value, list) else [{"role": role, "content": value}]
        for role, value in (("user", values["prompt"]), ("assistant", values["completion"]))
    )
    if isinstance(values.get("label"), bool):
        raise DataError(
            f"{where} says under 'label' whether its completion is a good one. Keep the good ones, and leave 'label' out."
        )
    return [*({**message, "weight": 0} for message in prompt), *completion]


def _read_alpaca(values: Mapping[str, Any], where: str) -> list[Message]:
    answer = values["output"] if "output" in values else values["response"]
    given = values.get("input") or values.get("context") or ""
    asked = "\n\n".join(_text_of(text, where=where) for text in (values["instruction"], given) if text)
    return [*_read_history(values.get("history") or [], where), *_asked(asked, answer)]


def _read_history(history: Any, where: str) -> list[Message]:
    """Turns before, in pairs, as LLaMA-Factory has them."""
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise DataError(f"{where} has {said(history)} under 'history'. Expected a list of pairs: question, answer.")
    return [message for pair in history for message in _asked(*pair)]


def _asked(question: Any, answer: Any) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _read_segments(values: Mapping[str, Any], where: str) -> list[tuple[str, bool]]:
    for number, segment in enumerate(values["segments"], start=1):
        match segment:
            case {"text": str(), "label": bool()}:
                continue
        raise DataError(f"{where}, segment {number} is {said(segment)}. Expected a text, and a label: true or false.")
    return [(segment["text"], segment["label"]) for segment in values["segments"]]


def _no_messages(values: Mapping[str, Any], where: str) -> list[Message]:
    raise AssertionError("segments are written out already")


def _is_text_or_messages(value: Any) -> bool:
    return isinstance(value, str) or _are_messages(value)


SEGMENTS = Form(
    "segments of axolotl",
    '{"segments": [{"text", "label"}, ...]}',
    lambda values: isinstance(values.get("segments"), list) and bool(values["segments"]),
    _no_messages,
)
"""Texts that are written out already: no template touches them."""

FORMS: Sequence[Form] = (
    Form(
        "messages of OpenAI, TRL or axolotl",
        '{"messages": [{"role", "content"}, ...]}',
        lambda values: _are_messages(values.get("messages")),
        _column("messages"),
    ),
    Form(
        "ShareGPT conversations",
        '{"conversations": [{"from", "value"}, ...]}',
        lambda values: _are_messages(values.get("conversations")),
        _column("conversations"),
    ),
    Form(
        "prompt and completion",
        '{"prompt", "completion"}, each a text or messages',
        lambda values: all(_is_text_or_messages(values.get(name)) for name in ("prompt", "completion")),
        _read_completion,
    ),
    Form(
        "Alpaca columns",
        '{"instruction", "input", "output"}',
        lambda values: "instruction" in values and bool({"output", "response"} & values.keys()),
        _read_alpaca,
    ),
    SEGMENTS,
)
"""In this order: what is messages too may have more keys."""

_PREFERENCE = (
    "they are a preference of one answer over another. Use data.kind preferences, or keep the good answer alone, as "
    "'completion' beside its 'prompt'."
)
OTHER_FORMS: Mapping[tuple[str, ...], str] = {
    ("chosen", "rejected"): _PREFERENCE,
    ("preferred_output", "non_preferred_output"): _PREFERENCE,
    ("prompt", "completions"): "they judge an answer step by step. Join the good steps into one 'completion'.",
    ("prompt",): "a prompt alone has no answer. Give its 'completion'.",
    ("text",): "a text alone has no turns. Use data.kind text, or give its turns as 'messages'.",
    ("input_ids",): "they are tokens already. Give the text that they stand for.",
}
"""What else people keep by such keys, and what to do with it."""


class FileCounts:
    """How many conversations each file holds, and in which form, as they are gone through."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, one: Conversation) -> Conversation:
        """The same, counted."""
        self._counts[one.where.rpartition(", ")[0], one.form] += 1
        return one

    @property
    def notes(self) -> list[str]:
        """A line a file: the form that it is in, and how much it holds."""
        return [f"{Path(file).name}: {form}, {count:,} rows" for (file, form), count in self._counts.items()]
