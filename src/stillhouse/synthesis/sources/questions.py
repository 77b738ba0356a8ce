"""Questions that somebody has: from a file, or from templates with slots."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.data.chat_forms import conversation
from stillhouse.data.tables import Record as Line
from stillhouse.data.tables import read_records, split_lines
from stillhouse.synthesis.prompts import filled_templates
from stillhouse.synthesis.records import Record

FORMATS = (".jsonl", ".json", ".csv", ".tsv")
COLUMNS = ("instruction", "question", "prompt", "text")
"""Where a row's question is looked for, in this order, if it has no messages."""
ANSWERS = ("completion", "output", "response", "answer")
"""Where the data's own answer to it is."""


def read_questions(path: Path, *, key: str = "synthesis.path", columns: Sequence[str] = ()) -> list[Record]:
    """The questions of a file or folder: conversations up to the last thing that a user says, rows with a question in one of
    `COLUMNS`, Self-Instruct's tasks with their first instance, the first of Vicuna's `turns`, or a `.txt` file with one a line.
    What the data answers is kept in the lineage as `reference`, and other `columns` by their names.

    Raises:
        DataError: naming file and line, for a row without a question.
    """
    lines = read_records(path, key=key, formats=FORMATS, splitter=split_lines)
    found = [_question(line, key) for line in lines]
    return [_with_columns(record, line, columns, key) for record, line in zip(found, lines, strict=True)]


def _with_columns(record: Record, line: Line, columns: Sequence[str], key: str) -> Record:
    missing = [name for name in columns if name not in line.values]
    if missing:
        raise DataError(f"{line.where} of {key} has no {missing[0]!r}, which synthesis.columns names.")
    return replace(record, lineage={**record.lineage, **{name: line.values[name] for name in columns}})


def _question(line: Line, key: str) -> Record:
    values = line.values
    messages = values.get("messages") or values.get("conversations")
    if messages is None and isinstance(values.get("prompt"), list):
        messages = [*values["prompt"], *(values["completion"] if isinstance(values.get("completion"), list) else [])]
    turns = values.get("turns")
    if messages is None and isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip():
        return _record(line.where, None).say("user", turns[0].strip())
    if messages is not None:
        return _last_question(messages, line.where, key)
    column = next((name for name in COLUMNS if isinstance(values.get(name), str) and values[name].strip()), None)
    if column is None:
        raise DataError(
            f"{line.where} of {key} has no question: expected a text under one of {', '.join(COLUMNS)}, or messages with a "
            "user's turn."
        )
    text, reference = values[column].strip(), next((values[name] for name in ANSWERS if values.get(name)), None)
    instance = values.get("instances")
    if isinstance(instance, list) and instance and isinstance(instance[0], Mapping):
        values, reference = {**values, **instance[0]}, instance[0].get("output")
    if isinstance(values.get("input"), str) and values["input"].strip():
        text = f"{text}\n\n{values['input'].strip()}"
    return _record(line.where, reference).say("user", text)


def _last_question(messages: Any, where: str, key: str) -> Record:
    """A conversation up to the last thing that a user says, and what was answered to it."""
    if not isinstance(messages, list):
        raise DataError(f"{where} of {key} has messages that are no list.")
    read = conversation(messages, where=where).messages
    last = next((place for place in reversed(range(len(read))) if read[place]["role"] == "user"), None)
    if last is None or any(not isinstance(message.get("content"), str) for message in read):
        raise DataError(f"{where} of {key} has no question: none of its messages is a user's.")
    answered = read[last + 1]["content"] if last + 1 < len(read) else None
    found = _record(where, answered)
    for message in read[: last + 1]:
        found = found.say(message["role"], message["content"])
    return found


def _record(where: str, reference: Any) -> Record:
    lineage = {"source": "questions", "row": where.rpartition("/")[2]}
    return Record(lineage=lineage if reference is None else {**lineage, "reference": str(reference)})


def template_questions(
    templates: Sequence[str], slots: Mapping[str, Sequence[str]], *, number: int | None = None, seed: int = 0
) -> list[Record]:
    """Ways to fill templates with slots, each once, in an order that the seed gives; the first `number` of them.

    Raises:
        ValueError: if a template names a slot that there is not.
    """
    filled = filled_templates(templates, slots, seed=seed)
    return [Record(lineage={"source": "templates"}).say("user", text) for text in filled[:number]]
