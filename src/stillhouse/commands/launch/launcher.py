"""The first process: it does all stages but training, and lets others train, each arm in processes of its own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from stillhouse.commands.launch.config import environment, held_by, write_config
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import read_lines
from stillhouse.core.memory import memory_now
from stillhouse.core.plugins import plugins_allowed
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.teachers.on_ray import Faculty
from stillhouse.training.sharding import Held, TeacherHeld
from stillhouse.training.trainer import latest_checkpoint

POLL_SECONDS = 0.2
LEAVE_SECONDS = 60.0
"""For processes that were told to end, before they are killed."""

SHARE: Mapping[Held, str] = {
    "whole": "",
    "sharded": " that share the student's weights",
    "zero2": " that share the student's optimiser, by DeepSpeed",
    "zero3": " that share the student's weights, by DeepSpeed",
}


@dataclass(frozen=True)
class Place:
    """Where the processes of one arm and the one that started them meet."""

    folder: Path

    @property
    def config(self) -> Path:
        """For `accelerate launch`."""
        return self.folder / "accelerate.json"

    @property
    def told(self) -> Path:
        """What the first of them tells of its progress, a call a line."""
        return self.folder / "progress.jsonl"

    @property
    def log(self) -> Path:
        """What all of them printed."""
        return self.folder / "log.txt"

    def peak(self, rank: int | str) -> Path:
        """Bytes that one of them held at most."""
        return self.folder / f"peak_{rank}.txt"

    @property
    def peaks(self) -> list[Path]:
        """Of all that have ended."""
        return list(self.folder.glob(self.peak("*").name))

    @property
    def outcome(self) -> Path:
        """What training took."""
        return self.folder / "outcome.json"

    @property
    def given(self) -> Path:
        """What the first process has found out for all of them, where there is something."""
        return self.folder / "given.safetensors"

    @property
    def fault(self) -> Path:
        """What a user can mend."""
        return self.folder / "fault.txt"


@runtime_checkable
class Shop(Protocol):
    """A recipe of any kind at work."""

    run: RunFolder
    progress: Progress


def place_of(run: RunFolder, role: str) -> Place:
    """The arm's own."""
    return Place(run.path / "launch" / role)


@dataclass(frozen=True)
class Launcher:
    """Trains an arm in so many processes."""

    num_ranks: int
    config: str | None = None
    held: Held = "whole"
    teacher_held: TeacherHeld = "whole"

    def __call__(self, shop: Shop, role: str, faculty: Faculty | None = None) -> dict[str, Any]:
        """What training took, as one process would have said it. Of a faculty they ask the teacher.

        Raises:
            StillhouseError: what went wrong in them.
        """
        place = place_of(shop.run, role)
        place.folder.mkdir(parents=True, exist_ok=True)
        for left in (place.told, place.outcome, place.fault, *place.peaks):
            left.unlink(missing_ok=True)
        latest_checkpoint(shop.run.path / "checkpoints" / role)  # removes what is not whole, which none of many may do
        config = write_config(place.config, self.num_ranks, config=self.config)
        together = SHARE[self._held]
        shop.progress.say(f"training in {self.num_ranks} processes{together}, by {config}")
        with (
            place.log.open("w", encoding="utf-8") as log,
            _ending_together(self._start(shop, role, config, log, faculty)) as one,
        ):
            _follow(one, place.told, shop.progress)
        if one.returncode or not place.outcome.exists():
            raise StillhouseError(_why(place, one.returncode))
        outcome: dict[str, Any] = json.loads(place.outcome.read_text(encoding="utf-8"))
        return {**outcome, "num_ranks": self.num_ranks, "peak_bytes": _most_at_once(place)}

    @property
    def _held(self) -> Held:
        return self.held if self.config is None else held_by(Path(self.config))

    def _start(self, shop: Shop, role: str, config: Path, log: Any, faculty: Faculty | None) -> subprocess.Popen[bytes]:
        worker = ["-m", "stillhouse.commands.launch.worker", str(shop.run.path), role]
        options = [
            "--held",
            self._held,
            "--teacher-held",
            self.teacher_held,
            *([] if faculty is None else ["--faculty", faculty.address, faculty.namespace, str(faculty.actors)]),
            *(["--allow-plugins"] if plugins_allowed() else []),
        ]
        accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        # What is inherited holds the lock of the run folder: nobody else works there while these live.
        return subprocess.Popen(
            [*accelerate, "--num_processes", str(self.num_ranks), *worker, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            close_fds=False,
            env=environment(self.num_ranks),
        )


@contextmanager
def _ending_together(started: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Whatever ends this process ends those that it has started."""
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _follow(started: "subprocess.Popen[bytes]", told: Path, progress: Progress) -> None:
    """Say what is told until the processes have ended."""
    heard = 0
    while True:
        has_ended = started.poll() is not None
        lines = read_lines(told) if told.exists() else []
        for line in lines[heard:]:
            getattr(progress, line["call"])(*line["with"])
        heard = len(lines)
        if has_ended:
            return
        time.sleep(POLL_SECONDS)


def _most_at_once(place: Place) -> int:
    """Bytes: of the process that held most on its GPU; where there are none, of all of them and this one on one machine."""
    peaks = [int(file.read_text(encoding="ascii")) for file in place.peaks]
    return max(peaks, default=0) if torch.cuda.is_available() else sum(peaks) + memory_now().resident


def _why(place: Place, code: int) -> str:
    if place.fault.exists():
        return place.fault.read_text(encoding="utf-8")
    return (
        f"training in several processes ended with code {code} and did not say why: see {place.log}. The same command goes on "
        "from the last checkpoint, with --launch or without."
    )
