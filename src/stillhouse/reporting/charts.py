"""Where the marks of a chart go, as percentages of its width and height. The template draws them.

Percentages, not pixels: a chart then fits a telephone and a printed page while its text keeps its size.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from stillhouse.core.results import EvaluationResult, Interval, ModelResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.verdicts import SHORT_TITLES, best_roles, models_in_order

CURVE_POINTS = 240  # more cannot be told apart on a screen, and a long run must not fill the file
FAR_OUT = 5.0  # a model this many times beyond the others' spread is shown at the edge instead of squashing them

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in percent of its length."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from low to high."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, in percent from the low end."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self, num_wanted: int, *, unit: str = "") -> list[Tick]:
        """Round values inside the axis."""
        values = round_values(self.low, self.high, num_wanted)
        step = values[1] - values[0] if len(values) > 1 else max(abs(self.high), 1.0)
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        return [Tick(self.at(value), f"{formatting.number(value, places)}{unit}") for value in values]


def axis_over(values: Iterable[float], *, margin: float = 0.06) -> Axis:
    """An axis that holds every finite value, with some room at both ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = margin * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - room, high + room)


def round_values(low: float, high: float, num_wanted: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between low and high, as near to the wanted count as there are."""
    power = 10.0 ** math.floor(math.log10((high - low) / num_wanted))
    # The largest step first: of two counts equally near, the one that leaves more room for labels.
    choices = [_multiples(low, high, factor * power) for factor in (10, 5, 2, 1)]
    return min(choices, key=lambda values: abs(len(values) - num_wanted))


def _multiples(low: float, high: float, step: float) -> list[float]:
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Dot:
    """One model's value with its interval in a panel."""

    role: Role
    title: str
    at: float
    low: float
    high: float
    beyond: Literal["", "left", "right"]
    value: str
    bounds: str
    is_best: bool


@dataclass(frozen=True)
class DotPanel:
    """All models on one metric."""

    name: str
    title: str
    unit: str
    meaning: str
    better: Literal["lower", "higher"] | None
    dots: Sequence[Dot]
    ticks: Sequence[Tick]

    @property
    def has_arrows(self) -> bool:
        """Whether some model lies beyond the chart."""
        return any(dot.beyond for dot in self.dots)

    @property
    def description(self) -> str:
        """The chart in words, for those who cannot see it."""
        rows = "; ".join(f"{dot.title} {dot.value} {dot.bounds}".strip() for dot in self.dots)
        return f"{self.title}{f', {self.better} is better' if self.better else ''}: {rows}."


def dot_panel(result: EvaluationResult, name: str) -> DotPanel:
    """One metric's panel."""
    metric = formatting.describe(name)
    models = [model for model in models_in_order(result) if name in model.metrics]
    intervals = {model.role: formatting.scaled(model.metrics[name], metric.unit) for model in models}
    axis = _dot_axis(intervals)
    best = best_roles(result, name)
    is_unit_in_title = metric.title.startswith(metric.unit) or metric.unit == "share"
    return DotPanel(
        name=name,
        title=metric.title,
        unit="" if is_unit_in_title else metric.unit,
        meaning=metric.meaning,
        better=metric.better if metric.meaning else None,
        dots=[_dot(model, name, metric.unit, axis, is_best=model.role in best) for model in models],
        ticks=axis.ticks(3, unit=" %" if metric.unit == "share" else ""),
    )


def _dot_axis(intervals: Mapping[Role, Interval]) -> Axis:
    near = [interval for role, interval in intervals.items() if role in ("teacher", "student", "control_hard_labels")]
    everyone, core = _bounds(intervals.values()), _bounds(near)
    core_axis, whole_axis = axis_over(core), axis_over(everyone)
    is_squashed = whole_axis.high - whole_axis.low > FAR_OUT * (core_axis.high - core_axis.low)
    return core_axis if len(near) > 1 and is_squashed else whole_axis


def _bounds(intervals: Iterable[Interval]) -> list[float]:
    return [bound for interval in intervals for bound in (interval.low, interval.value, interval.high)]


def _dot(model: ModelResult, name: str, unit: str, axis: Axis, *, is_best: bool) -> Dot:
    interval = model.metrics[name]
    shown = formatting.scaled(interval, unit)
    is_low = shown.value < axis.low
    is_beyond = is_low or not shown.value <= axis.high  # also for a value that is not a number
    return Dot(
        role=model.role,
        title=SHORT_TITLES[model.role],
        at=(0.0 if is_low else 100.0) if is_beyond else axis.at(shown.value),
        low=_within(axis.at(shown.low)) if math.isfinite(shown.low) else 0.0,
        high=_within(axis.at(shown.high)) if math.isfinite(shown.high) else 100.0,
        beyond="" if not is_beyond else "left" if is_low else "right",
        value=formatting.value_text(interval, unit if unit == "share" else ""),
        bounds=formatting.bounds_text(interval, unit),
        is_best=is_best,
    )


def _within(percentage: float) -> float:
    return min(100.0, max(0.0, percentage))


@dataclass(frozen=True)
class Line:
    """One arm's curve: every (averaged) point faint, the trend bold."""

    role: str
    title: str
    faint: str
    trend: str
    end: Point
    last: str


@dataclass(frozen=True)
class CurvePanel:
    """One term over training, for every arm that has it."""

    name: str
    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_title: str
    note: str

    @property
    def description(self) -> str:
        """The chart in words."""
        ends = "; ".join(f"{line.title} ends at {line.last}" for line in self.lines)
        return f"{self.title} over {self.x_title}: {ends}."


TERM_TITLES: Mapping[str, str] = {
    "forward_kl": "forward KL to the teacher",
    "reverse_kl": "reverse KL to the teacher",
    "next_token": "next-token loss",
    "masked_token": "masked-token loss",
    "hard_label": "hard-label loss",
    "hidden_cosine": "hidden states, 1 - cosine",
    "embedding_cosine": "embeddings, 1 - cosine",
    "linear_cka": "hidden states, 1 - linear CKA",
    "loss": "total loss",
    "answer_tokens": "tokens of the student's answers",
    "finished_share": "share of its answers that end by themselves",
    "answer_entropy": "student's entropy on its answers, nats",
    "top1_agreement": "likeliest token as the teacher's, share",
    "held_out_reward": "reward of held-out answers",
    "held_out_agreement": "held-out tokens with the teacher's likeliest, share",
}
NATS = frozenset(
    {"next_token", "masked_token", "hard_label", "jsd", "alpha_beta", "taid", "decoupled_kd"}
)  # beside every term whose name ends in `kl`
ACRONYMS: Mapping[str, str] = {name.lower(): name for name in ("KL", "MSE", "CKA", "JSD", "TAID", "KD", "NCE")}
WATCHED = ("answer_tokens", "finished_share", "answer_entropy", "top1_agreement", "weightless_share")
"""What is counted of the student's own answers beside its loss."""
POSITIONS = ("step", "tokens", "epoch", "seconds")
UNSHOWN = (*POSITIONS, "weightless_share")  # a share that is 0 in every healthy run
LAST_TERMS = ("loss", "gradient_norm", "learning_rate")


def term_words(name: str) -> str:
    """A logged term in words: `value_relation_kl` is `value relation KL`."""
    words = " ".join(ACRONYMS.get(word, word) for word in name.split("_"))
    return TERM_TITLES.get(name, words).removesuffix(" to the teacher")


def term_title(name: str) -> str:
    """A logged term with its unit, where it has one; a term's second occurrence carries a number behind its name."""
    objective = re.sub(r"[ _]?\(?\d+\)?$", "", name)
    unit = ", nats" if objective in NATS or objective.endswith("kl") else ""
    return (TERM_TITLES.get(name) or term_words(name)) + unit


def curve_panels(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[CurvePanel]:
    """One panel per logged term; the terms of the objectives first, total loss and learning rate last."""
    ordered = shown_terms(curves)
    position = "tokens" if all(_is_number(line.get("tokens")) for rows in curves.values() for line in rows) else "step"
    panels = (_curve_panel(name, curves, position) for name in ordered)
    return [panel for panel in panels if panel is not None]


def shown_terms(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Whatever is logged and worth a look, in the order of its panels."""
    names = dict.fromkeys(name for lines in curves.values() for line in lines for name in line if name not in UNSHOWN)
    return [name for name in names if name not in LAST_TERMS] + [name for name in LAST_TERMS if name in names]


def series(lines: Sequence[Mapping[str, float]], name: str, position: str = "step") -> list[Point]:
    """(position, value) of every line that holds both as finite numbers."""
    return [
        (line[position], line[name]) for line in lines if _is_number(line.get(position)) and _is_number(line.get(name))
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve_panel(name: str, curves: Mapping[str, Sequence[Mapping[str, float]]], position: str) -> CurvePanel | None:
    points = {arm: thinned(series(lines, name, position)) for arm, lines in curves.items()}
    points = {arm: line for arm, line in points.items() if len(line) > 1}
    if not points:
        return None
    x_axis = Axis(0.0, max(x for line in points.values() for x, _ in line) or 1.0)
    trends = {arm: trend(line) for arm, line in points.items()}
    y_axis, is_cut = _curve_axis(trends)
    is_own_sum = name == "loss" and len(points) > 1
    notes = {
        "each arm's own weighted sum, not to be compared": is_own_sum,
        "the first values lie above the chart": is_cut,
    }
    return CurvePanel(
        name=name,
        title=term_title(name),
        lines=[_line(arm, points[arm], trends[arm], x_axis, y_axis) for arm in points],
        x_ticks=[Tick(x_axis.at(value), formatting.short(value)) for value in round_values(x_axis.low, x_axis.high, 4)],
        y_ticks=[Tick(y_axis.at(value), formatting.short(value)) for value in round_values(y_axis.low, y_axis.high, 4)],
        x_title="training tokens" if position == "tokens" else "steps",
        note="; ".join([title for title, holds in notes.items() if holds]),
    )


def _curve_axis(trends: Mapping[str, Sequence[Point]]) -> tuple[Axis, bool]:
    """The range of the trends; the first few points are cut off where they would flatten all the rest."""
    values = sorted(y for line in trends.values() for _, y in line)
    usual_top = values[int(0.96 * (len(values) - 1))]
    flattens = values[-1] - values[0] > 2 * (usual_top - values[0]) > 0
    later = (y for line in trends.values() for _, y in line[max(1, len(line) // 10) :])
    is_cut = flattens and max(later, default=usual_top) <= usual_top
    return axis_over([values[0], usual_top if is_cut else values[-1]]), is_cut


def _line(arm: str, points: Sequence[Point], smooth: Sequence[Point], x_axis: Axis, y_axis: Axis) -> Line:
    end_x, end_y = smooth[-1]
    return Line(
        role=arm,
        title=SHORT_TITLES.get(arm, arm.replace("_", " ")),  # type: ignore[call-overload]
        faint=_path(points, x_axis, y_axis),
        trend=_path(smooth, x_axis, y_axis),
        end=(x_axis.at(end_x), 100 - y_axis.at(end_y)),
        last=formatting.significant(end_y) if abs(end_y) >= 1e-3 else formatting.short(end_y),
    )


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    return "M" + "L".join(f"{x_axis.at(x):g} {100 - y_axis.at(y):.6g}" for x, y in points)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most CURVE_POINTS points, each the mean of its neighbours."""
    size = math.ceil(len(points) / CURVE_POINTS)
    if size < 2:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def trend(points: Sequence[Point]) -> list[Point]:
    """The points averaged over a window of a twentieth of the whole, centred where it can be."""
    reach = len(points) // 40
    if reach == 0:
        return list(points)
    totals = [0.0]
    for _, y in points:
        totals.append(totals[-1] + y)
    smooth = []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)  # symmetric at the ends too: no lag, no bend
        first, last = index - near, index + near + 1
        smooth.append((x, (totals[last] - totals[first]) / (last - first)))
    return smooth


@dataclass(frozen=True)
class LayerCell:
    """One layer of the teacher in the strip."""

    index: int
    x: float
    width: float
    height: float
    is_kept: bool
    is_labelled: bool
    title: str


def layer_strip(num_layers: int, kept: Iterable[int], scores: Sequence[float | None] | None) -> list[LayerCell]:
    """One cell per teacher layer; its height is the square root of its score, so that small ones can be told apart."""
    chosen = set(kept)
    known = list(scores or [])[:num_layers]
    values = [value if _is_number(value) else None for value in known] + [None] * (num_layers - len(known))
    highest = max((value for value in values if value is not None), default=0.0)
    pitch = 100 / max(1, num_layers)
    label_every = 5 if num_layers <= 60 else 10
    return [
        LayerCell(
            index=index,
            x=round(index * pitch, 3),
            width=round(pitch * 0.84, 3),
            height=_cell_height(value, highest),
            is_kept=index in chosen,
            is_labelled=index % label_every == 0,
            title=_cell_title(index, value, is_kept=index in chosen),
        )
        for index, value in enumerate(values)
    ]


def _cell_height(value: float | None, highest: float) -> float:
    if value is None:
        return 55.0 if highest <= 0 else 8.0
    return round(max(8.0, 100 * math.sqrt(max(0.0, value) / highest)) if highest > 0 else 8.0, 1)


def _cell_title(index: int, value: float | None, *, is_kept: bool) -> str:
    influence = "" if value is None else f", influence {formatting.significant(value)}"
    return f"layer {index}: {'kept' if is_kept else 'dropped'}{influence}"


def ranges(indices: Iterable[int]) -> str:
    """`0-3, 5, 7-8` for 0 1 2 3 5 7 8."""
    ordered = sorted(set(indices))
    breaks = [0, *(place + 1 for place, (one, two) in enumerate(pairwise(ordered)) if two != one + 1), len(ordered)]
    runs = [ordered[first:last] for first, last in pairwise(breaks) if first < last]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
