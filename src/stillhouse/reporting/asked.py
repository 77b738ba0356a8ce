"""What suites found, in sentences: for the model card, a summary, and whoever has no report at hand."""

from collections.abc import Iterator, Mapping, Sequence

from stillhouse.core.behaviour_results import BehaviourResult
from stillhouse.core.likeness import CalibrationFound, SimilarityFound
from stillhouse.core.measures import Reliability, TaskResult
from stillhouse.core.results import EvaluationResult
from stillhouse.core.suite_results import found_by
from stillhouse.core.tasks import TasksFound
from stillhouse.reporting import formatting
from stillhouse.reporting.behaviour import behaviour_lines
from stillhouse.reporting.likeness import similarity_lines
from stillhouse.reporting.markdown import escaped
from stillhouse.reporting.tasks import task_line

BIASES = ("bias_ambiguous", "bias_disambiguated", "group_gap")
"""Metrics that tell whether groups of people are treated alike."""


def asked_section(result: EvaluationResult) -> str:
    """Every suite that was asked for, a line a finding, in Markdown; empty where none was."""
    told = {name: lines for name, lines in suite_lines(result).items() if lines}
    parts = [f"**{title}**\n\n" + "\n".join(f"- {escaped(line)}" for line in lines) for title, lines in told.items()]
    return "\n\n".join(["## What else was asked", *parts]) if parts else ""


def suite_lines(result: EvaluationResult) -> Mapping[str, Sequence[str]]:
    """By the suite's title, what it found."""
    found: dict[str, Sequence[str]] = {}
    for suite in found_by(result).values():
        match suite:
            case BehaviourResult() if suite.prompts:
                asked = f"Everyone was asked {formatting.count(suite.prompts)} prompts ({suite.source})."
                found["Behaviour"] = [asked, *behaviour_lines(suite)]
            case TasksFound():
                found["Questions and answers"] = [line for task in suite.tasks for line in _of_task(task)]
            case SimilarityFound():
                found["How alike to the teacher"] = similarity_lines(suite)
            case CalibrationFound():
                found["As sure as right"] = _calibration(suite.models)
    return found


def biases_measured(result: EvaluationResult) -> list[str]:
    """The tasks that have looked for a bias."""
    tasks = found_by(result).get("tasks")
    return [task.name for task in tasks.tasks if _has_bias(task)] if isinstance(tasks, TasksFound) else []


def _has_bias(task: TaskResult) -> bool:
    return any(name in one.metrics for one in task.scored for name in BIASES)


def _of_task(task: TaskResult) -> Iterator[str]:
    if line := task_line(task):
        yield line
    for name in BIASES:
        both = [one.metrics.get(name) for role in ("student", "teacher") if (one := task.scores(role))]
        told = [formatting.interval_text(interval, "") for interval in both if interval is not None]
        if len(told) == 2 and name != task.headline:
            yield f"{task.name}, {formatting.describe(name).title}: student {told[0]}, teacher {told[1]}."


def _calibration(models: Sequence[Reliability]) -> list[str]:
    lines = []
    for of in dict.fromkeys(one.of for one in models):
        told = {one.role: formatting.interval_text(one.error, "share") for one in models if one.of == of}
        named = [f"{role} {told[role]}" for role in ("student", "teacher") if role in told]
        lines.append(f"Calibration error on {of}: {', '.join(named)}.")
    return lines
