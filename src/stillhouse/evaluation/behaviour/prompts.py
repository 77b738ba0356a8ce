"""What models are asked: a user's file of prompts, or what is held out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from stillhouse.core.errors import DataError
from stillhouse.core.faults import nearest
from stillhouse.data.tables import Record, read_records
from stillhouse.evaluation.asking import Question

LABELS = ("safe", "unsafe", "answerable", "unanswerable")
IN_CONTEXT = "Answer from the text alone. If it does not tell, say so.\n\nText: {context}\n\nQuestion: {prompt}"
KEY = "evaluation.behaviour.prompts"
LABELLED_KEY = "evaluation.behaviour.labelled"
_YES_NO: Mapping[str, bool] = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def read_prompts(path: Path) -> list[Question]:
    """The prompts of a file, each with its label, its context and its right answer, where the file has these.

    Raises:
        DataError: naming the row, for a column that is missing, a label that is not known, or one that needs a context.
    """
    return [_question(record) for record in read_records(path, key=KEY)]


def _question(record: Record) -> Question:
    prompt, label, context = record.text("prompt", key=KEY), _cell(record, "label"), _cell(record, "context")
    if label and label not in LABELS:
        known = f"Known: {', '.join(LABELS)}, or nothing."
        raise DataError(f"{record.where} has the label {label!r}.{nearest(label, LABELS)} {known}")
    if label.endswith("answerable") and not context:
        raise DataError(
            f"{record.where} is labelled {label!r}, but has no context that could tell or not. Give it one under 'context', or "
            "another label."
        )
    asked = IN_CONTEXT.replace("{prompt}", prompt).replace("{context}", context) if context else prompt
    notes = {"prompt": prompt, "label": label, "context": context}
    return Question(({"role": "user", "content": asked},), reference=_cell(record, "answer"), notes=notes)


def _cell(record: Record, column: str) -> str:
    value = record.values.get(column)
    return "" if value is None else str(value).strip()


def some(questions: Sequence[Question], *, most: int, seed: int) -> list[Question]:
    """So many of them, each once, in their order."""
    different = list({_identity(one): one for one in questions}.values())
    if len(different) <= most:
        return different
    return [different[place] for place in sorted(Random(seed).sample(range(len(different)), most))]


def _identity(question: Question) -> tuple[object, ...]:
    return question.prefix, *((one["role"], one["content"]) for one in question.messages)


def read_labelled(path: Path) -> list[tuple[str, bool]]:
    """Answers, and whether people say that they refuse.

    Raises:
        DataError: naming the row, and where there are only refusals, or none.
    """
    found = [_labelled(record) for record in read_records(path, key=LABELLED_KEY)]
    if len({refused for _, refused in found}) < 2:
        raise DataError(
            f"{LABELLED_KEY} {str(path)!r} has {'only refusals' if found[0][1] else 'no refusal'}, so it cannot say what the "
            "matching of refusals is worth. Give it both."
        )
    return found


def _labelled(record: Record) -> tuple[str, bool]:
    refused = record.values.get("refused")
    known = _YES_NO.get(str(refused).strip().lower())
    if known is None:
        raise DataError(f"{record.where} has {refused!r} under 'refused'. Expected yes or no.")
    answer = record.values.get("answer")
    if answer is None:
        raise DataError(f"{record.where} has no 'answer', which {LABELLED_KEY} needs.")
    return str(answer), known
