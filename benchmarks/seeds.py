"""Several seeds of one recipe, run to the end and told as one table: what the benchmarks have in common."""

import json
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
from stillhouse.core.progress import Silent
from stillhouse.core.results import EvaluationResult, Interval, Role

CLOCK = "clock.json"


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
    clock = Clock()
    with at_work(recipe, clock) as pipeline:
        pipeline.train()
    if clock.steps:
        about = {"seconds_per_step": clock.seconds / clock.steps, "steps": clock.steps}
        (folder / CLOCK).write_text(json.dumps(about), encoding="utf-8")
    print(f"{folder}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return folder / "student"


def seconds_per_step(folder: Path) -> float:
    """Of a training by `trained`: reading the models and writing the student are not in it."""
    return float(json.loads((folder / CLOCK).read_text(encoding="utf-8"))["seconds_per_step"])


class Clock(Silent):
    """Counts the steps in which a student learns, and how long they took: processor time, in which others do not count.

    With one thread on a CPU it is what a clock shows on a machine that does nothing else.
    """

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0
        self._began, self._unit = 0.0, ""

    def start(self, title: str, total: int, unit: str = "") -> None:
        """Work begins."""
        self._began, self._unit = time.process_time(), unit

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Of a training that goes on, the steps before are told at once and without a note: they took no time here."""
        if self._unit == "steps" and note:
            self.steps, self.seconds = self.steps + amount, time.process_time() - self._began


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
