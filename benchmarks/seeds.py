"""Several seeds of one recipe, run to the end and told as one table: what the benchmarks have in common."""

import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from stillhouse import distill
from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import parse_recipe
from stillhouse.core.progress import SILENT
from stillhouse.core.results import EvaluationResult, Interval, Role


def run(folder: Path, *, seed: int, **sections: Any) -> EvaluationResult:
    """One distillation in `folder`, in which what is done is not done again."""
    disable_progress_bar()
    started = time.perf_counter()
    training = {**sections.pop("training"), "seed": seed}
    result = distill(run=str(folder), training=training, **sections)
    print(f"{folder}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return result


def trained(folder: Path, *, seed: int, **sections: Any) -> Path:
    """One training in `folder`, without what a report measures beside it, and where its student is: for a benchmark that
    measures something else.
    """
    disable_progress_bar()
    started = time.perf_counter()
    recipe = parse_recipe(Recipe, {**sections, "run": str(folder), "training": {**sections["training"], "seed": seed}})
    with at_work(recipe, SILENT) as pipeline:
        pipeline.train()
    print(f"{folder}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return folder / "student"


def kept(results: Sequence[EvaluationResult], role: Role = "student") -> str:
    """The share of the teacher's performance that each seed kept, with its interval over documents, and their mean."""
    shares = [found.share for found in (result.retention(role) for result in results) if found is not None]
    return f"{100 * mean(shares):.1f} % kept: " + ", ".join(percent(share) for share in shares)


def faster(results: Sequence[EvaluationResult], role: Role = "student") -> str:
    """How much more the student does in the same time than its teacher, each seed's and the median of them."""
    gains = [found.throughput_gained for found in (result.speed(role) for result in results) if found is not None]
    middle = statistics.median(gain.value for gain in gains)
    return f"{100 * middle:.0f} % faster: " + ", ".join(percent(gain, digits=0) for gain in gains)


def smaller(result: EvaluationResult) -> str:
    """Parameters saved, with embeddings and without."""
    student, teacher = result.model("student"), result.model("teacher")
    assert student is not None and teacher is not None
    whole = 1 - student.cost.parameters / teacher.cost.parameters
    inside = 1 - student.cost.parameters_without_embeddings / teacher.cost.parameters_without_embeddings
    return f"{100 * whole:.0f} % fewer parameters ({100 * inside:.0f} % without embeddings)"


def machine(result: EvaluationResult) -> str:
    """What it was measured on."""
    about = result.machine
    return f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, torch {about['torch']}"


def percent(interval: Interval, *, digits: int = 1) -> str:
    """Such as `97.7 [96.1, 99.2]`."""
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def mean(intervals: Iterable[Interval]) -> float:
    """The mean of the values."""
    return statistics.mean(interval.value for interval in intervals)
