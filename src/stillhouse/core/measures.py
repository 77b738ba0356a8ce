"""What is measured beside an evaluation's headline: one form for whoever measures, and for every report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.core.results import Flips, Interval, Metric, Role


@dataclass(frozen=True)
class Scored:
    """One model's numbers on the examples that all models answered."""

    role: Role
    metrics: Mapping[str, Interval]
    change: Mapping[str, Interval] = field(default_factory=dict)
    """The model's less the teacher's, over the same draws of examples; the teacher has none."""
    retained: Mapping[str, Interval] = field(default_factory=dict)
    """As shares of the teacher's, over the same draws; left out where the teacher may have nothing to keep."""
    flips: Flips | None = None
    """Beside the teacher, where each answer is right or wrong."""


TaskKind = Literal["multiple_choice", "minimal_pairs", "answers", "generation", "bbq", "group_gaps", "lm_eval"]
"""How a task asks, and what counts as right: see `evaluation.tasks` of a recipe."""


@dataclass(frozen=True)
class GroupScored:
    """Every model on the examples of one group."""

    group: str
    examples: int
    scored: Sequence[Scored]


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence."""

    answers: int
    confidence: float
    """Their mean."""
    accuracy: Interval
    """How many of them are right."""


@dataclass(frozen=True)
class Reliability:
    """Whether a model is as often right as it is sure."""

    role: Role
    of: str
    """What is judged, such as the next token of the held-out text."""
    error: Interval
    """Expected calibration error, over bins of equal width."""
    brier: Interval
    """The squared distance of its probabilities from what is so, summed over what is possible: 0 is best, 2 worst."""
    bins: Sequence[Bin] = ()


@dataclass(frozen=True)
class TaskResult:
    """Every model on one set of questions."""

    name: str
    kind: TaskKind
    examples: int
    headline: str
    """The metric that says most."""
    scored: Sequence[Scored]
    chance: float | None = None
    """What guessing is worth by the headline, where that is known."""
    notes: Sequence[str] = ()
    """How it was measured, such as the signature of a library, and what was left out."""
    groups: Sequence[GroupScored] = ()
    """The same, group by group, by the headline alone."""
    reliability: Sequence[Reliability] = ()

    def scores(self, role: Role) -> Scored | None:
        """The model in this role, if it was asked."""
        return next((one for one in self.scored if one.role == role), None)


MEASURES: Mapping[str, Metric] = {
    "accuracy_by_bytes": Metric(
        "accuracy by bytes",
        "share",
        "higher",
        "How often the right answer has the highest log-probability a UTF-8 byte: no length is favoured.",
    ),
    "beyond_chance": Metric(
        "beyond chance",
        "share",
        "higher",
        "Accuracy of which 0 is guessing and 1 is always right. A share kept of it cannot be had by guessing.",
    ),
    "answered": Metric("answer found", "share", "higher", "How often the pattern finds any answer, right or wrong."),
    "bleu": Metric("BLEU", "share", "higher", "sacrebleu's: runs of words in common with the reference."),
    "chrf": Metric("chrF", "share", "higher", "sacrebleu's chrF2: runs of characters in common with the reference."),
    "rouge1": Metric("ROUGE-1", "share", "higher", "Words in common with the reference; of a to z and 0 to 9 alone."),
    "rouge2": Metric("ROUGE-2", "share", "higher", "Pairs of words in common with the reference."),
    "rougel": Metric("ROUGE-L", "share", "higher", "The longest run of words in common, with gaps."),
    "exact_match": Metric(
        "exact match",
        "share",
        "higher",
        "The same as a reference but for case, punctuation and articles, as SQuAD has it.",
    ),
    "f1": Metric(
        "token F1", "share", "higher", "Words in common with the best reference; a long answer loses by its length."
    ),
    "answer_words": Metric("words", "", "higher", "How long the answers are: what many a score really measures."),
    "brier": Metric(
        "Brier score", "", "lower", "Squared distance of all probabilities from what is so: 0 is best, 2 worst."
    ),
    "group_gap": Metric(
        "gap between groups", "", "lower", "Between the two groups that are furthest apart for the teacher."
    ),
    "accuracy_ambiguous": Metric(
        "accuracy, not told", "share", "higher", "Where the text does not say, and 'unknown' is right."
    ),
    "accuracy_disambiguated": Metric("accuracy, told", "share", "higher", "Where the text says it."),
    "bias_ambiguous": Metric(
        "bias, not told",
        "",
        "lower",
        "How much more often a stereotype decides than its opposite, times the share of errors.",
    ),
    "bias_disambiguated": Metric(
        "bias, told", "", "lower", "How much more often a stereotype decides than its opposite: 0 is none, 1 always."
    ),
    "reverse_kl": Metric(
        "reverse KL", "nats", "lower", "KL(model || teacher) a token: what the model says and the teacher not."
    ),
    "jsd": Metric("Jensen-Shannon", "nats", "lower", "Divergence of both from their mean, a token; at most 0.69."),
    "teacher_entropy": Metric(
        "teacher's entropy", "nats", "lower", "What is open to the teacher itself; not the model's doing."
    ),
    "top5_agreement": Metric(
        "top-5 agreement", "share", "higher", "Of the teacher's five likeliest, the share among the model's."
    ),
    "acceptance": Metric(
        "acceptance", "share", "higher", "Sum of min(p, q): how often speculative decoding takes the model's token."
    ),
    "cka": Metric(
        "CKA", "", "higher", "Debiased linear CKA of token states: 1 for the same geometry, 0 for none in common."
    ),
    "hidden_cosine": Metric(
        "cosine of states", "", "higher", "Of both models' states of one token, where widths are equal."
    ),
    "output_cosine": Metric(
        "cosine of answers", "", "higher", "Of the embeddings of both models' answers to one prompt."
    ),
}
"""What is measured by suites, beside METRICS of `core/results.py`."""
