"""`metrics.jsonl`: every number of a run, one object a line, each step once even after a kill."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillhouse.core.files import json_line, write_atomic
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.core.suites import Number, SuiteResult
from stillhouse.training.trainer import latest_checkpoint


def last_saved_step(checkpoints: Path) -> int:
    """The step behind which training goes on; 0 where it begins."""
    resumed = latest_checkpoint(checkpoints)
    return int(resumed.rpartition("-")[2]) if resumed else 0


class MetricsLog:
    """Writes and reads a run's numbers."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def arm(self, name: str, checkpoints: Path) -> Callable[[Mapping[str, float]], None]:
        """A place for one arm's training steps. Steps after its last checkpoint, which will be done again, are dropped."""
        last_step = last_saved_step(checkpoints)
        # Step 0 is before the first: what was found of the student as it was made.
        kept = self._keep(lambda line: line.get("arm") != name or 0 < last_step >= line["step"])
        tokens = max((line["tokens"] for line in kept if line.get("arm") == name), default=0)

        def log(line: Mapping[str, float]) -> None:
            nonlocal tokens
            tokens += line["tokens"]
            self.run.log(arm=name, **{**line, "tokens": tokens})

        return log

    def evaluation(self, result: EvaluationResult) -> None:
        """One line a model and metric, in the place of those that an evaluation cut short may have left; what was measured on
        replayed data says so."""
        self._keep(lambda line: ("evaluated" not in line and "flips" not in line) or "suite" in line)
        for model in result.models:
            for metric, interval in model.metrics.items():
                numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
                self.run.log(evaluated=model.role, metric=metric, **numbers)
        for role, found in result.flips.items():
            self.run.log(flips=role, **asdict(found))
        for old in result.replay.models if result.replay else ():
            for metric, interval in old.metrics.items():
                self.run.log(evaluated=old.role, metric=metric, on="replay", **asdict(interval))

    def suite(self, name: str, result: SuiteResult) -> None:
        """Every number of one suite, in the place of those that were there."""
        self.numbers(name, result.numbers())

    def numbers(self, suite: str, numbers: Iterable[Number]) -> None:
        """These, in the place of those that were there under this name."""
        self._keep(lambda line: line.get("suite") != suite)
        for number in numbers:
            self.run.log(**number.line(suite))

    def _keep(self, is_kept: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Write the file anew with these lines only, and return them."""
        kept = [line for line in self.run.metric_lines() if is_kept(line)]
        write_atomic(self.run.metrics, "".join(json_line(line) for line in kept))
        return kept

    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """The training steps of each arm."""
        curves: dict[str, list[dict[str, Any]]] = {}
        for line in self.run.metric_lines():
            if "arm" in line:
                curves.setdefault(line["arm"], []).append({name: line[name] for name in line if name != "arm"})
        return curves
