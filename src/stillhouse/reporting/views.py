"""What the report shows, section by section, as plain values that the template only has to lay out."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.core.results import ROLE_TITLES, Cost, EvaluationResult, Interval, ModelResult, Role, Sample
from stillhouse.reporting import formatting
from stillhouse.reporting.advice import Advice, advise
from stillhouse.reporting.charts import CurvePanel, DotPanel, LayerCell, curve_panels, dot_panel, layer_strip, ranges
from stillhouse.reporting.figures import Figure, headline_figures
from stillhouse.reporting.verdicts import (
    ANSWERS,
    OTHERS,
    SHORT_TITLES,
    Finding,
    Outcome,
    best_roles,
    counted_documents,
    findings,
    headline_metric,
    lead,
    metric_names,
    models_in_order,
    other_tokens,
    verdicts,
)

SAMPLE_BYTES = 1_200_000  # of escaped text; with curves and recipe the file stays well under 3 MB
SAMPLE_CHARACTERS = 1_500
SAMPLES_OPEN = 3
RECIPE_CHARACTERS = 100_000

SAMPLE_ORDER: Sequence[Role] = ("teacher", "student", "student_before", "control_hard_labels", "control_from_scratch")


@dataclass(frozen=True)
class Tile:
    """One big number."""

    name: Literal["quality", "alike"]
    value: str
    unit: str
    label: str
    detail: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value, its bounds or a remark below it, and how it is marked."""

    value: str
    below: str = ""
    is_best: bool = False
    outcome: Outcome | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table; `role` colours its heading."""

    title: str
    below: str
    role: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table with a caption and a heading for every column and row."""

    caption: str
    corner: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True)
class TableView:
    """A section of the report: a few sentences, and a table."""

    lines: Sequence[str]
    table: Table


@dataclass(frozen=True)
class Writer:
    """What one model wrote for a sample: the beginning it shares with the teacher's text, then its own."""

    role: Role
    title: str
    shared: str
    own: str
    left_out: str


@dataclass(frozen=True)
class SampleView:
    """A prompt and what every model made of it."""

    prompt: str
    left_out: str
    writers: Sequence[Writer]


@dataclass(frozen=True)
class LayersView:
    """Which layers were kept, and how far from the teacher that left the student before training."""

    sentence: str
    description: str
    cells: Sequence[LayerCell]
    has_scores: bool
    alternatives: Sequence[Row]
    alternatives_caption: str


@dataclass(frozen=True)
class StartDistance:
    """How far from its teacher a student was before any training, and by which measure."""

    value: float
    measure: Literal["KL", "cosine distance"]

    def written(self, value: float) -> str:
        """This distance, or that of another choice of layers: `2.31 nats`, `0.121 cosine distance`."""
        return f"{formatting.significant(value)} {'nats' if self.measure == 'KL' else self.measure}"


