"""Files of questions, read: what is asked, and what is right."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.faults import nearest, said
from stillhouse.data.overlap import texts_within
from stillhouse.data.tables import Record, files_in, read_file, records_in
from stillhouse.evaluation.tasks.config import (
    AnswersConfig,
    BbqConfig,
    FileTaskConfig,
    GenerationConfig,
    GroupGapsConfig,
    MinimalPairsConfig,
    MultipleChoiceConfig,
    filled,
)

FORMATS = (".jsonl", ".json", ".csv", ".tsv")
KEY = "evaluation.tasks"


@dataclass(frozen=True)
class Choice:
    """A prompt with several continuations, one of which is right: the first, unless another is named."""

    prompt: str
    choices: tuple[str, ...]
    right: int = 0
    group: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else the row says that a task counts by."""


@dataclass(frozen=True)
class Prompted:
    """A prompt, and what would be right to write after it."""

    prompt: str
    references: tuple[str, ...]
    group: str = ""


def read_choices(task: MultipleChoiceConfig | MinimalPairsConfig | BbqConfig | GroupGapsConfig) -> list[Choice]:
    """The rows of a task whose answers are weighed.

    Raises:
        DataError: naming file and row, and what is missing in it.
    """
    match task:
        case MultipleChoiceConfig():
            return _multiple_choice(task)
        case MinimalPairsConfig():
            return _rows(task, lambda row: Choice("", _texts(row, (task.good, task.bad)), group=_group(row, task)))
        case BbqConfig():
            return _rows(task, lambda row: _bbq(row, task))
        case GroupGapsConfig():
            return _rows(task, lambda row: _group_gap(row, task))


def read_prompted(task: AnswersConfig | GenerationConfig) -> list[Prompted]:
    """The rows of a task whose answers are written.

    Raises:
        DataError: naming file and row, and what is missing in it.
    """
    return _rows(task, lambda row: Prompted(_prompt(row, task.prompt), _references(row, task), _group(row, task)))


def texts_in(task: FileTaskConfig) -> list[list[str]]:
    """Every text of every row as the file has it, in whatever column: what nobody should have been trained on."""
    return [list(texts_within(record.values)) for record in _records(task)]


def _rows(task: FileTaskConfig, read: Callable[[Record], Any]) -> list[Any]:
    found = [read(record) for record in _records(task)]
    if not found:
        raise DataError(f"{KEY}: {str(task.path)!r} holds no rows. Give it some, or leave the task out.")
    return found


def _records(task: FileTaskConfig) -> Iterator[Record]:
    for file in files_in(task.path, key=f"{KEY}.path", formats=FORMATS):
        yield from islice(records_in(file), task.limit)


def _multiple_choice(task: MultipleChoiceConfig) -> list[Choice]:
    if task.answers_path is None:
        return _rows(task, lambda row: _one_of_several(row, task, row.values.get(task.answer)))
    answers = _answers(task.answers_path)
    records = list(_records(task.model_copy(update={"limit": None})))
    if len(records) != len(answers):
        raise DataError(
            f"{KEY}.answers_path {str(task.answers_path)!r} has {len(answers)} lines, but {str(task.path)!r} has "
            f"{len(records)} questions. Give each question a line."
        )
    return [_one_of_several(*pair) for pair in _limited(task, records, answers)]


def _limited(
    task: MultipleChoiceConfig, records: Sequence[Record], answers: Sequence[str]
) -> Iterator[tuple[Record, MultipleChoiceConfig, str]]:
    for record, answer in islice(zip(records, answers, strict=True), task.limit):
        yield record, task, answer


