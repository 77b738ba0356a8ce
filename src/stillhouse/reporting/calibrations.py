"""What the report shows of calibration: error and Brier score, and how often each model is right when it is so sure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stillhouse.core.likeness import CalibrationFound
from stillhouse.core.measures import Reliability
from stillhouse.core.results import Role
from stillhouse.core.suite_results import found_by
from stillhouse.core.tasks import TasksFound
from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.shapes import Prose, Row, Table
from stillhouse.reporting.tasks import interval_cell
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES


@dataclass(frozen=True)
class Point:
    """A bin of answers: how sure and how often right, with its interval, in per cent of the diagram; and its share of all."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Line:
    """One model in a diagram."""

    role: Role
    title: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Diagram:
    """Accuracy by confidence: on the diagonal, a model is as often right as it is sure."""

    title: str
    description: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class CalibrationView(Prose):
    """Tables and remarks, and a diagram for each thing that was judged."""

    diagrams: Sequence[Diagram] = field(default_factory=tuple)


def calibration_view(account: Account) -> CalibrationView | None:
    """The whole section: of the suite, and of every task of several choices; None where there is neither."""
    suites = found_by(account.result)
    found: list[Reliability] = []
    if isinstance(own := suites.get("calibration"), CalibrationFound):
        found += own.models
    if isinstance(tasks := suites.get("tasks"), TasksFound):
        found += [one for task in tasks.tasks for one in task.reliability]
    by_judged = {of: [one for one in found if one.of == of] for of in dict.fromkeys(one.of for one in found)}
    if not by_judged:
        return None
    return CalibrationView(
        intro="A model is calibrated if it is right on 70 % of the answers that it gives with 70 % confidence. A student may "
        "lose that while its accuracy stays.",
        tables=[_table(of, models) for of, models in by_judged.items()],
        notes=[
            "Of a task, confidence is the share of the likeliest choice among all of its choices, by the whole log-probability."
        ]
        if any(of not in ("the text's next token", "the teacher's likeliest answer") for of in by_judged)
        else [],
        diagrams=[_diagram(of, models) for of, models in by_judged.items()],
    )


def _ordered(models: Sequence[Reliability]) -> list[Reliability]:
    order: Mapping[str, int] = {role: place for place, role in enumerate(ROLE_ORDER)}
    return sorted(models, key=lambda one: order.get(one.role, len(order)))


def _table(of: str, models: Sequence[Reliability]) -> Table:
    answers = formatting.count(sum(one.answers for one in models[0].bins))
    return Table(
        caption=f"Calibration: {formatting.one_line(of)}, {answers} answers.",
        corner="model",
        columns=[("calibration error", "lower is better"), ("Brier score", "lower is better")],
        rows=[
            Row(SHORT_TITLES[one.role], "", one.role, [interval_cell(one.error, "share"), interval_cell(one.brier, "")])
            for one in _ordered(models)
        ],
    )


def _diagram(of: str, models: Sequence[Reliability]) -> Diagram:
    shown = [one for one in _ordered(models) if one.role in ("teacher", "student")] or _ordered(models)[:1]
    errors = "; ".join(f"{SHORT_TITLES[one.role]} {formatting.interval_text(one.error, 'share')}" for one in shown)
    return Diagram(
        formatting.one_line(of),
        f"Accuracy by confidence, {formatting.one_line(of)}. Calibration error: {errors}.",
        [Line(one.role, SHORT_TITLES[one.role], _points(one)) for one in shown],
    )


def _points(one: Reliability) -> list[Point]:
    total = sum(found.answers for found in one.bins)
    return [
        Point(
            round(100 * found.confidence, 2),
            round(100 - 100 * found.accuracy.value, 2),
            round(100 - 100 * max(0.0, found.accuracy.low), 2),
            round(100 - 100 * min(1.0, found.accuracy.high), 2),
            f"confidence {formatting.percent(found.confidence)}, right {formatting.percent(found.accuracy.value)}, "
            f"{formatting.percent(found.answers / total)} of all answers",
        )
        for found in one.bins
    ]
