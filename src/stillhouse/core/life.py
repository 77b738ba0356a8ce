"""`now.json`: what a run is doing at this moment, for whoever looks at it from outside."""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

from stillhouse.core.memory import Memory, memory_now
from stillhouse.core.progress import Follows, Progress

FILE = "now.json"
WRITE_SECONDS = 1.0
"""At most one writing in so long: steps may be shorter than that."""
RATE_SECONDS = 30.0
"""What a rate is over: a whole run's mean would not tell that it has become slower."""
QUIET_SECONDS = 60.0
"""A run on another machine that has not been heard of for longer is taken for stopped."""

State = Literal["working", "ended", "stopped"]


@dataclass
class Counted:
    """Work that is under way."""

    title: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    rate: float = 0.0
    """Units a second, of late."""
    paces: deque[tuple[float, int]] = field(default_factory=deque, repr=False)

    def advance(self, amount: int, note: str, now_seconds: float) -> None:
        """So many units more are done."""
        if not self.paces:
            self.paces.append((now_seconds, self.done))
        self.done, self.note = self.done + amount, note or self.note
        self.paces.append((now_seconds, self.done))
        while len(self.paces) > 2 and now_seconds - self.paces[0][0] > RATE_SECONDS:
            self.paces.popleft()
        then, before = self.paces[0]
        seconds = now_seconds - then
        self.rate = (self.done - before) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate of late; None before there is one."""
        return (self.total - self.done) / self.rate if self.rate > 0 and self.done < self.total else None


@dataclass(frozen=True)
class Now:
    """What `now.json` says."""

    state: State = "stopped"
    stage: str = ""
    detail: str = ""
    work: tuple[Counted, ...] = ()
    """The outermost first."""
    memory: Memory = field(default_factory=lambda: Memory(0))
    peak_bytes: int = 0


class Kept(AbstractContextManager["Kept"]):
    """A progress that also keeps `now.json`. While the block runs, the run folder is this process's."""

    def __init__(self, progress: Progress, run: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress, self.run, self.clock = progress, run, clock
        self._stage, self._detail, self._peak = "", "", 0
        self._work: list[Counted] = []
        self._is_open, self._written_seconds = False, 0.0

    def __enter__(self) -> "Kept":
        self._is_open = True
        if isinstance(self.progress, Follows):
            self.progress.follow(self.run)
        self._write("working")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work = []
        self._write("ended" if kind is None else "stopped")
        self._is_open = False

    def stage(self, name: str, detail: str = "") -> None:
        self._stage, self._detail = name, detail
        self.progress.stage(name, detail)
        self._write("working")

    def start(self, title: str, total: int, unit: str = "") -> None:
        self._work.append(Counted(title, total, unit))
        self.progress.start(title, total, unit)
        self._write("working")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.progress.advance(amount, note)
        if not self._work:
            return
        now, work = self.clock(), self._work[-1]
        if not work.paces and amount > 1:  # what was done before a kill took none of this process's time
            work.done, amount = work.done + amount, 0
        work.advance(amount, note, now)
        if now - self._written_seconds >= WRITE_SECONDS:
            self._write("working")

    def finish(self) -> None:
        if self._work:
            self._work.pop()
        self.progress.finish()
        self._write("working")

    def say(self, text: str) -> None:
        self.progress.say(text)

    def _write(self, state: State) -> None:
        """Whole or not at all, and in no hurry to be on the disk."""
        if not self._is_open:
            return
        self._written_seconds = self.clock()
        memory = memory_now()
        self._peak = max(self._peak, memory.resident)
        process = psutil.Process()
        told = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "state": state,
            "host": socket.gethostname(),
            "process": process.pid,
            "process_since": process.create_time(),
            "stage": self._stage,
            "detail": self._detail,
            "work": [_plain(work) for work in self._work],
            "memory": asdict(memory),
            "peak_bytes": self._peak,
        }
        # Nobody's work may end because nobody can look at it.
        with suppress(OSError):
            part = self.run / f".{FILE}"
            part.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
            os.replace(part, self.run / FILE)


def _plain(work: Counted) -> dict[str, Any]:
    names = ("title", "total", "unit", "done", "note", "rate")
    return {name: getattr(work, name) for name in names}


def now_of(run: Path) -> Now:
    """What the run says of itself; one whose process is no more has stopped, whatever it said."""
    try:
        told = json.loads((run / FILE).read_text(encoding="utf-8"))
        work = tuple(Counted(**one) for one in told["work"])
        state: State = told["state"] if told["state"] != "working" or _lives(told) else "stopped"
        return Now(state, told["stage"], told["detail"], work, Memory(**told["memory"]), told["peak_bytes"])
    except (OSError, ValueError, TypeError, KeyError):
        return Now()


def _lives(told: dict[str, Any]) -> bool:
    if told["host"] != socket.gethostname():
        silence = datetime.now(UTC) - datetime.fromisoformat(told["time"])
        return silence.total_seconds() < QUIET_SECONDS
    try:
        # The number alone may be another process's by now.
        return abs(psutil.Process(told["process"]).create_time() - told["process_since"]) < 1.0
    except psutil.Error:
        return False
