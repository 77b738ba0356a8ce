"""The run folder: what a recipe fills, stage by stage. Any stage can be killed at any instant and started again."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from stillhouse.core.config import Config, differences, load_recipe, to_yaml
from stillhouse.core.errors import DataError, RecipeError, RunError, StaleError
from stillhouse.core.files import (
    PART_SUFFIX,
    append_line,
    atomic_path,
    fingerprint,
    read_json,
    read_lines,
    write_atomic,
)
from stillhouse.core.memory import peak_bytes
from stillhouse.core.suites import SuiteName

_OF_WRITERS = ("budget", "prices", "concurrency", "timeout_seconds", "retries", "key_env")
MAY_CHANGE = (
    *("run", "report_to"),
    *(f"{who}.{name}" for who in ("synthesis.writer", "teacher") for name in _OF_WRITERS),
    *(f"evaluation.{name}" for name in ("suites", *get_args(SuiteName))),
)
"""Keys of a recipe that change nothing of what training makes: a folder may be moved, a budget raised, and a finished run
asked for more."""

LENT = {
    "synthesize": "data",
    "history": "data",
    "answer": "answers",
    "label": "labels",
    "student": "student_before",
    "control_hard_labels": "control_hard_labels",
    "control_from_scratch": "control_from_scratch",
    "control_hard_labels_flops": "control_hard_labels_flops",
    "control_from_scratch_flops": "control_from_scratch_flops",
}
"""Stages that one run may take over from another, and the folder in which lies what they make."""

PLAN = "plan.json"
"""What was expected of the run before it began."""

LOCK = ".lock"
"""Held by the process that works in a run folder, for as long as it lives."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run. Every write is atomic or append-only."""

    path: Path
    named_by: str = "run=FOLDER"
    """How a user names another folder."""

    lenders: tuple[Path, ...] = ()
    """Other run folders: what a stage of theirs has made from the same serves here too."""

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
    def summary(self) -> Path:
        """The few numbers that count, in Markdown: for a pull request."""
        return self.path / "summary.md"

    @property
    def metrics(self) -> Path:
        """Every number, one object a line."""
        return self.path / "metrics.jsonl"

    @contextmanager
    def open(self, recipe: Config) -> Iterator[None]:
        """Make the folder, or enter the one that this same recipe made, and keep others out while the block runs.

        Raises:
            RunError: if another recipe made it, something else than a run lies there, or another process is at work in it.
        """
        self._refuse_a_strangers()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunError(
                f"{self.path} cannot be a folder: a file is in its place. Name another with {self.named_by}."
            ) from None
        with self._keeping_others_out():
            if self.recipe.exists():
                self._compare_with(recipe)
            if not self.recipe.exists() or self.recipe.read_text(encoding="utf-8") != to_yaml(recipe):
                write_atomic(self.recipe, to_yaml(recipe))
            yield

    def fault(self, recipe: Config) -> str:
        """Why `open` would refuse this recipe, whoever else is at work; empty where it would not."""
        try:
            self._refuse_a_strangers()
            if self.recipe.exists():
                self._compare_with(recipe)
        except RunError as error:
            return str(error)
        return ""

    def _refuse_a_strangers(self) -> None:
        """Stages replace whole folders such as `student/`: never somebody else's."""
        if self.path.is_dir() and not self.recipe.exists():
            strange = sorted(
                {entry.name for entry in self.path.iterdir()} - {LOCK, PLAN, self.recipe.name + PART_SUFFIX}
            )
            if strange:
                raise RunError(
                    f"{self.path} is not empty (it has {strange[0]!r}) and no run made it. Name another with {self.named_by}."
                )

    def _compare_with(self, recipe: Config) -> None:
        changes = differences(self._recipe_before(recipe), recipe, ignoring=MAY_CHANGE)
        if changes:
            raise RunError(
                f"{self.path} was made by another recipe ({'; '.join(changes[:3])}{'; ...' if len(changes) > 3 else ''}). "
                f"Name another folder with {self.named_by}, or remove this one."
            )

    def _recipe_before(self, recipe: Config) -> Config:
        try:
            return load_recipe(type(recipe), self.recipe)
        except RecipeError:
            raise RunError(
                f"{self.recipe} is not a recipe of this version. Name another folder with {self.named_by}, or remove this one."
            ) from None

    @contextmanager
    def _keeping_others_out(self) -> Iterator[None]:
        with (self.path / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path} is in use by another stillhouse process. Wait for it, or name {self.named_by}."
                ) from None
            # Processes that train for this one hold it, too, should they outlive it.
            os.set_inheritable(lock.fileno(), True)
            yield

    def event(self, name: str, **details: Any) -> None:
        """Note what happened, in order: started, resumed, finished, warned."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        append_line(self.path / "events.jsonl", {"time": now, "event": name, **details})

    def log(self, **numbers: Any) -> None:
        """Add one line of numbers to `metrics.jsonl`."""
        append_line(self.metrics, numbers)

    def stage(
        self,
        name: str,
        *,
        made_from: str,
        work: Callable[[], dict[str, Any]],
        makes: Sequence[Path] = (),
        asked: str = "",
    ) -> dict[str, Any]:
        """Do a stage once: what it returned is kept, with the hash of what it was made from, and returned the next time.
        It is done again where a file or folder that it `makes` has gone, and where something else was `asked` of it: the
        hash of what a user may change of it later, as no other stage stands on that.

        Raises:
            StaleError: if the stage was done, or begun, from something else than now.
        """
        record, beginning = self._record(name), self._record(name).with_suffix(".started")
        if record.exists():
            done = read_record(record)
            self._refuse_stale(name, done["made_from"], made_from)
            if done.get("asked_of_it", "") == asked and all(path.exists() for path in makes):
                return done
        if not record.exists() and (borrowed := self._borrow(name, made_from)) is not None:
            return borrowed
        resumed = beginning.exists()
        if resumed:
            self._refuse_stale(name, beginning.read_text(encoding="utf-8", errors="replace"), made_from)
        write_atomic(beginning, made_from)
        self.event("resumed" if resumed else "started", stage=name)
        started, used = time.monotonic(), processor_seconds()
        outcome = work()
        seconds, used = round(time.monotonic() - started, 1), round(processor_seconds() - used, 1)
        done = {"made_from": made_from, "asked_of_it": asked, "seconds": seconds, "resumed": resumed, **outcome}
        _write_record(record, done)
        peak = max(peak_bytes(), outcome.get("peak_bytes", 0))  # other processes may have done it
        self.event("finished", stage=name, seconds=seconds, processor_seconds=used, peak_bytes=peak)
        return done

    def _borrow(self, name: str, made_from: str) -> dict[str, Any] | None:
        """A stage that another run has done from the same, with all that it made; None where there is none."""
        for lender in map(RunFolder, self.lenders) if name in LENT else ():
            if not lender.is_done(name, makes=[lender.path / LENT[name]]):
                continue
            done = read_record(lender._record(name))
            if done["made_from"] != made_from:
                continue
            with atomic_path(self.path / LENT[name]) as part:
                shutil.copytree(lender.path / LENT[name], part)
            for line in lender.metric_lines():
                if line.get("arm") == LENT[name]:
                    self.log(**line)
            done = {**done, "seconds": 0.0, "borrowed_from": lender.path.name}
            _write_record(self._record(name), done)
            self.event("borrowed", stage=name, lender=lender.path.name)
            return done
        return None

    def _record(self, name: str) -> Path:
        return self.path / "stages" / f"{name}.json"

    def _refuse_stale(self, name: str, before: str, now: str) -> None:
        if before != now:
            raise StaleError(
                f"the stage {name!r} in {self.path} was made from something else (teacher, tokenizer, template or data have "
                f"changed since). Name another folder with {self.named_by}, or remove this one to make all stages again."
            )

    def forget(self, name: str) -> None:
        """Let a stage be done again."""
        self._record(name).unlink(missing_ok=True)

    def is_done(self, name: str, *, makes: Sequence[Path] = ()) -> bool:
        """Whether a stage has ended and what it `makes` is there."""
        return self._record(name).exists() and all(path.exists() for path in makes)

    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages that are done, in the order in which they ended."""
        lines = read_lines(self.path / "events.jsonl")
        ended = [line.get("stage") for line in lines if line["event"] in ("finished", "borrowed")]
        places = {stage: place for place, stage in enumerate(ended)}  # and no times: a clock may jump
        records = sorted((self.path / "stages").glob("*.json"), key=lambda path: places.get(path.stem, len(ended)))
        return {path.stem: read_record(path) for path in records}

    def metric_lines(self) -> list[dict[str, Any]]:
        """What `log` wrote."""
        return read_lines(self.metrics)


def processor_seconds() -> float:
    """That processors have worked for this process by now, and for those that it started and that have ended."""
    return sum(os.times()[:4])


def _write_record(file: Path, done: dict[str, Any]) -> None:
    as_read = json.loads(json.dumps(done))  # in which every key is text
    write_atomic(file, json.dumps({**done, "check": fingerprint(as_read)}, indent=1, ensure_ascii=False))


def read_record(file: Path) -> dict[str, Any]:
    """What a stage returned, as it was kept.

    Raises:
        DataError: if that is not what was written.
    """
    mend = "Remove it, and that stage is done again."
    done = read_json(file, mend=mend)
    check = done.pop("check", None) if isinstance(done, dict) else ""
    if check is not None and check != fingerprint(done):
        raise DataError(f"{file} is not what was written: its content does not match its hash. {mend}")
    record: dict[str, Any] = done
    return record
