"""What the report shows of how alike a student is to its teacher: token by token, layer by layer, answer by answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stillhouse.core.likeness import CURVES, LayerLikeness, SimilarityFound
from stillhouse.core.suite_results import found_by
from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.tasks import in_order, interval_cell
from stillhouse.reporting.verdicts import SHORT_TITLES


@dataclass(frozen=True)
class HeatCell:
    """One pair of layers: a place in the map, in its own units, how dark it is, and what is said of it."""

    x: int
    y: int
    shade: float
    title: str
    is_nearest: bool


@dataclass(frozen=True)
class HeatMap:
    """A model's layers, from left to right, beside the teacher's, from the bottom up."""

    title: str
    description: str
    width: int
    height: int
    cells: Sequence[HeatCell]


@dataclass(frozen=True)
class LikenessView(Prose):
    """Sentences, tables and remarks, and a map of layers for each model."""

    maps: Sequence[HeatMap] = field(default_factory=tuple)


def similarity_view(account: Account) -> LikenessView | None:
    """The whole section; None where the recipe did not ask for it."""
    found = found_by(account.result).get("similarity")
    if not isinstance(found, SimilarityFound):
        return None
    tables = [*_divergences(found), *_outputs(found), *_layers(found)]
    return LikenessView(
        intro="Not how good the answers are, but how near the teacher's: a student may be right where its teacher is wrong, "
        "and lose here by it.",
        lines=similarity_lines(found),
        tables=tables,
        notes=_notes(found),
        maps=[_map(one) for one in found.layers if one.role in ("student", "student_before")],
    )


def similarity_lines(found: SimilarityFound) -> list[str]:
    """What the student is worth as a draft model, and how like its teacher's its answers are."""
    lines = []
    student = next((one for one in found.divergences if one.role == "student"), None)
    if student is not None:
        acceptance = formatting.interval_text(student.metrics["acceptance"], "share")
        lines.append(
            f"Of the student's proposals, speculative decoding would accept {acceptance} on held-out text: that is "
            "what it is worth as a draft model for its teacher."
        )
    written = next((one for one in found.outputs if one.role == "student"), None)
    if written is not None:
        lines.append(
            f"Its answers have a cosine of {formatting.interval_text(written.cosine, '')} with the teacher's, and answers to "
            f"different prompts {formatting.interval_text(written.random_cosine, '')}: what is between the two is likeness."
        )
    return lines


def _divergences(found: SimilarityFound) -> list[Table]:
    if not found.divergences:
        return []
    names = [name for name in CURVES if any(name in one.metrics for one in found.divergences)]
    documents = f"{formatting.count(found.documents)} held-out documents, {formatting.count(found.tokens)} tokens"
    return [
        Table(
            caption=f"What comes next, beside the teacher: {documents}, 95 % intervals over documents.",
            corner="model",
            columns=[_column(name) for name in names],
            rows=[
                Row(
                    SHORT_TITLES[one.role],
                    "",
                    one.role,
                    [interval_cell(one.metrics.get(name), formatting.describe(name).unit) for name in names],
                )
                for one in in_order(found.divergences)
            ],
        )
    ]


def _column(name: str) -> tuple[str, str]:
    metric = formatting.describe(name)
    better = "" if name == "teacher_entropy" else f"{metric.better} is better"
    return metric.title, ", ".join(part for part in ("" if metric.unit == "share" else metric.unit, better) if part)


def _outputs(found: SimilarityFound) -> list[Table]:
    if not found.outputs:
        return []
    return [
        Table(
            caption=f"Answers to {formatting.count(found.prompts)} held-out prompts, embedded by {found.embedded_by}.",
            corner="model",
            columns=[
                ("cosine with the teacher's", "same prompt"),
                ("of random pairs", "different prompts"),
                ("beyond random", "higher is better"),
            ],
            rows=[
                Row(
                    SHORT_TITLES[one.role],
                    "",
                    one.role,
                    [interval_cell(value, "") for value in (one.cosine, one.random_cosine, one.beyond)],
                )
                for one in found.outputs
            ],
        )
    ]


def _layers(found: SimilarityFound) -> list[Table]:
    """The student's layers, each with the teacher's that it is most like."""
    student = next((one for one in found.layers if one.role == "student"), None)
    if student is None:
        return []
    has_cosine = any(pair.cosine for pair in student.nearest)
    columns = [("teacher's layer", "most like it"), ("CKA", "higher is better")]
    columns += [("cosine", "same token"), ("of random pairs", "different documents")] if has_cosine else []

    def row(pair_number: int) -> Row:
        pair = student.nearest[pair_number]
        cells = [Cell(str(pair.teacher_layer) if pair.teacher_layer else "embeddings"), interval_cell(pair.cka, "")]
        if has_cosine:
            cells += [interval_cell(pair.cosine, ""), interval_cell(pair.random_cosine, "")]
        return Row(f"layer {pair.layer}" if pair.layer else "embeddings", "", "student", cells)

    what = "token states" if found.compared_by == "tokens" else "mean states of documents"
    return [
        Table(
            caption=f"The student layer by layer, on {formatting.count(student.states)} {what}.",
            corner="student",
            columns=columns,
            rows=[row(number) for number in range(len(student.nearest))],
        )
    ]


def _map(one: LayerLikeness) -> HeatMap:
    height, width = len(one.cka), len(one.cka[0])
    nearest = {pair.layer: pair.teacher_layer for pair in one.nearest}
    cells = [
        HeatCell(
            layer,
            height - 1 - teacher,
            round(min(1.0, max(0.0, value)), 3),
            f"layer {layer} beside the teacher's {teacher}: CKA {value:.2f}",
            nearest.get(layer) == teacher,
        )
        for teacher, row in enumerate(one.cka)
        for layer, value in enumerate(row)
    ]
    name, last = SHORT_TITLES[one.role], one.cka[-1][-1]
    return HeatMap(
        name,
        f"CKA of {width} layers of the model ({name}) with {height} of the teacher; the last of both: {last:.2f}.",
        width,
        height,
        cells,
    )


def _notes(found: SimilarityFound) -> list[str]:
    notes = []
    if found.compared_by != "tokens":
        notes.append("Teacher and student cut text into other tokens, so nothing is compared token by token.")
    if found.layers:
        notes.append(
            "CKA is without the bias by which few states look alike: 0 is nothing in common, and chance may fall below. Layer "
            "0 is what the embeddings put out. A cosine says little where random pairs have one as high."
        )
    if found.outputs:
        notes.append(f"A cosine of answers is as good as what embeds them: here {found.embedded_by}.")
    return notes
