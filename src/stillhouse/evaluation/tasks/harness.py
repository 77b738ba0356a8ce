"""Tasks of EleutherAI's lm-eval, asked of every model, with our intervals and flips: of each example, its own number."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stillhouse.core.errors import StillhouseError
from stillhouse.core.measures import TaskResult
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Role
from stillhouse.evaluation.intervals import Statistic, Sums
from stillhouse.evaluation.paired import scored
from stillhouse.evaluation.tasks.config import LmEvalConfig
from stillhouse.evaluation.tasks.speakers import BATCH_ROWS, Speaker
from stillhouse.evaluation.tasks.text_scores import mean

PREFERRED = ("acc_norm", "acc", "exact_match", "f1")
"""The headline is the first of these that a task has, or else the first that it has at all."""


def check_harness() -> None:
    """Raises: StillhouseError if lm-eval is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise StillhouseError(
            "evaluation.tasks has one of kind lm_eval, which needs the library: pip install 'stillhouse[lm-eval]'."
        ) from None


def harness_results(
    task: LmEvalConfig, speakers: Mapping[Role, Speaker], *, progress: Progress = SILENT
) -> Iterator[TaskResult]:
    """One result for each of the library's tasks: metrics that it gives example by example.

    Raises:
        StillhouseError: if the library is missing, or does not know a task.
    """
    check_harness()
    found: dict[Role, dict[str, list[dict[str, Any]]]] = {}
    with working(progress, f"lm-eval: {', '.join(task.tasks)}", len(speakers), "models"):
        for role, speaker in speakers.items():
            found[role] = _samples(task, speaker)
            progress.advance(1)
    first = next(iter(found.values()))
    yield from (_result(task, name, {role: own[name] for role, own in found.items()}) for name in first)


def _samples(task: LmEvalConfig, speaker: Speaker) -> dict[str, list[dict[str, Any]]]:
    """What the library says of every example, task by task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if task.include_path is None else str(task.include_path))
    unknown = [name for name in task.tasks if name not in manager.all_tasks]
    if unknown:
        raise StillhouseError(f"evaluation.tasks: lm-eval knows no task {unknown[0]!r}. `lm-eval ls tasks` lists them.")
    wrapped = HFLM(
        pretrained=speaker.model,
        tokenizer=speaker.tokenizer,
        batch_size=BATCH_ROWS,
        device=str(speaker.model.device),
    )
    evaluated: Any = simple_evaluate(
        model=wrapped,
        tasks=list(task.tasks),
        num_fewshot=task.shots,
        limit=task.limit,
        bootstrap_iters=0,
        log_samples=True,
        task_manager=manager,
    )
    return dict(evaluated["samples"])


def _result(task: LmEvalConfig, name: str, samples: Mapping[Role, Sequence[Mapping[str, Any]]]) -> TaskResult:
    numbers = {role: numbers_of(own) for role, own in samples.items()}
    metrics = [m for m in next(iter(numbers.values())) if all(m in own for own in numbers.values())]
    if not metrics:
        raise StillhouseError(
            f"evaluation.tasks: lm-eval gives no number for each example of {name}, so that nothing can be said with an "
            "interval. Leave it out."
        )
    headline = next((wanted for wanted in PREFERRED if wanted in metrics), metrics[0])
    statistics: dict[Role, dict[str, Statistic]] = {
        role: {metric: mean(own[metric]) for metric in metrics} for role, own in numbers.items()
    }
    judged = {role: own[headline] for role, own in numbers.items()}
    is_binary = all(set(np.unique(own)) <= {0.0, 1.0} for own in judged.values())
    examples = len(next(iter(judged.values())))
    shots = "as the task says" if task.shots is None else str(task.shots)
    return TaskResult(
        name,
        "lm_eval",
        examples,
        headline,
        scored(
            statistics,
            num_examples=examples,
            hits=judged if is_binary else None,
            kept=PREFERRED,
            shares={headline: examples} if is_binary else {},
        ),
        notes=[f"lm-eval {_version()}, solved examples before each question: {shots}"],
    )


def numbers_of(samples: Sequence[Mapping[str, Any]]) -> dict[str, Sums]:
    """Every metric that is one number for each example; of a task with several filters, those of the first."""
    filters = dict.fromkeys(sample.get("filter", "none") for sample in samples)
    of_first = [sample for sample in samples if sample.get("filter", "none") == next(iter(filters))]
    of_first.sort(key=lambda sample: int(sample["doc_id"]))
    names = [name for name in of_first[0].get("metrics", ()) if all(_is_number(one.get(name)) for one in of_first)]
    return {name: np.array([float(sample[name]) for sample in of_first]) for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
