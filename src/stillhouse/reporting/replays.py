"""What the report, the card and the terminal say of other data: what a student has forgotten of it, or kept by replay."""

from collections.abc import Sequence

from stillhouse.core.results import EvaluationResult, Interval, OldDomain, ReplayResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

METRICS = ("cross_entropy", "bits_per_byte", "forward_kl", "top1_agreement")
INTRO = "A part of the data that was mixed in, or only measured on, which nobody trained on."


def replay_view(result: EvaluationResult) -> Prose | None:
    """The whole section; None where no other data was looked at."""
    found = result.replay
    return None if found is None else Prose(replay_lines(found), [_table(found)], intro=INTRO)


def replay_lines(found: ReplayResult) -> list[str]:
    """What the student has forgotten, and how it stands beside each control."""
    student = found.model("student")
    if student is None:
        return []
    loss = formatting.interval_text(student.metrics["cross_entropy"], "nats")
    documents = f"{formatting.count(found.documents)} held-out documents of the replayed data"
    line = f"On {documents}, the student's loss is {loss} a token"
    if student.change is not None:
        change = formatting.interval_text(student.change, "share")
        line += f"; over before training, its bits per byte changed by {change}"
    return [f"{line}.", *(text for model in found.models if (text := _beside(found, model.role)))]


def _beside(found: ReplayResult, other: Role) -> str:
    if not other.startswith("control"):
        return ""
    more = next(row.difference for row in found.comparisons if (row.metric, row.other) == ("cross_entropy", other))
    name = f"control ({SHORT_TITLES[other].removeprefix('control: ')})"
    less = Interval(-more.value, -more.high, -more.low)
    if more.low <= 0 <= more.high:
        shown = formatting.interval_text(more, "nats")
        return f"There, no difference was shown between its loss and that of the {name}: {shown} a token."
    word, by = ("higher", more) if more.low > 0 else ("lower", less)
    return f"There, its loss is {word} than that of the {name} by {formatting.interval_text(by, 'nats')} a token."


def _table(found: ReplayResult) -> Table:
    """Every model on the replayed data."""
    names = [name for name in METRICS if any(name in model.metrics for model in found.models)]
    columns = [(formatting.describe(name).title, _unit(name)) for name in names]
    return Table(
        caption=f"Replayed data: {formatting.count(found.documents)} held-out documents, 95 % intervals.",
        corner="model",
        columns=[*columns, ("change of bits per byte", "over before training; lower is better")],
        rows=[_row(model, names) for model in sorted(found.models, key=lambda model: ROLE_ORDER.index(model.role))],
    )


def _unit(name: str) -> str:
    metric = formatting.describe(name)
    unit = "" if metric.unit in ("share", "bits") else f"{metric.unit}, "
    return f"{unit}{metric.better} is better"


def _row(model: OldDomain, names: Sequence[str]) -> Row:
    cells = [_cell(model, name) for name in names]
    change = Cell("-")
    if model.change is not None:
        change = Cell(formatting.value_text(model.change, "share"), formatting.bounds_text(model.change, "share"))
    return Row(SHORT_TITLES[model.role], "", model.role, [*cells, change])


def _cell(model: OldDomain, name: str) -> Cell:
    if name not in model.metrics:
        return Cell("-")
    interval, unit = model.metrics[name], formatting.describe(name).unit
    return Cell(
        formatting.value_text(interval, unit if unit == "share" else ""), formatting.bounds_text(interval, unit)
    )