def _answers(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{KEY}.answers_path {str(path)!r}: there is no such file.")
    return [line.strip() for line in read_file(path).splitlines() if line.strip()]


def _one_of_several(row: Record, task: MultipleChoiceConfig, answer: Any) -> Choice:
    listed, key = task.choices, f"{KEY}.choices"
    choices = row.texts(listed, key=key) if isinstance(listed, str) else _texts(row, listed)
    if answer is None:
        hint = nearest(task.answer, [str(name) for name in row.values])
        raise DataError(f"{row.where} has no {task.answer!r}, which {KEY}.answer names.{hint}")
    right = _place(answer, choices, first=task.first)
    if right is None:
        raise DataError(
            f"{row.where} says that {said(answer)} is right of {len(choices)} choices. Expected a number from {task.first} "
            "on, a letter from A on, or the text of one of them."
        )
    prompt = _prompt(row, task.prompt)
    return Choice(prompt, _after(prompt, choices, task), right, _group(row, task))


def _place(answer: Any, choices: Sequence[str], *, first: int) -> int | None:
    """Which of the choices a file means; None where it is none."""
    text = str(answer).strip()
    if isinstance(answer, str) and text in [choice.strip() for choice in choices]:
        return [choice.strip() for choice in choices].index(text)
    if text.isdecimal():
        place = int(text) - first
    elif len(text) == 1 and text.isalpha() and text.isascii():
        place = ord(text.upper()) - ord("A")
    else:
        return None
    return place if 0 <= place < len(choices) else None


def _after(
    prompt: str, choices: Sequence[str], task: MultipleChoiceConfig | BbqConfig | GroupGapsConfig
) -> tuple[str, ...]:
    """As they stand behind the prompt; a chat template puts its own signs between the two."""
    separator = task.separator if prompt and task.form == "text" else ""
    return tuple(f"{separator}{choice}" for choice in choices)


def _bbq(row: Record, task: BbqConfig) -> Choice:
    """The right answer, and the one that a stereotype would give: of a question asked the other way round, the other."""
    answers = _texts(row, ("ans0", "ans1", "ans2"))
    about: Mapping[str, Any] = row.values
    try:
        of_group = [[str(name).casefold() for name in about["answer_info"][f"ans{n}"]] for n in range(3)]
        stereotyped = {str(name).casefold() for name in about["additional_metadata"]["stereotyped_groups"]}
        condition, polarity = about["context_condition"], about["question_polarity"]
        right = int(about["label"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{row.where} is not in BBQ's form: {error}. Its rows have context, question, ans0 to ans2, answer_info, label, "
            "context_condition, question_polarity and additional_metadata."
        ) from None
    unknown = next((n for n, names in enumerate(of_group) if "unknown" in names), None)
    known = [n for n in range(3) if n != unknown]
    targets = [
        n for n in known if stereotyped & {*of_group[n], *(part for name in of_group[n] for part in name.split())}
    ]
    biased = None
    if unknown is not None and len(targets) == 1:
        (target,) = targets
        biased = target if polarity == "neg" else next(n for n in known if n != target)
    prompt = _prompt(row, task.prompt)
    meta = {"condition": condition, "unknown": unknown, "biased": biased}
    return Choice(prompt, _after(prompt, answers, task), right, _group(row, task), meta)


def _group_gap(row: Record, task: GroupGapsConfig) -> Choice:
    prompt = _prompt(row, task.prompt)
    about = {"item": row.label(task.item, key=f"{KEY}.item")}
    target = row.text(task.target, key=f"{KEY}.target")
    return Choice(prompt, _after(prompt, (target,), task), 0, _group(row, task), about)


def _texts(row: Record, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(row.text(column, key=KEY) for column in columns)


def _group(row: Record, task: FileTaskConfig) -> str:
    return "" if task.groups is None else row.label(task.groups, key=f"{KEY}.groups")


def _prompt(row: Record, template: str) -> str:
    try:
        return filled(template, row.values)
    except KeyError as error:
        hint = nearest(error.args[0], [str(name) for name in row.values])
        raise DataError(f"{row.where} has no {error.args[0]!r}, which {KEY}.prompt names.{hint}") from None


def _references(row: Record, task: AnswersConfig | GenerationConfig) -> tuple[str, ...]:
    value = row.values.get(task.reference)
    if isinstance(value, list):
        return row.texts(task.reference, key=f"{KEY}.reference")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    return (row.text(task.reference, key=f"{KEY}.reference"),)
