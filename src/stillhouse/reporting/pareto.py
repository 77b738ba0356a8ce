"""A chart of quality against what a model costs: which runs no other run beats on both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.core.results import Interval
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import Axis, Tick, axis_over, round_values

WIDE = 8.0
"""A ratio of the largest cost to the smallest from which on the axis is logarithmic."""


@dataclass(frozen=True)
class Candidate:
    """A model with its quality and its cost; `mark` is what stands beside its point, and those of one `line` are joined."""

    mark: str
    name: str
    role: str
    quality: Interval
    cost: float
    line: str = ""


@dataclass(frozen=True)
class ParetoPoint:
    """A point of the chart, in percent of its width and height from the lower left."""

    mark: str
    role: str
    x: float
    y: float
    low: float
    high: float
    is_best: bool
    title: str


@dataclass(frozen=True)
class ParetoPanel:
    """The whole chart. Its paths, each with whose it is, join what is of one line, or those that no other beats on both."""

    title: str
    x_title: str
    y_title: str
    points: Sequence[ParetoPoint]
    paths: Sequence[tuple[str, str]]
    note: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    description: str


def undominated(candidates: Sequence[Candidate], better: Literal["lower", "higher"]) -> list[Candidate]:
    """Those that no other matches on both quality and cost and beats on one, the cheapest first."""
    sign = 1 if better == "higher" else -1
    ordered = sorted(candidates, key=lambda one: (one.cost, -sign * one.quality.value))
    found: list[Candidate] = []
    for one in ordered:
        if not found or sign * one.quality.value > sign * found[-1].quality.value:
            found.append(one)
    return found


def pareto_panel(candidates: Sequence[Candidate], *, metric: str, x_title: str, x_unit: str = "") -> ParetoPanel | None:
    """The chart; None of fewer than two models with a cost above 0."""
    known = [one for one in candidates if math.isfinite(one.cost) and one.cost > 0 and math.isfinite(one.quality.value)]
    if len(known) < 2:
        return None
    described = formatting.describe(metric)
    shown = {one.mark: formatting.scaled(one.quality, described.unit) for one in known}
    costs = [one.cost for one in known]
    is_wide = max(costs) / min(costs) > WIDE
    x_axis = axis_over([_placed(cost, is_wide) for cost in costs], margin=0.1)
    y_axis = axis_over(
        [bound for one in shown.values() for bound in (one.low, one.value, one.high) if math.isfinite(bound)]
    )
    best = undominated(known, described.better)
    filled = [] if any(one.line for one in known) else best
    points = [_point(one, shown[one.mark], x_axis, y_axis, one in filled, metric, x_unit, is_wide) for one in known]
    places = {point.mark: point for point in points}
    return ParetoPanel(
        title=f"{described.title} against {x_title}",
        x_title=f"{x_title}, less is better",
        y_title=f"{described.title}, {described.better} is better",
        points=points,
        paths=_paths(known, best, places),
        note="" if any(one.line for one in known) else "Filled: beaten by none on both.",
        x_ticks=_x_ticks(x_axis, x_unit, is_wide),
        y_ticks=y_axis.ticks(4, unit=" %" if described.unit == "share" else ""),
        description=_description(known, best, metric, x_title, x_unit),
    )


def _paths(
    known: Sequence[Candidate], best: Sequence[Candidate], places: Mapping[str, ParetoPoint]
) -> list[tuple[str, str]]:
    lines: dict[str, list[Candidate]] = {}
    for one in sorted(known, key=lambda one: one.cost):
        if one.line:
            lines.setdefault(one.line, []).append(one)
    joined = [(found[0].role, found) for found in lines.values()] or [("frontier", list(best))]
    return [
        (name, "M" + "L".join(f"{places[one.mark].x} {100 - places[one.mark].y:g}" for one in found))
        for name, found in joined
    ]


def _placed(cost: float, is_wide: bool) -> float:
    return math.log10(cost) if is_wide else cost


def _point(
    one: Candidate, shown: Interval, x: Axis, y: Axis, is_best: bool, metric: str, x_unit: str, is_wide: bool
) -> ParetoPoint:
    low, high = (y.at(bound) if math.isfinite(bound) else y.at(shown.value) for bound in (shown.low, shown.high))
    title = f"{one.mark}: {one.name}, {_told(one, metric, x_unit)}"
    place = x.at(_placed(one.cost, is_wide))
    return ParetoPoint(one.mark, one.role, place, y.at(shown.value), low, high, is_best, title)


def _told(one: Candidate, metric: str, x_unit: str) -> str:
    described = formatting.describe(metric)
    return f"{described.title} {formatting.interval_text(one.quality, described.unit)}, {_cost(one.cost, x_unit)}"


def _cost(cost: float, unit: str) -> str:
    if not unit:
        return formatting.short(cost)
    return formatting.si(cost, unit) if unit == "B" else f"{formatting.significant(cost)} {unit}"


def _x_ticks(axis: Axis, unit: str, is_wide: bool) -> list[Tick]:
    if not is_wide:
        return [Tick(axis.at(value), _cost(value, unit)) for value in round_values(axis.low, axis.high, 4) if value > 0]
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 3)]
    return [
        Tick(axis.at(math.log10(value)), _cost(value, unit))
        for value in values
        if axis.low <= math.log10(value) <= axis.high
    ]


def _description(known: Sequence[Candidate], best: Sequence[Candidate], metric: str, x_title: str, x_unit: str) -> str:
    rows = "; ".join(f"{one.mark} {one.name}: {_told(one, metric, x_unit)}" for one in known)
    marks = ", ".join(one.mark for one in best)
    return f"{formatting.describe(metric).title} against {x_title}. {rows}. Beaten by none on both: {marks}."
