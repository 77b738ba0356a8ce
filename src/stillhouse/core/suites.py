"""Suites: what can be measured beside how held-out text is predicted, each by its name in a recipe.

A new suite is a line here, one in `evaluation/suites.py`, and one in `reporting/suites.py`; a section of settings, where it has
any, is a field of its name in `EvaluationConfig`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from stillhouse.core.results import EvaluationResult, Interval

SuiteName = Literal["language", "cost"]

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


RESULTS: Mapping[str, type[SuiteResult]] = {}
"""What a suite's result is read into, by its name."""


def found_by(result: EvaluationResult) -> dict[str, SuiteResult]:
    """What every suite of an evaluation found, by its name; one that this version does not know is left out."""
    return {name: RESULTS[name].from_dict(values) for name, values in result.suites.items() if name in RESULTS}
