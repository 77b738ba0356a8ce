"""What the report shows of quality: tiles, a panel a metric, and the tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.core.results import ROLE_TITLES, EvaluationResult, Interval, ModelResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import DotPanel, dot_panel
from stillhouse.reporting.shapes import Cell, Row, Table, model_row
from stillhouse.reporting.taught import absent_row
from stillhouse.reporting.verdicts import (
    ANSWERS,
    OTHERS,
    SHORT_TITLES,
    best_roles,
    counted_documents,
    headline_metric,
    metric_names,
    models_in_order,
    other_tokens,
    verdicts,
)


@dataclass(frozen=True)
class Tile:
    """One big number."""

    name: Literal["quality", "alike"]
    value: str
    unit: str
    label: str
    detail: str


@dataclass(frozen=True)
class QualityView:
    """The section: what was measured on, a chart a metric, what was gained, and every number."""

    held_out: str
    seen: str
    """Whether anybody was trained on it."""
    legend: Sequence[tuple[Role, str]]
    panels: Sequence[DotPanel]
    gains: Table | None
    numbers: Table
    flips: Table | None = None
    """Of a classifier: which answers changed, which an equal accuracy hides."""


def quality_view(result: EvaluationResult, *, is_known: bool = True) -> QualityView:
    """The whole section."""
    return QualityView(
        held_out=held_out_sentence(result),
        seen="none were trained on" if is_known else "whether a model was trained on them is not known here",
        legend=[(model.role, ROLE_TITLES[model.role]) for model in models_in_order(result)],
        panels=[dot_panel(result, name) for name in _measured(result)],
        gains=gains_table(result),
        numbers=quality_table(result),
        flips=flips_table(result),
    )


def flips_table(result: EvaluationResult) -> Table | None:
    """Which documents are right by the teacher and wrong by a model, and the other way round; None where nobody counted."""
    if not result.flips:
        return None

    def row(model: ModelResult) -> Row:
        found = result.flips[model.role]
        counts = (found.both_right, found.lost, found.won, found.both_wrong)
        p_value = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
        return model_row(model, [*(Cell(formatting.count(one)) for one in counts), Cell(p_value)])

    return Table(
        caption="Which documents changed: right or wrong by the teacher, and by each model.",
        corner="model",
        columns=[
            ("both right", ""),
            ("lost", "right by the teacher alone"),
            ("won", "right by the model alone"),
            ("both wrong", ""),
            ("McNemar", "exact, two-sided"),
        ],
        rows=[row(model) for model in models_in_order(result) if model.role in result.flips],
    )


def held_out_sentence(result: EvaluationResult) -> str:
    """What everything was measured on."""
    held_out, are_sentences = result.held_out, result.task == "sentence_embedding"
    name = "sentence" if are_sentences else "document"
    parts = [f"{formatting.count(held_out.documents)} held-out {name}{'' if held_out.documents == 1 else 's'}"]
    parts.append(f"{formatting.count(held_out.tokens)} tokens")
    if held_out.answers is not None:
        judged = "scored pairs beside them" if are_sentences else "of them judged"
        parts.append(f"{formatting.count(held_out.answers)} {judged}")
    if held_out.bytes is not None:
        parts.append(f"{formatting.si(held_out.bytes, 'B')} of text")
    return ". ".join(part for part in (", ".join(parts), other_tokens(result).rstrip(".")) if part)


LIKENESS: Sequence[str] = ("top1_agreement", "teacher_spearman", "forward_kl", "teacher_cka", "bits_per_byte")
"""What says how near a student is to its teacher, the easiest to grasp first."""


def tiles(result: EvaluationResult) -> list[Tile]:
    """How near the student is to its teacher, beside the share it keeps, or else beside what the headline speaks of."""
    student = result.model("student")
    if student is None:
        return []
    near = [name for name in LIKENESS if name in student.metrics]
    first = headline_metric(result) if result.retention("student") is None else None
    names = [name for name in dict.fromkeys([first, *near]) if name]
    return [_metric_tile(name, result, student) for name in names[: 2 if first else 1]]


def _metric_tile(name: str, result: EvaluationResult, student: ModelResult) -> Tile:
    metric = formatting.describe(name)
    teacher = result.model("teacher")
    detail = formatting.bounds_text(student.metrics[name], metric.unit)
    if teacher and name in teacher.metrics and not formatting.is_exact(teacher.metrics[name]):
        detail += f", teacher {formatting.value_text(teacher.metrics[name], '' if metric.unit != 'share' else 'share')}"
    label = f"of {ANSWERS[result.task]}, student and teacher agree" if name == "top1_agreement" else metric.title
    unit = "" if metric.title.startswith(metric.unit) else formatting.written_unit(metric.unit)
    kind: Literal["quality", "alike"] = "alike" if name in LIKENESS[:-1] else "quality"
    return Tile(kind, _bare(student.metrics[name], metric.unit), unit, label, detail)


def _bare(interval: Interval, unit: str) -> str:
    return formatting.value_text(formatting.scaled(interval, unit), "")


def _measured(result: EvaluationResult) -> list[str]:
    return [name for name in metric_names(result) if any(name in model.metrics for model in result.models)]


def quality_table(result: EvaluationResult) -> Table:
    """Every model on every metric."""
    names = _measured(result)
    best = {name: best_roles(result, name) for name in names}

    def row(model: ModelResult) -> Row:
        return model_row(model, [_metric_cell(model, name, is_best=model.role in best[name]) for name in names])

    return Table(
        caption=f"Quality with 95 % intervals, on {held_out_sentence(result)}.",
        corner="model",
        columns=[_metric_column(name) for name in names],
        rows=[*absent_row(result, len(names)), *(row(model) for model in models_in_order(result))],
    )


def _metric_column(name: str) -> tuple[str, str]:
    metric = formatting.describe(name)
    unit = "" if metric.title.startswith(metric.unit) or metric.unit == "share" else f"{metric.unit}, "
    return metric.title, f"{unit}{metric.better} is better" if metric.meaning else metric.unit


def _metric_cell(model: ModelResult, name: str, *, is_best: bool) -> Cell:
    unit = formatting.describe(name).unit
    interval = model.metrics.get(name)
    if interval is None:
        return Cell("-")
    written_unit = unit if unit == "share" else ""
    return Cell(formatting.value_text(interval, written_unit), formatting.bounds_text(interval, unit), is_best=is_best)


def gains_table(result: EvaluationResult) -> Table | None:
    """By how much the student is better than each other model, metric by metric; None where nothing was compared."""
    found = {other: {row.metric: row for row in verdicts(result, other)} for other in OTHERS}
    found = {other: rows for other, rows in found.items() if rows}
    names = [name for name in metric_names(result) if any(name in rows for rows in found.values())]

    def cell(other: Role, name: str) -> Cell:
        row = found[other].get(name)
        if row is None:
            return Cell("-")
        text = formatting.difference_text(row.gain, formatting.describe(name).unit)
        value, _, bounds = text.partition("[")
        return Cell(value.strip(), f"[{bounds}" if bounds else "", outcome=row.outcome)

    rows = [Row(f"over {SHORT_TITLES[other]}", "", other, [cell(other, name) for name in names]) for other in found]
    if not rows:
        return None
    over, what = counted_documents(result), "What the student gained" if result.made_here else "How the student differs"
    caption = f"{what}, paired over the same {over}. Positive is better, whatever the metric."
    return Table(caption, "gain", [(formatting.describe(name).title, "") for name in names], rows)
