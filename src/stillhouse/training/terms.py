"""What the student is asked to match, term by term: what each reads, what it counts, and how it changes on the way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.batch import Batch, LabelledBatch, PairedBatch, PreferenceBatch, TaggedBatch
from stillhouse.core.signals import Pooling, Wanted
from stillhouse.kernels.policy import PolicyTerm
from stillhouse.kernels.preference import PreferenceTerm
from stillhouse.kernels.spans import SpanTerm
from stillhouse.kernels.terms import Average, Term, Whose
from stillhouse.objectives import AdaptiveRamp, Pace, Ramp, Unit
from stillhouse.training.features import FeatureTerm, Side

AnyTerm = Term | FeatureTerm | SpanTerm | PolicyTerm | PreferenceTerm
TermUnit = (
    Literal["target", "answer", "pair", "student target", "student answer", "other target", "other answer"] | Unit
)
UNITS: tuple[TermUnit, ...] = (
    "target",
    "token",
    "document",
    "span",
    "pair",
    "answer",
    "student target",
    "student answer",
    "other target",
    "other answer",
)
"""What a term's values are one each of, and what its sum is divided by the number of."""

MAY_BE_NONE: frozenset[TermUnit] = frozenset(unit for unit in UNITS if unit.startswith(("student", "other")))
"""What a step may hold none of: chance decides who answers."""


Paces = Mapping[str, Pace]
"""Where a term's adaptive ramps stand, by the number that they move."""


@dataclass(frozen=True)
class Scheduled:
    """A term, and which of its numbers follow a ramp: its `weight`, its `temperature`, or parameters by name."""

    term: AnyTerm
    ramps: Mapping[str, Ramp | AdaptiveRamp] = field(default_factory=dict)

    def numbers(self, progress: float, paces: Paces | None = None) -> dict[str, float]:
        """What moves, where this share of training, in [0, 1], is done: adaptive ramps at their pace, if they have one yet."""
        standing = paces or {}
        return {
            name: standing[name].number if name in standing else ramp.at(progress) for name, ramp in self.ramps.items()
        }

    def at(self, progress: float, paces: Paces | None = None) -> AnyTerm:
        """The term with its numbers as they are then."""
        if not self.ramps:
            return self.term
        now = self.numbers(progress, paces)
        weight = now.pop("weight", self.term.weight)
        if isinstance(self.term, FeatureTerm | PolicyTerm | PreferenceTerm):
            return replace(self.term, weight=weight, parameters={**self.term.parameters, **now})
        temperature = now.pop("temperature", self.term.temperature)
        return replace(self.term, weight=weight, temperature=temperature, parameters={**self.term.parameters, **now})

    def after(self, paces: Paces, *, value: float, progress: float) -> Paces:
        """Where its adaptive ramps stand after a step in which the term's mean was `value`."""
        return {
            name: ramp.after(paces.get(name, Pace(ramp.start)), value=value, progress=progress)
            for name, ramp in self.ramps.items()
            if isinstance(ramp, AdaptiveRamp)
        }


def scheduled(terms: Iterable[AnyTerm | Scheduled]) -> tuple[Scheduled, ...]:
    """Terms that stay as they are, among those that change."""
    return tuple(term if isinstance(term, Scheduled) else Scheduled(term) for term in terms)


def unit_of(term: AnyTerm) -> TermUnit:
    """What the term's values are one each of."""
    if isinstance(term, Term):
        return "token" if term.where == "tokens" else _answers_unit(term.answers, term.average)
    if isinstance(term, PolicyTerm):
        return "target"
    if isinstance(term, PreferenceTerm):
        return "pair"
    return "span" if isinstance(term, SpanTerm) else term.objective.unit


def _answers_unit(answers: Whose, average: Average) -> TermUnit:
    if answers == "all":
        return "target" if average == "tokens" else "answer"
    if answers == "student":
        return "student target" if average == "tokens" else "student answer"
    return "other target" if average == "tokens" else "other answer"


def unit_counts(batch: Batch) -> Float[Tensor, " units"]:
    """How many of each unit the batch holds: targets and spans by their weight."""
    counts: dict[TermUnit, Tensor | int] = {
        "target": batch.total_weight,
        "token": batch.real.sum(),
        "document": batch.num_documents,
        "span": batch.span_weights.sum() if isinstance(batch, PairedBatch) else 0,
        "pair": batch.num_pairs if isinstance(batch, PreferenceBatch) else 0,
    }
    if not isinstance(batch, TaggedBatch | LabelledBatch):
        whose: tuple[Whose, ...] = ("all", "student", "data")
        for of in whose:
            own = shares_of(batch, of, "tokens")
            counts.setdefault(_answers_unit(of, "tokens"), own.sum())
            counts[_answers_unit(of, "answers")] = len(batch.answers[own > 0].unique())
    return torch.stack([torch.as_tensor(counts.get(unit, 0)).cpu().double() for unit in UNITS])


def shares_of(batch: Batch, answers: Whose, average: Average) -> Float[Tensor, " tokens"]:
    """What each of the batch's targets counts for, where only these answers count, by token or by answer: an answer's tokens
    then share a weight of 1."""
    weights = batch.target_weights
    if average == "answers":
        totals = weights.new_zeros(batch.documents.numel()).index_add(0, batch.answers, weights)
        weights = weights / totals[batch.answers]
    if answers == "all":
        return weights
    rows = (batch.weights[:, 1:] > 0).nonzero()[:, 0]
    by_student = torch.zeros_like(batch.real[:, 0]) if batch.by_student is None else batch.by_student
    return weights * (by_student[rows] == (answers == "student"))


def counts_apart(batch: Batch, *, apart: bool) -> Float[Tensor, "2 units"]:
    """The same of rows that learn the terms, and of replayed rows that learn something else, if they are to be told `apart`."""
    old = batch.replayed if apart else None
    new = batch if old is None else batch.of_rows(~old)
    counts = unit_counts(new)
    return torch.stack([counts, torch.zeros_like(counts) if old is None else unit_counts(batch.of_rows(old))])


def wanted_of(side: Side, terms: Sequence[AnyTerm], pooling: Pooling | None) -> Wanted:
    """All that one side must be asked for, so that one forward pass serves every term."""
    wanted = Wanted()
    for term in terms:
        if isinstance(term, FeatureTerm):
            wanted |= term.wanted(side, pooling)
        elif isinstance(term, SpanTerm):  # of the teacher, over its own tokens: not at this batch's
            wanted |= Wanted(logits=side == "student")
        elif side == "student" or term.reads_teacher:
            wanted |= Wanted(logits=True)
    return wanted
