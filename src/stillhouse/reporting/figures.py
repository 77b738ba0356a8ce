"""The three figures that a distillation is known by: what share was kept, what was saved, how much faster it is.

Source: Sanh et al., 2019, arXiv:1910.01108, abstract.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stillhouse.core.results import Cost, EvaluationResult, Interval, Retention, SpeedUp, Work
from stillhouse.reporting import formatting
from stillhouse.reporting.verdicts import against_teacher, speed_up

WORK: Mapping[Work, str] = {"decode": "in writing", "prefill": "in reading", "document": "on held-out texts"}


@dataclass(frozen=True)
class Figure:
    """One of the three: a percentage with its bounds, what it is of, and what stands behind it."""

    name: Literal["kept", "saved", "faster"]
    value: str
    bounds: str
    label: str
    detail: str

    @property
    def text(self) -> str:
        """The figure as one line."""
        value = " ".join(part for part in (f"{self.value} %", self.bounds) if part)
        return f"{value} {self.label}; {self.detail}" if self.detail else f"{value} {self.label}"


def headline_figures(result: EvaluationResult) -> list[Figure]:
    """Kept, saved, faster, as far as they were measured."""
    student, teacher = result.model("student"), result.model("teacher")
    if student is None or teacher is None:
        return []
    kept, speed = result.retention("student"), speed_up(result)
    return [
        *([] if kept is None else [_kept(result, kept)]),
        _saved(student.cost, teacher.cost),
        *([] if speed is None else [_faster(speed)]),
    ]


def _kept(result: EvaluationResult, kept: Retention) -> Figure:
    label = f"of the teacher's {formatting.describe(kept.metric).title}"
    return Figure("kept", *_percentage(kept.share), label, against_teacher(result, kept.metric))


def _saved(student: Cost, teacher: Cost) -> Figure:
    detail = f"{formatting.si(student.parameters)} left of {formatting.si(teacher.parameters)}"
    saved, inner = (
        formatting.number(100 * (1 - ours / max(1, theirs)))
        for ours, theirs in (
            (student.parameters, teacher.parameters),
            (student.parameters_without_embeddings, teacher.parameters_without_embeddings),
        )
    )
    if inner != saved:
        detail += f"; {inner} % saved without embeddings"
    return Figure("saved", saved, "", "of the parameters", detail)


def _faster(speed: SpeedUp) -> Figure:
    """Both definitions by name: 60 % more throughput is 37.5 % of the time saved."""
    is_shown = not speed.ratio.low <= 1 <= speed.ratio.high
    label = f"throughput {WORK[speed.work]}, at batch 1{'' if is_shown else ': no difference shown'}"
    value, bounds = _percentage(speed.throughput_gained)
    saved, saved_bounds = _percentage(speed.time_saved)
    return Figure("faster", _signed(value), bounds, label, f"time saved {saved} % {saved_bounds}".rstrip())


def _percentage(share: Interval) -> tuple[str, str]:
    """A share as a bare percentage, and its bounds."""
    return formatting.value_text(formatting.scaled(share, "share"), ""), formatting.bounds_text(share, "share")


def _signed(value: str) -> str:
    return value if value.startswith("-") else f"+{value}"
