"""From hidden states and heads to losses and gradients, never holding more than a chunk of logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillhouse.core.signals import FactoredLogits
from stillhouse.objectives.catalogue import BoundObjective

CHUNK_ELEMENTS = 2**23
"""Logits held at once for each model: 32 MiB in float32, enough rows for a matrix product to run at full speed."""


@dataclass(frozen=True)
class Term:
    """One objective and its weight in the total."""

    name: str
    objective: BoundObjective
    weight: float
    reads_teacher: bool


def chunked_losses(
    student: FactoredLogits,
    teacher: FactoredLogits | None,
    *,
    terms: Sequence[Term],
    target_ids: Int[Tensor, " tokens"],
    token_weights: Float[Tensor, " tokens"],
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over tokens of the weighted terms, and each term's own sum (without its weight, without gradient).

    The same value and gradient as building all logits, to rounding. The gradient is found during the forward pass, chunk
    by chunk, so memory does not grow with the number of tokens; under `no_grad` it is not found at all.
    """
    chunk = chunk_tokens or max(1, CHUNK_ELEMENTS // student.vocab_size)
    work = _Work(teacher, tuple(terms), target_ids, token_weights, chunk)
    return _ChunkedLosses.apply(student.hidden, student.weight, student.bias, student, work)


@dataclass(frozen=True)
class _Work:
    """What the loss needs and no gradient flows to."""

    teacher: FactoredLogits | None
    terms: tuple[Term, ...]
    target_ids: Tensor
    token_weights: Tensor
    chunk_tokens: int

    def sums(self, logits: Tensor, piece: slice) -> Tensor:
        """The sum of each term over the tokens of this piece: [terms]."""
        teacher = self.teacher
        said = None if teacher is None else replace(teacher, hidden=teacher.hidden[piece]).dense()
        values = [term.objective(logits, said, self.target_ids[piece]) for term in self.terms]  # each [tokens]
        return torch.stack([(value * self.token_weights[piece]).sum() for value in values])

    def pieces(self) -> list[slice]:
        total = self.target_ids.shape[0]
        return [slice(start, start + self.chunk_tokens) for start in range(0, total, self.chunk_tokens)]


class _ChunkedLosses(torch.autograd.Function):
    """Builds a chunk's logits, takes the objectives' own gradient at them, and multiplies it back at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: FactoredLogits, work: _Work
    ) -> tuple[Tensor, Tensor]:
        inputs = [hidden, weight, bias]
        wanted = [tensor is not None and needed for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False)]
        gradients = [
            torch.zeros_like(t) if want and t is not None else None for t, want in zip(inputs, wanted, strict=True)
        ]
        term_weights = torch.tensor([term.weight for term in work.terms], dtype=torch.float32, device=hidden.device)
        sums = torch.zeros_like(term_weights)
        for piece in work.pieces():
            logits = replace(head, hidden=hidden[piece]).dense().detach()
            if not any(wanted):
                sums += work.sums(logits, piece)
                continue
            with torch.enable_grad():
                logits.requires_grad_()
                parts = work.sums(logits, piece)
                (slope,) = torch.autograd.grad(parts @ term_weights, logits)  # [tokens, vocab]
            sums += parts.detach()
            _multiply_back(_through_cap(slope, logits.detach(), head), hidden[piece], weight, gradients, piece)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums)
        return sums @ term_weights, sums

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0]
        return (*(None if gradient is None else gradient * scale for gradient in ctx.gradients), None, None)


def _through_cap(slope: Tensor, logits: Tensor, head: FactoredLogits) -> Tensor:
    """From the gradient at the logits to the gradient at the product that they came from."""
    if head.softcap is not None:
        slope = slope * (1 - (logits / head.softcap) ** 2)
    return slope * head.scale if head.scale != 1 else slope


def _multiply_back(
    slope: Tensor, hidden: Tensor, weight: Tensor, gradients: Sequence[Tensor | None], piece: slice
) -> None:
    """Add this chunk's share to the gradients of hidden states, head weight and head bias."""
    hidden_gradient, weight_gradient, bias_gradient = gradients
    slope = slope.to(weight.dtype)
    if hidden_gradient is not None:
        hidden_gradient[piece] = slope @ weight
    if weight_gradient is not None:
        weight_gradient.addmm_(slope.T, hidden.to(weight.dtype))
    if bias_gradient is not None:
        bias_gradient += slope.sum(0)
