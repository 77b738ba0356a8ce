"""What an evaluation of answers over passages found: the one form that it writes and every report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.core.results import Comparison, Interval, Metric, Role

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
    "citation_precision": Metric(
        "citation precision", "share", "higher", "Cited passages that have the words of a right answer."
    ),
    "citation_recall": Metric(
        "citation recall", "share", "higher", "Answers that cite a passage with the words of a right answer."
    ),
}
"""Every number says how it was made: all by words, none by what they mean."""


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
    speed_up: Interval | None = None
    """How many times as fast the student answers as the teacher, from question to last word: the median over questions."""
    examples: Sequence[GroundedExample] = ()

    def reading(self, role: Role, condition: Condition = "as_read") -> GroundedReading | None:
        """How this model answers under this condition, if it was asked."""
        return next((one for one in self.readings if one.role == role and one.condition == condition), None)


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
            PairReading(
                p["retriever"], p["role"], _intervals(p["metrics"]), Interval(**p["found"]) if p["found"] else None
            )
            for p in values["pairs"]
        ],
        latencies=[Latency(**one) for one in values["latencies"]],
        speed_up=Interval(**values["speed_up"]) if values["speed_up"] else None,
        examples=[GroundedExample(**one) for one in values["examples"]],
    )


def _intervals(values: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {name: Interval(**interval) for name, interval in values.items()}
