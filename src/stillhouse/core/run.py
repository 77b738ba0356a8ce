"""The run folder: what a recipe fills, stage by stage. Any stage can be killed at any instant and started again."""

import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from stillhouse.core.config import Config, differences, parse_recipe, to_yaml
from stillhouse.core.errors import RecipeError, RunError, StaleError
from stillhouse.core.files import append_line, read_lines, write_atomic


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run. Every write is atomic or append-only."""

    path: Path
    _lock: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def recipe(self) -> Path:
        """The resolved recipe: every default written out, every override applied."""
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        """What was synthesised."""
        return self.path / "data"

    @property
    def labels(self) -> Path:
        """The teacher's stored signals."""
        return self.path / "labels"

    @property
    def student(self) -> Path:
        """The result: a plain Hugging Face folder."""
        return self.path / "student"

    @property
    def report(self) -> Path:
        """For people."""
        return self.path / "report.html"

    @property
    def metrics(self) -> Path:
        """Every number, one object a line."""
        return self.path / "metrics.jsonl"

    def open(self, recipe: Config) -> None:
        """Make the folder, or enter the one that this same recipe made, and keep others out while this process lives.

        Raises:
            RunError: if another recipe made it, or another process is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._keep_others_out()
        if not self.recipe.exists():
            write_atomic(self.recipe, to_yaml(recipe))
            return
        changes = differences(self._recipe_before(recipe), recipe)
        if changes:
            raise RunError(
                f"{self.path} was made by another recipe ({'; '.join(changes[:3])}{'; ...' if len(changes) > 3 else ''}). "
                "Name another folder with run=FOLDER, or remove this one."
            )

    def _recipe_before(self, recipe: Config) -> Config:
        try:
            return parse_recipe(type(recipe), yaml.safe_load(self.recipe.read_text(encoding="utf-8")))
        except (RecipeError, yaml.YAMLError, TypeError):
            raise RunError(
                f"{self.recipe} is not a recipe of this version. Name another folder with run=FOLDER, or remove this one."
            ) from None

    def _keep_others_out(self) -> None:
        lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{self.path} is in use by another stillhouse process. Wait for it, or name run=FOLDER."
            ) from None
        self._lock.append(lock)

    def event(self, name: str, **details: Any) -> None:
        """Note what happened, in order: started, resumed, finished, warned."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self.path / "events.jsonl", {"time": now, "event": name, **details})

    def log(self, **numbers: Any) -> None:
        """Add one line of numbers to `metrics.jsonl`."""
        append_line(self.metrics, numbers)

    def stage(self, name: str, *, made_from: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a stage once: what it returned is kept, with the hash of what it was made from, and returned the next time.

        Raises:
            StaleError: if the stage was done from something else than now.
        """
        record = self.path / "stages" / f"{name}.json"
        if record.exists():
            return self._done_before(record, name, made_from)
        resumed = (self.path / "stages" / f"{name}.started").exists()
        write_atomic(self.path / "stages" / f"{name}.started", made_from)
        self.event("resumed" if resumed else "started", stage=name)
        started = time.monotonic()
        outcome = work()
        done = {"made_from": made_from, "seconds": round(time.monotonic() - started, 1), "resumed": resumed, **outcome}
        write_atomic(record, json.dumps(done, indent=1, ensure_ascii=False))
        self.event("finished", stage=name, seconds=done["seconds"])
        return done

    def _done_before(self, record: Path, name: str, made_from: str) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if done["made_from"] != made_from:
            raise StaleError(
                f"the stage {name!r} in {self.path} was made from something else (teacher, tokenizer, template or data have "
                f"changed since). Name another folder with run=FOLDER, or remove {record.parent} to make all stages again."
            )
        return done

    def forget(self, name: str) -> None:
        """Let a stage be done again."""
        (self.path / "stages" / f"{name}.json").unlink(missing_ok=True)

    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages that are done, in the order in which they ended."""
        records = sorted((self.path / "stages").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in records}

    def metric_lines(self) -> list[dict[str, Any]]:
        """What `log` wrote."""
        return read_lines(self.metrics)
