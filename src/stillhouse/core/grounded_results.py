"""What an evaluation of answers over passages found: the one form that it writes and every report reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.core.results import Comparison, Interval, Metric, Role
from stillhouse.core.suites import Number

Condition = Literal["as_read", "without_passages", "shuffled"]
"""How the same questions are asked: over their contexts, over nothing, or with the passages in another order."""

GROUNDED_METRICS: Mapping[str, Metric] = {
    "token_f1": Metric(
        "token F1",
        "share",
        "higher",
        "Words shared with a right answer, where the passages tell. SQuAD's, best of several.",
    ),
    "exact_match": Metric(
        "exact match", "share", "higher", "The right answer and nothing else, but for case, punctuation and articles."
    ),
    "token_recall": Metric(
        "token recall",
        "share",
        "higher",
        "Words of a right answer that are said. Blind to all that is said beside them.",
    ),
    "rouge_l": Metric("ROUGE-L", "share", "higher", "Longest common run of words with a right answer, in order."),
    "teacher_f1": Metric(
        "F1 with the teacher", "share", "higher", "Words shared with the teacher's answer to the same, right or wrong."
    ),
    "k_precision": Metric(
        "K-precision",
        "share",
        "higher",
        "Words of given answers that stand in the passages. Blind to the wrong name of them.",
    ),
    "bigram_precision": Metric(
        "bigram precision", "share", "higher", "Pairs of words of given answers that stand so in the passages."
    ),
    "unsupported": Metric(
        "unsupported content",
        "share",
        "lower",
        "Given answers with a name or number that no passage has. Not their truth.",
    ),
    "embedded_support": Metric(
        "support by embedding",
        "share",
        "higher",
        "Sentences of given answers nearer to the cited passages than 95 % are to other questions'. Of the topic alone.",
    ),
    "judged_support": Metric(
        "support as judged",
        "share",
        "higher",
        "How much of given answers a judge calls borne out by the cited passages.",
    ),
    "answered": Metric("answer rate", "share", "higher", "How often anything but an abstention is said."),
    "abstention_precision": Metric(
        "abstention precision", "share", "higher", "How often the passages do not tell where the model says so."
    ),
    "abstention_recall": Metric(
        "abstention recall", "share", "higher", "How often the model says so where the passages do not tell."
    ),
    "over_refusal": Metric(
        "over-refusal", "share", "lower", "How often the model says that they do not tell where they do."
    ),
    "both_told": Metric(
        "contradiction told",
        "share",
        "higher",
        "Where two passages contradict each other: how often both of what they say is named.",
    ),
    "citation_precision": Metric(
        "citation precision", "share", "higher", "Cited passages that have the words of a right answer."
    ),
    "citation_recall": Metric(
        "citation recall", "share", "higher", "Answers that cite a passage with the words of a right answer."
    ),
}
"""Every number says how it was made: by words, where its name does not say otherwise."""


@dataclass(frozen=True)
class GroundedReading:
    """How a model answers."""

    role: Role
    condition: Condition
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class PairReading:
    """How a generator answers over what a retriever finds, as it comes."""

    retriever: str
    role: Role
    metrics: Mapping[str, Interval]
    found: Interval | None = None
    """Share of the questions whose passages tell the answer."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds that one part of an answer takes, one question at a time."""

    who: str
    """A role, or a retriever's name."""
    part: Literal["retrieve", "read", "write", "whole"]
    p50: float
    p95: float


@dataclass(frozen=True)
class Size:
    """Bytes that somebody takes."""

    who: str
    """A role, or a retriever's name."""
    what: Literal["index on disk", "peak memory"]
    bytes: int


@dataclass(frozen=True)
class SupportAccount:
    """Who said whether answers are borne out, and what that is worth."""

    metric: str
    by: str
    """Its name."""
    asked: int
    untold: int
    """Of those, how many it said nothing of that could be read."""
    error: Interval | None
    """How much of the teacher's answers it calls borne out by passages of other questions."""


@dataclass(frozen=True)
class GroundedExample:
    """One question with what each model answers."""

    question: str
    passages: Sequence[str]
    mix: str
    right: Sequence[str]
    answers: Mapping[Role, str]


@dataclass(frozen=True)
class GroundedResult:
    """Answers over passages, everyone over the same."""

    questions: int
    told: int
    """Of which the passages tell the answer."""
    untold: int
    """Of which they do not."""
    readings: Sequence[GroundedReading]
    comparisons: Sequence[Comparison] = ()
    """The student minus each other, over the same questions."""
    kept: Mapping[Role, Mapping[str, Interval]] | None = None
    """Shares of the teacher's F1 and K-precision."""
    pairs: Sequence[PairReading] = ()
    latencies: Sequence[Latency] = ()
    sizes: Sequence[Size] = ()
    supports: Sequence[SupportAccount] = ()
    speed_up: Interval | None = None
    """How many times as fast the student answers as the teacher, from question to last word: the median over questions."""
    speed_up_as_long: Interval | None = None
    """The same, had the student written as many tokens as its teacher: who says less is done sooner."""
    examples: Sequence[GroundedExample] = ()

    def reading(self, role: Role, condition: Condition = "as_read") -> GroundedReading | None:
        """How this model answers under this condition, if it was asked."""
        return next((one for one in self.readings if one.role == role and one.condition == condition), None)

    def numbers(self) -> Iterator[Number]:
        """Every number with an interval, for `metrics.jsonl`."""
        for one in self.readings:
            for name, interval in one.metrics.items():
                yield Number(one.role, name, interval, "" if one.condition == "as_read" else one.condition)
        for row in self.comparisons:
            yield Number(f"student minus {row.other}", row.metric, row.difference)
        for role, shares in (self.kept or {}).items():
            for name, share in shares.items():
                yield Number(role, f"{name}_kept", share)
        for pair in self.pairs:
            found = {} if pair.found is None else {"found": pair.found}
            for name, interval in {**pair.metrics, **found}.items():
                yield Number(pair.role, name, interval, f"what {pair.retriever} finds")
        for name in ("speed_up", "speed_up_as_long"):
            gain: Interval | None = getattr(self, name)
            if gain is not None:
                yield Number("student", name, gain)


def grounded_result(values: Mapping[str, Any]) -> GroundedResult:
    """From plain values, as JSON has them."""
    return GroundedResult(
        questions=values["questions"],
        told=values["told"],
        untold=values["untold"],
        readings=[GroundedReading(r["role"], r["condition"], _intervals(r["metrics"])) for r in values["readings"]],
        comparisons=[Comparison(c["metric"], c["other"], Interval(**c["difference"])) for c in values["comparisons"]],
        kept=None if values["kept"] is None else {role: _intervals(own) for role, own in values["kept"].items()},
        pairs=[
            PairReading(p["retriever"], p["role"], _intervals(p["metrics"]), _interval(p["found"]))
            for p in values["pairs"]
        ],
        latencies=[Latency(**one) for one in values["latencies"]],
        sizes=[Size(**one) for one in values.get("sizes", ())],
        supports=[SupportAccount(**{**one, "error": _interval(one["error"])}) for one in values.get("supports", ())],
        speed_up=_interval(values["speed_up"]),
        speed_up_as_long=_interval(values.get("speed_up_as_long")),
        examples=[GroundedExample(**one) for one in values["examples"]],
    )


def _interval(values: Mapping[str, float] | None) -> Interval | None:
    return Interval(**values) if values else None


def _intervals(values: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {name: Interval(**interval) for name, interval in values.items()}
