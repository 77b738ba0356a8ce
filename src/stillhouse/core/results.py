"""What an evaluation found: the one form that the evaluation writes and every report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillhouse.core.departures import Departures
from stillhouse.core.task import Task

Role = Literal[
    "teacher",
    "student",
    "student_before",
    "control_hard_labels",
    "control_from_scratch",
    "control_hard_labels_flops",
    "control_from_scratch_flops",
    "baseline",
    "baseline_2",
    "baseline_3",
]

BASELINES: Sequence[Role] = ("baseline", "baseline_2", "baseline_3")
"""Other models that somebody else made, to be held beside the student."""

Work = Literal["decode", "prefill", "document"]
"""What is timed: writing, reading, or reading one held-out document alone. The first that a model has counts most."""

ROLE_TITLES: Mapping[Role, str] = {
    "teacher": "teacher",
    "student": "student",
    "student_before": "student before training",
    "control_hard_labels": "control: same start and budget, no teacher signals",
    "control_from_scratch": "control: random start, same budget, no teacher signals",
    "control_hard_labels_flops": "control: same start and FLOPs (the teacher's counted), no teacher signals",
    "control_from_scratch_flops": "control: random start, same FLOPs (the teacher's counted), no teacher signals",
    "baseline": "baseline: another model",
    "baseline_2": "second baseline: another model",
    "baseline_3": "third baseline: another model",
}


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


FLOPS_CONTEXT = 256
"""Tokens behind which what a token takes is told."""


@dataclass(frozen=True)
class Cost:
    """What a model costs to keep and to run. A speed that its kind of model does not have is None."""

    parameters: int
    parameters_without_embeddings: int
    disk_bytes: int
    prefill_tokens_per_second: Interval | None = None
    decode_tokens_per_second: Interval | None = None
    document_milliseconds: Interval | None = None
    """Time for one held-out document alone, from ids to answer."""
    flops_per_token: int | None = None
    """By formula, behind FLOPS_CONTEXT tokens; None for a model with experts."""
    token_milliseconds: Interval | None = None
    """Median time for one token that is written, at batch 1; from the fastest to the slowest repeat."""
    slow_token_milliseconds: Interval | None = None
    """The same of which 95 of 100 tokens are faster."""
    peak_bytes: int | None = None
    """The weights, and the most that reading and writing take beside them."""


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


MOST_COMPARED = 1000
"""The most held-out sentences that CKA is over, the first: it takes every product of two, once for each left out."""

METRICS: Mapping[str, Metric] = {
    "bits_per_byte": Metric(
        "bits per byte", "bits", "lower", "How well the model predicts held-out text, per UTF-8 byte."
    ),
    "perplexity": Metric(
        "perplexity", "", "lower", "exp of the mean next-token loss; comparable under one tokenizer only."
    ),
    "cross_entropy": Metric(
        "cross-entropy", "nats", "lower", "Minus the log of the probability given to the right answer."
    ),
    "accuracy": Metric("accuracy", "share", "higher", "How often the model's likeliest answer is the right one."),
    "macro_f1": Metric("macro-F1", "share", "higher", "F1 of each class, averaged: rare classes count as much as any."),
    "span_f1": Metric("span F1", "share", "higher", "F1 of whole spans: right only with both ends and the kind right."),
    "matthews_correlation": Metric(
        "Matthews correlation", "", "higher", "Correlation of answers with classes: 0 for any answer that never varies."
    ),
    "calibration_error": Metric(
        "calibration error", "share", "lower", "ECE: confidence against accuracy, mean gap over 15 bins of confidence."
    ),
    "pearson": Metric(
        "Pearson correlation", "", "higher", "Linear correlation of the model's answers with the gold scores."
    ),
    "spearman": Metric(
        "Spearman correlation", "", "higher", "Rank correlation of the model's answers with the gold scores."
    ),
    "mean_squared_error": Metric(
        "mean squared error", "", "lower", "Mean square of the answer's distance from the gold score."
    ),
    "preference_accuracy": Metric(
        "pair accuracy", "share", "higher", "How often the model's own reward is higher for the answer that was chosen."
    ),
    "forward_kl": Metric(
        "KL from teacher", "nats", "lower", "KL(teacher || model) per answer, over all that are possible."
    ),
    "top1_agreement": Metric(
        "top-1 agreement", "share", "higher", "How often the model's likeliest answer is the teacher's."
    ),
    "teacher_rouge_l": Metric(
        "ROUGE-L with teacher",
        "share",
        "higher",
        "How many words, in their order, the model's answer shares with the teacher's.",
    ),
    "teacher_pearson": Metric(
        "Pearson with teacher", "", "higher", "Linear correlation of the model's answers with the teacher's."
    ),
    "teacher_spearman": Metric(
        "Spearman with teacher", "", "higher", "Rank correlation of the model's answers with the teacher's."
    ),
    "teacher_cosine": Metric(
        "cosine with teacher",
        "",
        "higher",
        "Cosine of the two models' embeddings of one sentence, beyond that of two sentences: 0 for what says nothing.",
    ),
    "teacher_cka": Metric(
        "CKA with teacher",
        "",
        "higher",
        f"Linear CKA of at most {MOST_COMPARED:,} sentences' embeddings: the same geometry, whatever the widths.",
    ),
}

HEADLINE: Mapping[Task, str] = {
    "causal_lm": "accuracy",
    "masked_lm": "accuracy",
    "sequence_classification": "accuracy",
    "regression": "spearman",
    "reward": "preference_accuracy",
    "token_classification": "macro_f1",
    "sentence_embedding": "spearman",
}
"""The metric of which a student keeps a share of its teacher's: higher is better, 0 is worth nothing."""


