"""Objectives across tokenizers: from both sides' hidden states and heads to losses and gradients, a few spans at a time."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillhouse.core.alignment import CommonOutcomes
from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.heads import HeadGradients, precision_of, project, through_cap
from stillhouse.kernels.terms import weighted_sums, weighted_total
from stillhouse.objectives import BoundSpanObjective, Reading, SpanObjective, objective

CHUNK_ELEMENTS = 2**20
"""Logits of one side that are compared at once: 4 MiB in float32, and autograd keeps some twenty times as much beside them.
Of four times as many, vocabularies of 49,152 and 151,936 tokens took twice the room and a tenth less time on a CPU."""


@dataclass(frozen=True)
class SpanTerm:
    """One objective of the catalogue that compares across tokenizers, and its weight in the total.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """

    name: str
    weight: float = 1.0
    temperature: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.objective

    @cached_property
    def objective(self) -> BoundSpanObjective:
        """(student's reading, teacher's, number of outcomes) -> one number per span."""
        return self._known.bind(temperature=self.temperature, **self.parameters)

    @property
    def _known(self) -> SpanObjective:
        found = objective(self.name)
        assert isinstance(found, SpanObjective), f"{self.name} does not compare spans"
        return found

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked: always."""
        return True

    def values(self, student: "Side", teacher: "Side", logits: tuple[Tensor, Tensor], common: CommonOutcomes) -> Tensor:
        """One number per span, of two sides whose logits these are."""
        found = common.joined if self._known.outcomes == "joined" else common.matched
        ours, theirs = (
            Reading(said, side.ids, side.spans, outcomes)
            for said, side, outcomes in zip(logits, (student, teacher), (found.student, found.teacher), strict=True)
        )
        return self.objective(ours, theirs, found.count)


@dataclass(frozen=True)
class Side:
    """What one side says before each token that belongs to a span, not yet multiplied out, and the token that came."""

    said: FactoredLogits
    ids: Int[Tensor, " tokens"]
    spans: Int[Tensor, " tokens"]
    """0, 1, 2 and so on, none left out."""

    def __getitem__(self, tokens: slice) -> "Side":
        """Some of the tokens, whose spans are numbered from 0 again."""
        spans = self.spans[tokens]
        return Side(replace(self.said, hidden=self.said.hidden[tokens]), self.ids[tokens], spans - spans[:1])


def span_losses(
    student: Side,
    teacher: Side,
    *,
    terms: Sequence[SpanTerm],
    common: CommonOutcomes,
    span_weights: Float[Tensor, " spans"],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over spans of the weighted terms, and each term's own sum (without its weight, without gradient).

    The logits of a few spans are built at a time, and the gradient at them is found in the forward pass, so memory does not
    grow with the number of spans; a single span is never split. It can be asked for once.
    """
    work = _Work(student, teacher, tuple(terms), common, span_weights, chunk_elements, torch.is_grad_enabled())
    head = student.said
    return _SpanLosses.apply(head.hidden, head.weight, head.bias, work)


@dataclass(frozen=True)
class _Work:
    """What the loss needs and no gradient flows to."""

    student: Side
    teacher: Side
    terms: tuple[SpanTerm, ...]
    common: CommonOutcomes
    span_weights: Tensor
    chunk_elements: int
    learns: bool

    def pieces(self) -> Iterator[tuple[slice, slice, slice]]:
        """Spans, and the tokens of either side in them: as many at once as both sides have room for, but one at least."""
        num_spans = len(self.span_weights)
        sides = (self.student, self.teacher)
        ends = [[0, *accumulate(torch.bincount(side.spans, minlength=num_spans).tolist())] for side in sides]
        room = [self.chunk_elements // side.said.vocab_size for side in sides]
        start = 0
        while start < num_spans:
            fits = (bisect_right(own, own[start] + limit) - 1 for own, limit in zip(ends, room, strict=True))
            stop = max(start + 1, min(fits))
            ours, theirs = (slice(own[start], own[stop]) for own in ends)
            yield slice(start, stop), ours, theirs
            start = stop


class _SpanLosses(torch.autograd.Function):
    """Builds the logits of a few spans, finds the gradient at them by autograd, and multiplies it back at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> tuple[Tensor, Tensor]:
        gradients = HeadGradients.of(hidden, weight, bias, wanted=ctx.needs_input_grad[:3], learns=work.learns)
        weights = work.span_weights.new_tensor(
            [term.weight for term in work.terms], dtype=precision_of(work.student.said, work.teacher.said)
        )
        sums = torch.zeros_like(weights)
        for spans, ours, theirs in work.pieces():
            sums += _piece(work, spans, ours, theirs, weights, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums)
        return weighted_total(sums, weights), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        assert found is not None, "the gradient of span_losses can be asked for once"
        return (*found.scaled(upstream[0]), None)


def _piece(
    work: _Work, spans: slice, ours: slice, theirs: slice, weights: Tensor, gradients: HeadGradients
) -> Float[Tensor, " terms"]:
    """Each term's sum over a few spans. The gradient of their weighted sum is added where somebody asks for it."""
    student, teacher = work.student[ours], work.teacher[theirs]
    logits, said = (_logits(side.said, weights.dtype) for side in (student, teacher))
    with torch.set_grad_enabled(gradients.wanted):
        leaf = logits.detach().requires_grad_(gradients.wanted)
        values = torch.stack([term.values(student, teacher, (leaf, said), work.common) for term in work.terms])
        sums = weighted_sums(values, work.span_weights[spans].to(weights.dtype).expand_as(values))
        if gradients.wanted:
            (slope,) = torch.autograd.grad(weighted_total(sums, weights), leaf)
            gradients.add(through_cap(slope, logits, student.said), work.student.said, ours)
    return sums.detach()


def _logits(head: FactoredLogits, precision: torch.dtype) -> Float[Tensor, "tokens vocab"]:
    return project(head, head.hidden, out=head.hidden.new_empty(len(head.hidden), head.vocab_size, dtype=precision))
