"""Suites: what can be measured beside how held-out text is predicted, each by its name in a recipe.

A new suite is a name here, a line in `core/suite_results.py`, one in `evaluation/suites.py`, and a section in
`reporting/sections.py`; its settings, where it has any, are a field of its name in `EvaluationConfig`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from stillhouse.core.results import Interval

SuiteName = Literal["language", "cost", "behaviour", "tasks", "similarity", "calibration"]

ALWAYS: tuple[SuiteName, ...] = ("language", "cost")
"""Measured in every evaluation: how held-out data is predicted or answered, and what that costs."""


@dataclass(frozen=True)
class Number:
    """One number of one model, or of one beside another, for `metrics.jsonl`."""

    who: str
    """A role, or two with `minus` or `and` between them."""
    metric: str
    interval: Interval
    on: str = ""
    """Which prompts, documents or pairs it is over, where that is not all that the suite has."""

    def line(self, suite: str) -> dict[str, Any]:
        """As one line of `metrics.jsonl`."""
        on = {"on": self.on} if self.on else {}
        return {"evaluated": self.who, "metric": self.metric, "suite": suite, **on, **asdict(self.interval)}


@runtime_checkable
class SuiteResult(Protocol):
    """What one suite found: a frozen dataclass in a module of its own in `core/`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SuiteResult":
        """The inverse of `to_dict`; what an older result did not have is left at its default."""

    def numbers(self) -> Iterable[Number]:
        """Every number of it."""