@dataclass(frozen=True)
class Comparison:
    """Student minus other, paired over the same documents."""

    metric: str
    other: Role
    difference: Interval


@dataclass(frozen=True)
class Retention:
    """A model's metric as a share of the teacher's, paired over the same documents."""

    role: Role
    metric: str
    share: Interval


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast as the teacher a model runs at batch 1: the median ratio of runs timed in turns."""

    role: Role
    work: Work
    ratio: Interval

    @property
    def throughput_gained(self) -> Interval:
        """What more is done in the same time: 0.6 is 60 % faster in this sense."""
        return Interval(self.ratio.value - 1, self.ratio.low - 1, self.ratio.high - 1)

    @property
    def time_saved(self) -> Interval:
        """What less time the same work takes: 0.375 where 60 % more is done in the same time."""
        return Interval(1 - 1 / self.ratio.value, 1 - 1 / self.ratio.low, 1 - 1 / self.ratio.high)


@dataclass(frozen=True)
class Sample:
    """What each model writes after the same held-out beginning."""

    prompt: str
    continuations: Mapping[Role, str]


@dataclass(frozen=True)
class HeldOut:
    """The text that every model was measured on. For sentence embeddings, a document is a sentence."""

    documents: int
    tokens: int
    bytes: int | None = None
    answers: int | None = None
    """What was judged, where that is neither every token nor every document: hidden tokens, tags, or scored pairs."""


@dataclass(frozen=True)
class Reading:
    """How a model answers held-out prompts, with a context before them or without."""

    role: Role
    reads_context: bool
    metrics: Mapping[str, Interval]
    """Beside the teacher that has read the context."""


@dataclass(frozen=True)
class Kept:
    """How far a model that has not read a context comes from the teacher without it (0) towards the teacher with it (1).

    By `loss`, on the held-out answers; by `kl`, from what the teacher says that has read it.
    """

    role: Role
    measure: Literal["loss", "kl"]
    share: Interval


@dataclass(frozen=True)
class StyleResult:
    """What one context is worth, and who acts as if it had read it."""

    name: str
    documents: int
    tokens_saved: Interval
    """Tokens a call that need not be read any more."""
    gain: Interval
    """By how much the context lowers the teacher's loss on the held-out answers, in nats a token."""
    readings: Sequence[Reading]
    kept: Sequence[Kept] = ()


@dataclass(frozen=True)
class Drift:
    """How a model answers held-out prompts about other things, which the context has nothing to do with."""

    role: Role
    forward_kl: Interval
    """From the teacher without any context, in nats a token."""
    bits_per_byte: Interval
    change: Interval
    """Bits per byte over those of the student before training, less 1: 0.02 is 2 % worse."""


@dataclass(frozen=True)
class ContextResult:
    """Whether a student has learnt what its teacher alone has read, and what it cost elsewhere."""

    styles: Sequence[StyleResult]
    drift: Sequence[Drift] = ()
    elsewhere: int = 0
    """Documents that the drift is measured on."""


Liking = Literal["reward", "likelihood"]
"""By what a model prefers an answer: by how much likelier it finds it than the model that it was before, or by how likely."""


