"""What an evaluation found: the one form that the evaluation writes and every report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["teacher", "student", "student_before", "control_hard_labels", "control_from_scratch"]

ROLE_TITLES: Mapping[Role, str] = {
    "teacher": "teacher",
    "student": "student",
    "student_before": "student before training",
    "control_hard_labels": "control: same start and budget, no teacher signals",
    "control_from_scratch": "control: random start, same budget, no teacher signals",
}


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cost:
    """What a model costs to keep and to run."""

    parameters: int
    parameters_without_embeddings: int
    disk_bytes: int
    prefill_tokens_per_second: Interval
    decode_tokens_per_second: Interval


@dataclass(frozen=True)
class ModelResult:
    """One model's numbers. `metrics` holds whatever was measured: see METRICS for what each name means."""

    role: Role
    name: str
    metrics: Mapping[str, Interval]
    cost: Cost


@dataclass(frozen=True)
class Metric:
    """How a metric is called, read and judged."""

    title: str
    unit: str
    better: Literal["lower", "higher"]
    meaning: str


METRICS: Mapping[str, Metric] = {
    "bits_per_byte": Metric(
        "bits per byte", "bits", "lower", "How well the model predicts held-out text, per UTF-8 byte."
    ),
    "perplexity": Metric(
        "perplexity", "", "lower", "exp of the mean next-token loss; comparable under one tokenizer only."
    ),
    "forward_kl": Metric(
        "KL from teacher", "nats", "lower", "KL(teacher || model) per token, over the whole vocabulary."
    ),
    "top1_agreement": Metric(
        "top-1 agreement", "share", "higher", "How often the model's likeliest token is the teacher's."
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Student minus other, paired over the same documents."""

    metric: str
    other: Role
    difference: Interval


@dataclass(frozen=True)
class Sample:
    """What each model writes after the same held-out beginning."""

    prompt: str
    continuations: Mapping[Role, str]


@dataclass(frozen=True)
class HeldOut:
    """The text that every model was measured on."""

    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one evaluation found."""

    held_out: HeldOut
    models: Sequence[ModelResult]
    comparisons: Sequence[Comparison]
    samples: Sequence[Sample] = ()
    machine: Mapping[str, str] = field(default_factory=dict)

    def model(self, role: Role) -> ModelResult | None:
        """The model in this role, if it was measured."""
        return next((model for model in self.models if model.role == role), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EvaluationResult":
        """The inverse of `to_dict`."""
        return cls(
            held_out=HeldOut(**values["held_out"]),
            models=[_model_result(model) for model in values["models"]],
            comparisons=[
                Comparison(row["metric"], row["other"], Interval(**row["difference"])) for row in values["comparisons"]
            ],
            samples=[Sample(**sample) for sample in values["samples"]],
            machine=dict(values["machine"]),
        )


def _model_result(values: Mapping[str, Any]) -> ModelResult:
    speeds = {
        name: Interval(**values["cost"][name]) for name in ("prefill_tokens_per_second", "decode_tokens_per_second")
    }
    return ModelResult(
        role=values["role"],
        name=values["name"],
        metrics={name: Interval(**interval) for name, interval in values["metrics"].items()},
        cost=Cost(**{**values["cost"], **speeds}),
    )
