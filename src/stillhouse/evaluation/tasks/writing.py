"""Tasks in which a model writes: what it wrote, held against what would be right."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stillhouse.core.measures import TaskResult
from stillhouse.core.results import Role
from stillhouse.evaluation.intervals import Statistic, Sums
from stillhouse.evaluation.paired import scored
from stillhouse.evaluation.statistics import macro_f1, matthews_correlation
from stillhouse.evaluation.tasks.config import AnswersConfig, GenerationConfig
from stillhouse.evaluation.tasks.groups import gap_statistics, group_scores
from stillhouse.evaluation.tasks.rows import Prompted
from stillhouse.evaluation.tasks.text_scores import mean, text_statistics

Said = Sequence[tuple[str, bool] | None]
"""What a model wrote after each prompt, and whether it came to an end; None where it had no room."""


def until(text: str, stops: Sequence[str]) -> str:
    """A text before the first of these."""
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def found_answer(task: AnswersConfig, text: str) -> str | None:
    """What the pattern finds in a text, with thousands written together; None where it finds nothing."""
    matches = list(re.finditer(task.finds, text, re.IGNORECASE if task.ignore_case else 0))
    if not matches:
        return None
    match = matches[0 if task.which == "first" else -1]
    found = next((group for group in match.groups() if group is not None), match.group())
    found = re.sub(r"(?<=\d),(?=\d{3}\b)", "", found).strip().rstrip(".")
    return found.casefold() if task.ignore_case else found


def answers(task: AnswersConfig, rows: Sequence[Prompted], said: Mapping[Role, Said]) -> TaskResult:
    """How often the right answer is found in what was written, and how often any is."""
    rows, texts, notes = _that_all_read(rows, said, task)
    found = {role: [found_answer(task, text) for text in own] for role, own in texts.items()}
    right = [expected(task, row) for row in rows]
    hits = {
        role: np.array([float(one in golds) for one, golds in zip(own, right, strict=True)])
        for role, own in found.items()
    }
    groups = [row.group for row in rows]
    gaps = gap_statistics(hits, groups)
    statistics: dict[Role, dict[str, Statistic]] = {
        role: {"accuracy": mean(hits[role]), "answered": mean([float(one is not None) for one in own])}
        | _of_classes(task, own, right)
        | gaps[role]
        for role, own in found.items()
    }
    return TaskResult(
        task.title,
        "answers",
        len(rows),
        "accuracy",
        scored(
            statistics,
            num_examples=len(rows),
            hits=hits,
            kept=("accuracy", "macro_f1"),
            shares=dict.fromkeys(("accuracy", "answered"), len(rows)),
        ),
        notes=[f"the {task.which} match of {task.finds}", *notes],
        groups=group_scores("accuracy", hits, groups),
    )


def expected(task: AnswersConfig, row: Prompted) -> set[str]:
    """What is right to a question: what the pattern finds in each reference, or the reference itself."""
    return {_same_case(task, found_answer(task, one) or one.strip()) for one in row.references}


def _same_case(task: AnswersConfig, text: str) -> str:
    return text.casefold() if task.ignore_case else text


def class_of(task: AnswersConfig, found: str | None) -> int | None:
    """The number of the class that was found; None where it is none of them."""
    names = [_same_case(task, name) for name in task.classes or ()]
    return names.index(found) if found in names else None


def _of_classes(task: AnswersConfig, found: Sequence[str | None], right: Sequence[set[str]]) -> dict[str, Statistic]:
    """Macro-F1 and Matthews correlation where the answers are classes. No class at all is none that F1 is told of, and one
    more that the correlation tells from the others."""
    if task.classes is None:
        return {}
    nothing = len(task.classes)
    golds = [class_of(task, min(own)) for own in right]
    named, actual = (
        np.eye(nothing + 1)[[nothing if one is None else one for one in several]]
        for several in ([class_of(task, one) for one in found], golds)
    )
    f1 = macro_f1(*(side[:, :nothing] for side in (named * actual, named, actual)))
    return {"macro_f1": f1, "matthews_correlation": matthews_correlation(named * actual, named, actual)}


def generation(task: GenerationConfig, rows: Sequence[Prompted], said: Mapping[Role, Said]) -> TaskResult:
    """How like the references that is which was written."""
    rows, texts, notes = _that_all_read(rows, said, task)
    references = [row.references for row in rows]
    made = {role: text_statistics(task, own, references) for role, own in texts.items()}
    signatures = next(iter(made.values()))[1]
    lengths: dict[Role, Sums] = {
        role: np.array([float(len(text.split())) for text in own]) for role, own in texts.items()
    }
    statistics = {role: found | {"answer_words": mean(lengths[role])} for role, (found, _) in made.items()}
    headline = next(iter(next(iter(statistics.values()))))
    measured = [name for name in statistics[next(iter(statistics))] if name != "answer_words"]
    return TaskResult(
        task.title,
        "generation",
        len(rows),
        headline,
        scored(statistics, num_examples=len(rows), kept=measured),
        notes=[*signatures, *notes],
    )


def _that_all_read(
    rows: Sequence[Prompted], said: Mapping[Role, Said], task: AnswersConfig | GenerationConfig
) -> tuple[list[Prompted], dict[Role, list[str]], list[str]]:
    """The rows that every model had room for, what each wrote, and what is to be said of the others."""
    fits = [all(own[place] is not None for own in said.values()) for place in range(len(rows))]
    kept = [row for row, fit in zip(rows, fits, strict=True) if fit]
    whole = {role: [one for one, fit in zip(own, fits, strict=True) if fit and one] for role, own in said.items()}
    notes = [f"left out: {len(rows) - len(kept)} longer than a model reads"] if len(kept) < len(rows) else []
    for role, own in whole.items():
        if cut := sum(not ended and until(text, task.stop) == text for text, ended in own):
            notes.append(f"cut off at {task.max_new_tokens} tokens: {cut} of {len(own)} ({role.replace('_', ' ')})")
    return kept, {role: [until(text, task.stop).strip() for text, _ in own] for role, own in whole.items()}, notes