@dataclass(frozen=True)
class PreferenceReading:
    """Which of two answers a model prefers."""

    role: Role
    liking: Liking
    accuracy: Interval
    """Share of pairs in which it prefers the chosen one; a tie counts half."""
    margin: Interval
    """By how much, in nats, on average: without any beta."""
    length_correlation: Interval
    """Rank correlation of the margin with how many more tokens the chosen answer has."""
    prefers_longer: Interval
    """Share of the pairs of different length in which it prefers the longer one."""


@dataclass(frozen=True)
class PreferenceResult:
    """What every model makes of the held-out pairs, and what length alone would make of them."""

    pairs: int
    prompts: int
    chosen_tokens: Interval
    rejected_tokens: Interval
    chosen_is_longer: Interval
    """Share of the pairs of different length: what one who always prefers the longer answer would have."""
    readings: Sequence[PreferenceReading]


@dataclass(frozen=True)
class OldDomain:
    """How a model does on held-out documents of the data that is replayed."""

    role: Role
    metrics: Mapping[str, Interval]
    """Cross-entropy in nats a token, bits per byte, and how near it is to the teacher."""
    change: Interval | None = None
    """Bits per byte over those of the student before training, less 1: 0.02 is 2 % worse. None for the teacher."""


@dataclass(frozen=True)
class ReplayResult:
    """What a student has forgotten, or learnt, of other data than it was trained for."""

    documents: int
    models: Sequence[OldDomain]
    comparisons: Sequence[Comparison] = ()
    """The student minus each other model there."""

    def model(self, role: Role) -> OldDomain | None:
        """The model in this role, if it was measured."""
        return next((model for model in self.models if model.role == role), None)


@dataclass(frozen=True)
class TaughtReading:
    """How a model does on the answers of a teacher that is not here."""

    role: Role
    metrics: Mapping[str, Interval]
    """Bits per byte of these answers, how often its likeliest token is theirs, and how like them its own answers are."""


@dataclass(frozen=True)
class TaughtResult:
    """Beside a teacher behind an API: what is known of it is what it answers, when it is asked for the likeliest."""

    teacher: str
    asked: int
    """Held-out prompts that it was to answer."""
    answers: int
    tokens: int
    """Of these answers, as the student cuts them."""
    readings: Sequence[TaughtReading] = ()
    comparisons: Sequence[Comparison] = ()
    """The student minus each other model there."""
    unmeasured: Sequence[str] = ()
    """What could not be measured of the teacher, and why."""

    def reading(self, role: Role) -> TaughtReading | None:
        """That of the model in this role, if it was measured."""
        return next((one for one in self.readings if one.role == role), None)


