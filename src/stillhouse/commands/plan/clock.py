"""How long a rehearsal's pieces of work take, as they say it themselves: whoever shows progress can be timed."""

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stillhouse.core.progress import Silent

STEPS, FEWEST_STEPS = 10, 3
"""Of training in a rehearsal, and as few as still tell how long one takes once it is under way."""


def few_steps(whole: int) -> int:
    """Ten; of a short training a fifth, as a rehearsal should be much shorter than the run."""
    return max(FEWEST_STEPS, min(STEPS, whole // 5))


@dataclass
class Work:
    """One piece of work: how much of it there was, when it began and ended, and when how much was done."""

    stage: str
    title: str
    total: int
    unit: str
    seconds: float = 0.0
    """Of itself: pieces within it count for themselves."""
    unit_seconds: float = 0.0
    """Of one unit, once it is under way."""
    tail_seconds: float = 0.0
    """From the last unit to the end."""


@dataclass
class _Open:
    """A piece that has not ended."""

    work: Work
    marks: list[tuple[float, int]]
    """When how much was done."""
    within_seconds: float = 0.0
    """What pieces within it took."""


@dataclass
class Clock(Silent):
    """Notes how long each piece of work of each stage takes."""

    works: list[Work] = field(default_factory=list)
    _stage: str = ""
    _open: list[_Open] = field(default_factory=list)

    def stage(self, name: str, detail: str = "") -> None:
        """The next pieces are of this one."""
        self._stage = name

    def start(self, title: str, total: int, unit: str = "") -> None:
        """A piece begins."""
        self.works.append(Work(self._stage, title, total, unit))
        self._open.append(_Open(self.works[-1], [(time.perf_counter(), 0)]))

    def advance(self, amount: int = 1, note: str = "") -> None:
        """So much more of it is done."""
        if self._open:
            self._open[-1].marks.append((time.perf_counter(), amount))

    def finish(self) -> None:
        """It is done."""
        if not self._open:
            return
        ended, now = self._open.pop(), time.perf_counter()
        work, marks = ended.work, ended.marks
        spans = [(later[0] - before[0]) / later[1] for before, later in pairwise(marks) if later[1]]
        seconds = now - marks[0][0]
        work.seconds = seconds - ended.within_seconds
        work.unit_seconds = statistics.fmean(spans[1:] or spans) if spans else 0.0
        work.tail_seconds = now - marks[-1][0]
        if self._open:
            self._open[-1].within_seconds += seconds


@dataclass(frozen=True)
class Timed:
    """What any rehearsal found."""

    works: list[dict[str, Any]]
    stages: dict[str, float]
    """Seconds of each."""
    peak_bytes: int
    share: float = field(default=1.0, kw_only=True)
    """Of one processor, that it was given: the rest others had, or it waited for the disk."""
