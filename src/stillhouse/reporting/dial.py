"""The dial at the top of the report: what share of its teacher a student keeps, and where the others stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.core.results import EvaluationResult, Interval, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.verdicts import ANSWERS, SHORT_TITLES, models_in_order

RADIUS, CENTRE_X, CENTRE_Y = 80.0, 100.0, 98.0


@dataclass(frozen=True)
class DialMark:
    """Another model's place on the dial: the two ends of a short stroke across it."""

    role: Role
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Dial:
    """A half circle from nothing to all: how far the student comes, within which bounds, and where the others do."""

    value: str
    bounds: str
    label: str
    whole: str
    reached: str
    between: str
    marks: Sequence[DialMark]
    description: str


def dial(result: EvaluationResult) -> Dial | None:
    """Of the share that is kept, or else of how often student and teacher answer alike; None where neither was measured."""
    shares = {kept.role: kept.share for kept in result.retentions if math.isfinite(kept.share.value)}
    kept = result.retention("student")
    label = "" if kept is None else f"of the teacher's {formatting.describe(kept.metric).title}"
    if "student" not in shares:
        shares = {
            model.role: model.metrics["top1_agreement"]
            for model in models_in_order(result)
            if model.role != "teacher" and "top1_agreement" in model.metrics
        }
        label = f"of {ANSWERS[result.task]} answered as the teacher does"
    if "student" not in shares:
        return None
    return _dial(shares, label)


def _dial(shares: dict[Role, Interval], label: str) -> Dial:
    student = shares["student"]
    value, bounds = formatting.value_text(student, "share"), formatting.bounds_text(student, "share")
    others = {role: share for role, share in shares.items() if role != "student"}
    told = "; ".join(f"{SHORT_TITLES[role]} {formatting.value_text(share, 'share')}" for role, share in others.items())
    return Dial(
        value=value.removesuffix(" %"),
        bounds=bounds,
        label=label,
        whole=_arc(0, 1),
        reached=_arc(0, student.value),
        between=_arc(student.low, student.high),
        marks=[_mark(role, share.value) for role, share in others.items()],
        description=f"Student {value} {bounds} {label}".replace("  ", " ") + (f"; {told}." if told else "."),
    )


def _place(share: float, radius: float = RADIUS) -> tuple[float, float]:
    angle = math.pi * (1 - min(1.0, max(0.0, share)))
    return round(CENTRE_X + radius * math.cos(angle), 2), round(CENTRE_Y - radius * math.sin(angle), 2)


def _arc(start: float, end: float) -> str:
    """A path along the dial; one of no length where both ends are the same."""
    start, end = (0.0 if math.isnan(share) else share for share in (start, end))
    (x1, y1), (x2, y2) = _place(start), _place(max(start, end))
    return f"M{x1} {y1}A{RADIUS:g} {RADIUS:g} 0 0 1 {x2} {y2}"


def _mark(role: Role, share: float) -> DialMark:
    share = 0.0 if math.isnan(share) else share
    return DialMark(role, *_place(share, RADIUS - 12), *_place(share, RADIUS + 12))
