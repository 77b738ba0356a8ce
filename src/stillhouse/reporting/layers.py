"""What the report and the card say of the layers that were kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.reporting import formatting
from stillhouse.reporting.charts import LayerCell, layer_strip, ranges
from stillhouse.reporting.shapes import Cell, Row, words


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
        text += f" by the method {words(layers['method'])}"
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
            words(name),
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
