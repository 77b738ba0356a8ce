"""From hidden states and heads to losses and gradients, never holding more than a chunk of logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.slopes import CLOSED_FORMS, ValueAndSlope
from stillhouse.kernels.terms import Term, weighted_sums, weighted_total

CHUNK_ELEMENTS = 2**22
"""Logits held at once for each model: 16 MiB in float32. A matrix product of so many rows runs at nearly full speed, and
glibc hands back blocks of up to 32 MiB without asking the system for fresh pages each time."""


def chunked_losses(
    student: FactoredLogits,
    teacher: FactoredLogits | None,
    *,
    terms: Sequence[Term],
    target_ids: Int[Tensor, " tokens"],
    token_weights: Float[Tensor, "*terms tokens"],
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over tokens of the weighted terms, and each term's own sum (without its weight, without gradient). What a token
    counts for may be one number for all terms or differ from term to term.

    The same value and gradient as building all logits, to rounding. The gradient is found during the forward pass, chunk
    by chunk, so memory does not grow with the number of tokens; under `no_grad` it is not found at all.
    """
    chunk = chunk_tokens or max(1, CHUNK_ELEMENTS // student.vocab_size)
    weights = token_weights.expand(len(terms), -1)
    work = _Work(teacher, tuple(terms), target_ids, weights, chunk, torch.is_grad_enabled())
    return _ChunkedLosses.apply(student.hidden, student.weight, student.bias, student, work)


@dataclass(frozen=True)
class _Work:
    """What the loss needs and no gradient flows to."""

    teacher: FactoredLogits | None
    terms: tuple[Term, ...]
    target_ids: Tensor
    token_weights: Tensor
    chunk_tokens: int
    learns: bool
    """Whether anybody will ask for a gradient: inside `forward` below, torch no longer says."""

    def teacher_logits(self, piece: slice) -> Tensor | None:
        """What the teacher says about the tokens of this piece: [tokens, vocab]."""
        return None if self.teacher is None else replace(self.teacher, hidden=self.teacher.hidden[piece]).dense()

    def values(self, logits: Tensor, piece: slice) -> Tensor:
        """Each term at each token of this piece: [terms, tokens]."""
        said, targets = self.teacher_logits(piece), self.target_ids[piece]
        return torch.stack([term.objective(logits, said, targets) for term in self.terms])

    def values_and_slope(self, logits: Tensor, piece: slice) -> tuple[Tensor, Tensor]:
        """The same, and the gradient of their weighted sum at the logits: [tokens, vocab]."""
        said, targets = self.teacher_logits(piece), self.target_ids[piece]
        values, slopes = zip(*(value_and_slope(term, logits, said, targets) for term in self.terms), strict=True)
        total, *others = (
            slope.mul_((term.weight * weights).unsqueeze(-1))
            for term, slope, weights in zip(self.terms, slopes, self.token_weights[:, piece], strict=True)
        )
        for slope in others:
            total.add_(slope)
        return torch.stack(values), total

    def pieces(self) -> list[slice]:
        total = self.target_ids.shape[0]
        return [slice(start, start + self.chunk_tokens) for start in range(0, total, self.chunk_tokens)]


class _ChunkedLosses(torch.autograd.Function):
    """Builds a chunk's logits, finds the objectives' gradient at them, and multiplies it back at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: FactoredLogits, work: _Work
    ) -> tuple[Tensor, Tensor]:
        wanted = [work.learns and needed for needed in ctx.needs_input_grad[:3]]
        gradients = [
            _total_like(tensor) if tensor is not None and want else None
            for tensor, want in zip((hidden, weight, bias), wanted, strict=True)
        ]
        precision = torch.promote_types(weight.dtype, torch.float32)
        term_weights = torch.tensor([term.weight for term in work.terms], dtype=precision, device=hidden.device)
        sums = torch.zeros_like(term_weights)
        for piece in work.pieces():
            logits = replace(head, hidden=hidden[piece]).dense().detach()
            if any(wanted):
                values, slope = work.values_and_slope(logits, piece)
                _multiply_back(_through_cap(slope, logits, head), hidden[piece], weight, gradients, piece)
            else:
                values = work.values(logits, piece)
            sums += weighted_sums(values.to(precision), work.token_weights[:, piece].to(precision))
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums)
        return weighted_total(sums, term_weights), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0]  # autograd brings each product to its own tensor's precision
        return (*(None if gradient is None else gradient * scale for gradient in ctx.gradients), None, None)


def value_and_slope(
    term: Term, logits: Float[Tensor, "tokens vocab"], said: Tensor | None, targets: Int[Tensor, " tokens"]
) -> ValueAndSlope:
    """A term at each token, and its gradient at the student's logits: in closed form where there is one and it is finite,
    else by autograd on the objective itself.
    """
    closed_form = CLOSED_FORMS.get(term.name)
    if closed_form is not None:
        student_logprobs = _softened(logits, term.temperature)
        teacher_logprobs = _softened(said, term.temperature) if said is not None and term.reads_teacher else None
        value, slope = closed_form(student_logprobs, teacher_logprobs, targets, **term.parameters)
        if value.isfinite().all():
            return value * term.temperature**2, slope.mul_(term.temperature)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = term.objective(leaf, said, targets)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def _softened(logits: Float[Tensor, "tokens vocab"], temperature: float) -> Float[Tensor, "tokens vocab"]:
    """Log-probabilities at a temperature."""
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def _total_like(tensor: Tensor) -> Tensor:
    """Where chunks add up, in float32 at least: in bfloat16, what the last chunks add would be rounded away."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


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
    if bias_gradient is not None:
        bias_gradient += slope.sum(0)
    slope = slope.to(weight.dtype)
    if hidden_gradient is not None:
        hidden_gradient[piece] = slope @ weight
    if weight_gradient is not None:
        _add_product(weight_gradient, slope.T, hidden.to(weight.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a copy of the product where the types agree."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