@dataclass(frozen=True)
class Facts:
    """A titled list of facts."""

    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Everything on the page, top to bottom."""

    title: str
    teacher: str
    student: str
    lead: str
    findings: Sequence[Finding]
    figures: Sequence[Figure]
    tiles: Sequence[Tile]
    legend: Sequence[tuple[Role, str]]
    panels: Sequence[DotPanel]
    quality: Table
    gains: Table | None
    cost: Table
    curves: Sequence[CurvePanel]
    layers: LayersView | None
    data: Sequence[Facts]
    samples: Sequence[SampleView]
    samples_note: str
    samples_open: int
    recipe: str
    environment: Sequence[tuple[str, str]]
    stages: Sequence[Row]
    stages_total: str
    advice: Sequence[Advice]
    held_out: str


def report_view(
    *,
    title: str,
    result: EvaluationResult,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    recipe_yaml: str,
    layers: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
) -> Report:
    """The whole page."""
    samples = sample_views(result.samples)
    names = {model.role: formatting.one_line(model.name) for model in result.models}
    return Report(
        title=formatting.one_line(title),
        teacher=names.get("teacher", ""),
        student=names.get("student", ""),
        lead=lead(result),
        findings=findings(result),
        figures=headline_figures(result),
        tiles=tiles(result),
        legend=[(model.role, ROLE_TITLES[model.role]) for model in models_in_order(result)],
        panels=[dot_panel(result, name) for name in _measured(result)],
        quality=quality_table(result),
        gains=gains_table(result),
        cost=cost_table(result),
        curves=curve_panels(curves),
        layers=layers_view(layers) if layers else None,
        data=data_facts(data, result),
        samples=samples,
        samples_note=_samples_note(len(samples), len(result.samples)),
        samples_open=SAMPLES_OPEN,
        recipe=truncated(formatting.clean(recipe_yaml), RECIPE_CHARACTERS)[0],
        environment=[
            (_words(name), truncated(formatting.one_line(str(value)), 300)[0]) for name, value in result.machine.items()
        ],
        stages=stage_rows(stages),
        stages_total=formatting.duration(sum(_seconds(stage) for stage in stages)),
        advice=advise(result, curves=curves, data=data, stages=stages),
        held_out=held_out_sentence(result),
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
        return _model_row(model, [_metric_cell(model, name, is_best=model.role in best[name]) for name in names])

    return Table(
        caption=f"Quality with 95 % intervals, on {held_out_sentence(result)}.",
        corner="model",
        columns=[_metric_column(name) for name in names],
        rows=[row(model) for model in models_in_order(result)],
    )


def _model_row(model: ModelResult, cells: Sequence[Cell]) -> Row:
    return Row(SHORT_TITLES[model.role], formatting.one_line(model.name), model.role, cells)


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
    over = counted_documents(result)
    caption = f"What the student gained, paired over the same {over}. Positive is better, whatever the metric."
    return Table(caption, "gain", [(formatting.describe(name).title, "") for name in names], rows)


CostColumn = tuple[str, str, Callable[[Cost], float | Interval | None], str]
"""Title, what stands below it, the number, and the unit in which a plain number is written."""

COST_COLUMNS: Sequence[CostColumn] = (
    ("parameters", "", lambda cost: cost.parameters, ""),
    ("without embeddings", "", lambda cost: cost.parameters_without_embeddings, ""),
    ("on disk", "", lambda cost: cost.disk_bytes, "B"),
    ("prefill", "tokens/s, higher is better", lambda cost: cost.prefill_tokens_per_second, ""),
    ("decode", "tokens/s, higher is better", lambda cost: cost.decode_tokens_per_second, ""),
    ("one document", "ms, lower is better", lambda cost: cost.document_milliseconds, ""),
)


def cost_table(result: EvaluationResult) -> Table:
    """What each model costs to keep and to run: the columns that were measured."""
    models = models_in_order(result)
    columns = [column for column in COST_COLUMNS if any(column[2](model.cost) is not None for model in models)]
    most = {column[0]: max((_plain(column[2](model.cost)) for model in models), default=0.0) for column in columns}

    def row(model: ModelResult) -> Row:
        return _model_row(model, [_cost_cell(model.cost, column, most[column[0]]) for column in columns])

    return Table(
        caption="Cost on the machine named under environment; bars compare the models in each column.",
        corner="model",
        columns=[(title, below) for title, below, _, _ in columns],
        rows=[row(model) for model in models],
    )


def _plain(found: float | Interval | None) -> float:
    return found.value if isinstance(found, Interval) else float(found or 0)


def _cost_cell(cost: Cost, column: CostColumn, most: float) -> Cell:
    _, _, value, unit = column
    found = value(cost)
    if found is None:
        return Cell("-")
    share = _plain(found) / most if most > 0 else 0.0
    bar = round(100 * min(1.0, max(0.0, share)), 1) if share == share else None
    if isinstance(found, Interval):
        return Cell(formatting.value_text(found, ""), formatting.bounds_text(found, ""), bar=bar)
    return Cell(formatting.si(found, unit), bar=bar)


def layers_view(layers: Mapping[str, Any]) -> LayersView:
    """The strip of layers and the sentence above it."""
    kept_layers = [int(index) for index in layers.get("kept") or []]
    total = int(layers.get("teacher_layers") or max(kept_layers, default=-1) + 1)
    scores = layers.get("scores") or []
    return LayersView(
        sentence=layers_sentence(layers),
        description=f"Kept {len(kept_layers)} of {total} layers: {ranges(kept_layers)}.",
        cells=layer_strip(total, kept_layers, scores),
        has_scores=any(score is not None for score in scores),
        alternatives=_alternative_rows(layers),
        alternatives_caption=_alternatives_caption(layers),
    )


def start_distance(layers: Mapping[str, Any]) -> StartDistance | None:
    """How far the student started from its teacher, by what the layers were chosen by; None where it was not measured.

    Models that predict tokens are compared by the KL of these, all others by the cosine of their last hidden states.
    """
    if layers.get("start_kl_nats") is not None:
        return StartDistance(float(layers["start_kl_nats"]), "KL")
    if layers.get("start_cosine_distance") is not None:
        return StartDistance(float(layers["start_cosine_distance"]), "cosine distance")
    return None


def layers_sentence(layers: Mapping[str, Any]) -> str:
    """Which layers, chosen how, and how far from the teacher the student then started."""
    kept_layers = [int(index) for index in layers.get("kept") or []]
    total = int(layers.get("teacher_layers") or max(kept_layers, default=-1) + 1)
    text = f"{len(kept_layers)} of the teacher's {total} layers were kept ({ranges(kept_layers)})"
    if layers.get("method"):
        text += f" by the method {_words(layers['method'])}"
    text += "."
    start = start_distance(layers)
    if start is not None:
        tokens = layers.get("calibration_tokens")
        on_text = f" on {formatting.count(tokens)} tokens of calibration text" if tokens else ""
        distance = f"{start.written(start.value)} from its teacher{on_text}"
        text += f" Before any training that left the student at {distance}."
    return text


def _alternative_rows(layers: Mapping[str, Any]) -> list[Row]:
    start = start_distance(layers)
    tried = {**(layers.get("alternatives") or {})}
    if not tried or start is None:
        return []
    tried.setdefault(str(layers.get("method") or "chosen"), start.value)
    most = max(tried.values()) or 1.0
    ordered = sorted(tried.items(), key=lambda item: float(item[1]))
    return [
        Row(
            _words(name),
            "",
            "student" if name == layers.get("method") else "student_before",
            [Cell(start.written(value), bar=round(100 * value / most, 1))],
        )
        for name, value in ordered
    ]


def _alternatives_caption(layers: Mapping[str, Any]) -> str:
    start = start_distance(layers)
    if start is None:
        return ""
    return f"Before any training, {start.measure} from the teacher for each way of choosing; shorter is better."


def data_facts(data: Mapping[str, Any], result: EvaluationResult) -> list[Facts]:
    """What was synthesised, trained on, held out and stored."""
    groups = [
        Facts("Synthesised by the teacher", _synthesised_facts(data.get("synthesised") or {})),
        Facts("Trained on", _counted(data, {"train_documents": "documents", "train_tokens": "tokens"})),
        Facts("Replayed", _replayed_facts(data.get("replay") or {})),
        Facts("What learnt", _learnt_facts(data.get("adapter") or {})),
        Facts("Held out", _held_out_facts(result)),
        Facts("Teacher's signals", _label_facts(data.get("labels") or {})),
    ]
    return [group for group in groups if group.items]


def _replayed_facts(replay: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not replay:
        return []
    facts = [("documents", formatting.count(replay["documents"]))]
    if replay.get("rows"):
        share = formatting.percent(replay["rows"] / replay["of_rows"], 1)
        facts.append(("rows an epoch", f"{formatting.count(replay['rows'])}, {share} of all"))
        facts.append(("of the tokens", formatting.percent(replay["token_share"], 1)))
    return facts


def learnt_sentence(adapter: Mapping[str, Any]) -> str:
    """How little of the student learnt, and what that takes on disk."""
    size = f"; the adapter alone takes {formatting.si(adapter['disk_bytes'], 'B')}" if adapter.get("disk_bytes") else ""
    return (
        f"{_learnt_count(adapter)} parameters learnt, in a {adapter['kind']} adapter of rank {adapter['rank']}{size}."
    )


def _learnt_count(adapter: Mapping[str, Any]) -> str:
    learnt, total = adapter["trainable_parameters"], adapter["parameters"]
    return f"{formatting.number(learnt)} of {formatting.number(total)} ({formatting.percent(learnt / total, 2)})"


def _learnt_facts(adapter: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not adapter:
        return []
    facts = [("adapter", f"{adapter['kind']}, rank {adapter['rank']}"), ("parameters", _learnt_count(adapter))]
    if adapter.get("disk_bytes"):
        facts.append(("on disk", formatting.si(adapter["disk_bytes"], "B")))
    return facts


def _synthesised_facts(synthesised: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = _counted(synthesised, {"documents": "documents kept", "tokens": "tokens"})
    dropped: Mapping[str, int] = synthesised.get("dropped") or {}
    facts += [(f"dropped: {_words(reason)}", formatting.count(amount)) for reason, amount in dropped.items()]
    seconds = synthesised.get("seconds")
    if seconds:
        facts.append(("time", formatting.duration(seconds)))
        if synthesised.get("tokens"):
            facts.append(("speed", f"{formatting.significant(synthesised['tokens'] / seconds)} tokens/s"))
    return facts


def _held_out_facts(result: EvaluationResult) -> list[tuple[str, str]]:
    held_out = result.held_out
    are_sentences = result.task == "sentence_embedding"
    facts = [("sentences" if are_sentences else "documents", formatting.count(held_out.documents))]
    facts.append(("tokens", formatting.count(held_out.tokens)))
    if held_out.answers is not None:
        facts.append(("scored pairs" if are_sentences else "judged tokens", formatting.count(held_out.answers)))
    if held_out.bytes is not None:
        facts.append(("text", formatting.si(held_out.bytes, "B")))
    return facts


def _label_facts(labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("signal", _words(labels["signal"]))] if labels.get("signal") else []
    if labels.get("bytes") is not None:
        facts.append(("on disk", formatting.si(labels["bytes"], "B")))
    if labels.get("bytes_per_token") is not None:
        facts.append(("per token", formatting.si(labels["bytes_per_token"], "B")))
    if labels.get("seconds") is not None:
        facts.append(("time", formatting.duration(labels["seconds"])))
    return facts


def _counted(values: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(title, formatting.count(values[name])) for name, title in titles.items() if values.get(name) is not None]


def sample_views(samples: Sequence[Sample]) -> list[SampleView]:
    """As many samples as fit into the file, from the first on."""
    views: list[SampleView] = []
    spent_bytes = 0
    for sample in samples:
        view = _sample_view(sample)
        spent_bytes += _escaped_bytes(view)
        if spent_bytes > SAMPLE_BYTES:
            break
        views.append(view)
    return views


def _sample_view(sample: Sample) -> SampleView:
    prompt, left_out = truncated(formatting.clean(sample.prompt), SAMPLE_CHARACTERS)
    teacher = sample.continuations.get("teacher", "")
    roles = [role for role in SAMPLE_ORDER if role in sample.continuations]
    return SampleView(prompt, left_out, [_writer(role, sample.continuations[role], teacher) for role in roles])


def _writer(role: Role, text: str, teacher_text: str) -> Writer:
    shown, left_out = truncated(formatting.clean(text), SAMPLE_CHARACTERS)
    shared = 0 if role == "teacher" else _shared_characters(shown, formatting.clean(teacher_text))
    return Writer(role, SHORT_TITLES[role], shown[:shared], shown[shared:], left_out)


def _shared_characters(one: str, two: str) -> int:
    """Length of the common beginning, in whole words."""
    length = next(
        (index for index, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    if length == len(one) or one[length].isspace():
        return length
    return max(one.rfind(" ", 0, length), one.rfind("\n", 0, length)) + 1


def _escaped_bytes(view: SampleView) -> int:
    texts = [view.prompt, *(writer.shared + writer.own for writer in view.writers)]
    markup_bytes = 200 * len(texts)
    return markup_bytes + sum(len(html.escape(text).encode()) for text in texts)


def truncated(text: str, most_characters: int) -> tuple[str, str]:
    """The beginning of a text, and a note on what was left out."""
    if len(text) <= most_characters:
        return text, ""
    return text[:most_characters], f"{formatting.count(len(text) - most_characters)} more characters"


def _samples_note(num_shown: int, num_samples: int) -> str:
    if num_shown == num_samples:
        return ""
    shown, all_samples = formatting.count(num_shown), formatting.count(num_samples)
    return f"The first {shown} of {all_samples} samples: more would make this page slow to open."


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each stage with its share of the time."""
    total = sum(_seconds(stage) for stage in stages)
    return [
        Row(
            _words(stage.get("name", "")),
            "",
            "",
            [Cell(formatting.duration(_seconds(stage)), bar=round(100 * _seconds(stage) / total, 1) if total else 0.0)],
        )
        for stage in stages
    ]


def _seconds(stage: Mapping[str, Any]) -> float:
    return float(stage.get("seconds") or 0)


def _words(name: object) -> str:
    return formatting.one_line(str(name)).replace("_", " ")
