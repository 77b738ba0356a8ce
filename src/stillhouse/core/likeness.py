"""How alike a model is to its teacher: in what it says comes next, in its states layer by layer, and in what it writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from stillhouse.core.measures import Reliability, Scored
from stillhouse.core.results import Interval, Role
from stillhouse.core.suites import Number

CURVES: Mapping[str, str] = {
    "forward_kl": "KL(teacher || model)",
    "reverse_kl": "KL(model || teacher)",
    "jsd": "Jensen-Shannon divergence",
    "cross_entropy": "minus the log of the probability of the text's own token",
    "teacher_entropy": "of the teacher's distribution: what a perfect student would still not know",
    "top1_agreement": "the likeliest token is the teacher's",
    "top5_agreement": "of the teacher's five likeliest, the share among the model's five",
    "acceptance": "sum of min(p, q): how often speculative decoding would take the model's token",
}
"""What is measured between two distributions of the next token: the first five in nats, the others as shares."""


@dataclass(frozen=True)
class LayerPair:
    """A layer of a model and the teacher's layer that it is most like; layer 0 is the embeddings."""

    layer: int
    teacher_layer: int
    cka: Interval
    cosine: Interval | None = None
    """Mean cosine of both models' states of one token; None where widths differ."""
    random_cosine: Interval | None = None
    """The same of two different tokens: what is alike in all states, and says nothing."""


@dataclass(frozen=True)
class LayerLikeness:
    """One model's layers beside the teacher's."""

    role: Role
    states: int
    """Token states, or documents, that each layer is compared on."""
    cka: Sequence[Sequence[float]]
    """Debiased linear CKA: [teacher layers, model layers]."""
    nearest: Sequence[LayerPair]
    """For each of the model's layers, the teacher's that is most like it."""


@dataclass(frozen=True)
class OutputLikeness:
    """What a model writes beside what the teacher writes, as a sentence model sees it."""

    role: Role
    cosine: Interval
    """Mean cosine of both answers to one prompt."""
    random_cosine: Interval
    """Of the model's answer to one prompt and the teacher's to another: the cosine of answers that have nothing in common but
    their manner."""
    beyond: Interval
    """The first less the second."""


@dataclass(frozen=True)
class SimilarityFound:
    """Everything of the suite `similarity`."""

    documents: int
    tokens: int
    divergences: Sequence[Scored] = ()
    """By the names in CURVES; nothing where tokenizers differ."""
    layers: Sequence[LayerLikeness] = ()
    outputs: Sequence[OutputLikeness] = ()
    prompts: int = 0
    embedded_by: str = ""
    """Whose embeddings the answers are compared by."""
    compared_by: str = "tokens"
    """Whether layers are compared on token states, or, where tokenizers differ, on the mean state of a document."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SimilarityFound":
        """The inverse of `to_dict`; what an older result did not have is left at its default."""
        return TypeAdapter(cls).validate_python(values)

    def numbers(self) -> Iterator[Number]:
        """Every number with an interval."""
        for one in self.divergences:
            yield from (Number(one.role, metric, interval) for metric, interval in one.metrics.items())
        for found in self.layers:
            for pair in found.nearest:
                on = f"layer {pair.layer} beside {pair.teacher_layer}"
                named = {"cka": pair.cka, "hidden_cosine": pair.cosine, "random_hidden_cosine": pair.random_cosine}
                yield from (Number(found.role, name, value, on) for name, value in named.items() if value is not None)
        for written in self.outputs:
            yield Number(written.role, "output_cosine", written.cosine)
            yield Number(written.role, "random_output_cosine", written.random_cosine)
            yield Number(written.role, "output_cosine_beyond_random", written.beyond)


@dataclass(frozen=True)
class CalibrationFound:
    """Everything of the suite `calibration`."""

    documents: int
    answers: int
    models: Sequence[Reliability]
    """Each model on the text's own answers, and each but the teacher on what the teacher finds likeliest."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CalibrationFound":
        """The inverse of `to_dict`."""
        return TypeAdapter(cls).validate_python(values)

    def numbers(self) -> Iterator[Number]:
        """Every number."""
        for one in self.models:
            yield Number(one.role, "calibration_error", one.error, one.of)
            yield Number(one.role, "brier", one.brier, one.of)