@dataclass(frozen=True)
class Flips:
    """What became of answers that are right or wrong: the teacher's beside those of a model to the same questions."""

    both_right: int
    lost: int
    """Right by the teacher, wrong by the model."""
    won: int
    """Wrong by the teacher, right by the model."""
    both_wrong: int
    p_value: float
    """Exact McNemar: how often a change as lopsided would come about if each that changed had fallen like a coin."""

    @property
    def changed(self) -> int:
        """Answers that the two do not have in common, whichever is right: what an equal accuracy hides."""
        return self.lost + self.won


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one evaluation found."""

    held_out: HeldOut
    models: Sequence[ModelResult]
    comparisons: Sequence[Comparison]
    samples: Sequence[Sample] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    task: Task = "causal_lm"
    retentions: Sequence[Retention] = ()
    speeds: Sequence[SpeedUp] = ()
    teacher_tokens: int | None = None
    """Tokens of the held-out text as the teacher cuts it, where its tokenizer is not the student's; None where it is."""
    context: ContextResult | None = None
    """Where the teacher has read more than the student; `models` then has the teacher with its context."""
    replay: ReplayResult | None = None
    """Where other data is replayed, or only measured on."""
    preferences: PreferenceResult | None = None
    """Where the data has pairs of answers; the other numbers are then of the chosen ones."""
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What else the recipe asked for, by its name in `core/suites.py`, each as its own `to_dict` says it."""
    taught: TaughtResult | None = None
    """Where the teacher is behind an API: there is then no such model among `models`."""
    departures: Departures | None = None
    """The examples in which the student departs most from its teacher; None where they cannot be compared one by one."""
    flips: Mapping[Role, Flips] = field(default_factory=dict)
    """Of a classifier: which documents each model has right and the teacher wrong, and the other way round."""
    made_here: bool = True
    """Whether this run made the student; else it and its teacher are any two models, whoever made them."""

    def model(self, role: Role) -> ModelResult | None:
        """The model in this role, if it was measured."""
        return next((model for model in self.models if model.role == role), None)

    def speed(self, role: Role) -> SpeedUp | None:
        """How much faster than the teacher a model in this role is at what its task mostly does."""
        return next((speed for speed in self.speeds if speed.role == role), None)

    def retention(self, role: Role) -> Retention | None:
        """What share of the teacher's performance a model in this role has."""
        return next((kept for kept in self.retentions if kept.role == role), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EvaluationResult":
        """The inverse of `to_dict`; what an older result did not have is left at its default."""
        return cls(
            held_out=HeldOut(**values["held_out"]),
            models=[_model_result(model) for model in values["models"]],
            comparisons=_comparisons(values["comparisons"]),
            samples=[Sample(**sample) for sample in values["samples"]],
            machine=dict(values["machine"]),
            task=values.get("task", "causal_lm"),
            retentions=[
                Retention(row["role"], row["metric"], Interval(**row["share"])) for row in values.get("retentions", ())
            ],
            speeds=[SpeedUp(row["role"], row["work"], Interval(**row["ratio"])) for row in values.get("speeds", ())],
            teacher_tokens=values.get("teacher_tokens"),
            context=_context_result(values["context"]) if values.get("context") else None,
            replay=_replay_result(values["replay"]) if values.get("replay") else None,
            preferences=_preference_result(values["preferences"]) if values.get("preferences") else None,
            suites=dict(values.get("suites", {})),
            taught=_taught_result(values["taught"]) if values.get("taught") else None,
            departures=Departures.from_dict(values["departures"]) if values.get("departures") else None,
            flips={role: Flips(**found) for role, found in values.get("flips", {}).items()},
            made_here=values.get("made_here", True),
        )


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    return [Comparison(row["metric"], row["other"], Interval(**row["difference"])) for row in rows]


def _replay_result(values: Mapping[str, Any]) -> ReplayResult:
    return ReplayResult(
        values["documents"],
        [
            OldDomain(row["role"], _intervals(row["metrics"]), Interval(**row["change"]) if row["change"] else None)
            for row in values["models"]
        ],
        _comparisons(values["comparisons"]),
    )


def _taught_result(values: Mapping[str, Any]) -> TaughtResult:
    return TaughtResult(
        values["teacher"],
        values["asked"],
        values["answers"],
        values["tokens"],
        [TaughtReading(row["role"], _intervals(row["metrics"])) for row in values["readings"]],
        _comparisons(values["comparisons"]),
        tuple(values["unmeasured"]),
    )


def _model_result(values: Mapping[str, Any]) -> ModelResult:
    cost: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, Mapping) else value for name, value in values["cost"].items()
    }
    return ModelResult(
        role=values["role"],
        name=values["name"],
        metrics={name: Interval(**interval) for name, interval in values["metrics"].items()},
        cost=Cost(**cost),
    )


def _preference_result(values: Mapping[str, Any]) -> PreferenceResult:
    intervals = {name: Interval(**values[name]) for name in ("chosen_tokens", "rejected_tokens", "chosen_is_longer")}
    names = ("accuracy", "margin", "length_correlation", "prefers_longer")
    readings = [
        PreferenceReading(row["role"], row["liking"], *(Interval(**row[name]) for name in names))
        for row in values["readings"]
    ]
    return PreferenceResult(values["pairs"], values["prompts"], **intervals, readings=readings)


def _context_result(values: Mapping[str, Any]) -> ContextResult:
    return ContextResult(
        [_style_result(style) for style in values["styles"]],
        [Drift(row["role"], *(Interval(**row[n]) for n in _DRIFTS)) for row in values["drift"]],
        values["elsewhere"],
    )


_DRIFTS = ("forward_kl", "bits_per_byte", "change")


def _style_result(values: Mapping[str, Any]) -> StyleResult:
    return StyleResult(
        values["name"],
        values["documents"],
        Interval(**values["tokens_saved"]),
        Interval(**values["gain"]),
        [Reading(row["role"], row["reads_context"], _intervals(row["metrics"])) for row in values["readings"]],
        [Kept(row["role"], row["measure"], Interval(**row["share"])) for row in values["kept"]],
    )


def _intervals(values: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {name: Interval(**interval) for name, interval in values.items()}
