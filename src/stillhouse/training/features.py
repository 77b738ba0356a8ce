"""Objectives on hidden states, attention and embeddings: what each reads, from which layers, and its sum over a batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.signals import Attention, Pooling, Signals, Wanted
from stillhouse.objectives import FeatureObjective, LayerPairs, objective
from stillhouse.students.projections import Projections

Side = Literal["student", "teacher"]


@dataclass(frozen=True)
class FeatureTerm:
    """One objective of the catalogue that reads features, the layers that it pairs, and its weight in the total.

    Its value is the mean over its pairs, so that the weight keeps its meaning when more layers are matched.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """

    name: str
    weight: float = 1.0
    pairs: LayerPairs = ()
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.objective

    @cached_property
    def objective(self) -> FeatureObjective:
        """What is compared, with this term's parameters."""
        found = objective(self.name, **self.parameters)
        assert isinstance(found, FeatureObjective), f"{self.name} reads logits, not features"
        return found

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked: always."""
        return True

    @property
    def is_dual(self) -> bool:
        """Whether it compares in one side's space, rather than layers."""
        return self.objective.is_dual

    @property
    def temperature(self) -> float:
        """Of an objective that has one."""
        return self.parameters.get("temperature", 1.0)

    @property
    def needs_documents_alone(self) -> bool:
        """Whether it compares within documents, which must then have a row each."""
        return self.objective.reads_attention or self.objective.reads in ("document_states", "flow")

    def wanted(self, side: Side, pooling: Pooling | None = None) -> Wanted:
        """What one side must be asked for."""
        if self.is_dual:
            return Wanted(logits=True, hidden_states=frozenset({0}))
        layers = frozenset(pair[0 if side == "student" else 1] for pair in self.pairs)
        if self.objective.reads == "embeddings":
            return Wanted(pooling=pooling or "mean")
        return Wanted(attentions=layers) if self.objective.reads_attention else Wanted(hidden_states=layers)

    def total(self, student: Signals, teacher: Signals, batch: Batch, projections: Projections) -> Float[Tensor, ""]:
        """Sum over the batch's tokens or documents of the mean over pairs of layers."""
        reading = _READINGS[self.objective.reads]
        return torch.stack(list(reading(self, student, teacher, batch, projections))).mean()

    def project(
        self, states: Float[Tensor, "*positions width"], pair: tuple[int, int], projections: Projections
    ) -> Float[Tensor, "*positions teacher_width"]:
        """The student's states at this pair of layers, as wide as the teacher's where there is a projection for it."""
        name = projection_name(self.name, pair)
        return projections(name, states) if name in projections.widths else states


def projection_name(term: str, pair: tuple[int, int]) -> str:
    """What a term's projection at this pair of layers is called."""
    return f"{term}.{pair[0]}-{pair[1]}"


def projection_widths(
    terms: Iterable[FeatureTerm], *, student_width: int, teacher_width: int
) -> dict[str, tuple[int, int]]:
    """What `Projections` is made from: every place where these terms compare states number by number."""
    widths = (student_width, teacher_width)
    projected = [term for term in terms if term.objective.projects]
    return {projection_name(term.name, pair): widths for term in projected for pair in term.pairs}


Reading = Callable[[FeatureTerm, Signals, Signals, Batch, Projections], Iterator[Tensor]]
"""Yields, for each pair of layers, the sum over tokens or documents."""


def _hidden_states(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, projections: Projections
) -> Iterator[Tensor]:
    for ours, theirs in _state_pairs(term, student, teacher, batch, projections):
        yield term.objective.function(ours, theirs).sum()


def _state_pairs(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, projections: Projections
) -> Iterator[tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens hidden"]]]:
    """The states of real tokens at each pair of layers."""
    for pair in term.pairs:
        ours, theirs = student.hidden_states[pair[0]], teacher.hidden_states[pair[1]]
        yield term.project(ours[batch.real], pair, projections), theirs[batch.real]


def _document_states(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, projections: Projections
) -> Iterator[Tensor]:
    lengths = batch.real.sum(-1).tolist()
    for ours, theirs in _state_pairs(term, student, teacher, batch, projections):
        documents = zip(ours.split(lengths), theirs.split(lengths), strict=True)
        yield torch.stack([term.objective.function(*pair) for pair in documents]).sum()


def _flow(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, projections: Projections
) -> Iterator[Tensor]:
    lengths = batch.real.sum(-1).tolist()
    for (our_lower, their_lower), (our_upper, their_upper) in pairwise(
        _state_pairs(term, student, teacher, batch, projections)
    ):
        sides = (our_lower, our_upper, their_lower, their_upper)
        documents = zip(*(side.split(lengths) for side in sides), strict=True)
        yield torch.stack([term.objective.function(*document) for document in documents]).sum()


def _attention_scores(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, _projections: Projections
) -> Iterator[Tensor]:
    for ours, theirs in term.pairs:
        scores = student.attentions[ours].scores(), teacher.attentions[theirs].scores()
        yield term.objective.function(*scores)[batch.real].sum()


def _value_relations(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, _projections: Projections
) -> Iterator[Tensor]:
    for ours, theirs in term.pairs:
        yield _related(term, student.attentions[ours], teacher.attentions[theirs], "value", batch)


def _multi_head_relations(
    term: FeatureTerm, student: Signals, teacher: Signals, batch: Batch, _projections: Projections
) -> Iterator[Tensor]:
    """Queries with queries, keys with keys and values with values, summed."""
    for ours, theirs in term.pairs:
        sides = student.attentions[ours], teacher.attentions[theirs]
        yield torch.stack([_related(term, *sides, part, batch) for part in ("query", "key", "value")]).sum()


def _related(term: FeatureTerm, ours: Attention, theirs: Attention, part: str, batch: Batch) -> Float[Tensor, ""]:
    """How the tokens of each document stand to each other in this part of attention, summed over tokens."""
    allowed = ours.allowed & theirs.allowed
    return term.objective.function(getattr(ours, part), getattr(theirs, part), allowed)[batch.real].sum()


def _embeddings(
    term: FeatureTerm, student: Signals, teacher: Signals, _batch: Batch, projections: Projections
) -> Iterator[Tensor]:
    ours, theirs = student.embeddings, teacher.embeddings
    assert ours is not None and theirs is not None
    yield term.objective.function(term.project(ours, term.pairs[0], projections), theirs).sum()


_READINGS: Mapping[str, Reading] = {
    "hidden_states": _hidden_states,
    "document_states": _document_states,
    "flow": _flow,
    "attention_scores": _attention_scores,
    "value_relations": _value_relations,
    "multi_head_relations": _multi_head_relations,
    "embeddings": _embeddings,
}
