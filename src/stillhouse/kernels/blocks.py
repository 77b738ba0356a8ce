"""A few positions at a time, so that every pass over the vocabulary finds them in cache: values, and slopes at the logits."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, lru_cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillhouse.core.signals import SampledTokens, SparseLogprobs
from stillhouse.kernels.slopes import CLOSED_FORMS, ClosedForm, Softened, ValueAndSlope
from stillhouse.kernels.terms import Said, Term
from stillhouse.objectives.sparse import sampled_forward_kl, teacher_buckets

_BANNED_BY_BOTH = -1e30
"""A logit that stands for -inf on both sides: its probability is 0 and, unlike that of -inf, its ratio 1."""


class Block:
    """Logits of both sides at a few positions. What one term finds out about them serves the next."""

    def __init__(self, logits: Float[Tensor, "tokens vocab"], said: Said, targets: Int[Tensor, " tokens"]) -> None:
        self.said, self.targets = said, targets
        self._student = lru_cache(maxsize=None)(partial(Softened, logits))  # by temperature
        if isinstance(said, Tensor):
            self._teacher = lru_cache(maxsize=None)(partial(Softened, said))

    @cached_property
    def _buckets(self) -> "_Buckets":
        assert isinstance(self.said, SparseLogprobs)
        return _Buckets(self._student(self.said.temperature).logits, self.said)

    def slope(
        self, terms: Sequence[Term], weights: Float[Tensor, "terms tokens"]
    ) -> tuple[Float[Tensor, "terms tokens"], Float[Tensor, "tokens vocab"]]:
        """Each term's values, and the gradient at the student's logits of their sum, weighted by term and token."""
        values, total = [], None
        for term, row in zip(terms, weights, strict=True):
            value, slope = self.value_and_slope(term)
            values.append(value * term.temperature**2)
            slope.mul_((term.temperature * term.weight * row).unsqueeze(-1))
            total = slope if total is None else total.add_(slope)
        assert total is not None
        return torch.stack(values), total

    def value_and_slope(self, term: Term) -> ValueAndSlope:
        """A term at each token and its gradient at the student's softened logits, both without the temperature's powers.

        The slope is the caller's to overwrite.
        """
        student = self._student(term.temperature)
        if not term.reads_teacher:
            return value_and_slope(term, student, None, self.targets)
        match self.said:
            case SampledTokens():
                return _sampled(student, self.said)
            case SparseLogprobs():
                value, slope = value_and_slope(term, self._buckets.student, self._buckets.teacher, self.targets)
                return value, self._buckets.spread(slope)
            case _:
                return value_and_slope(term, student, self._teacher(term.temperature), self.targets)


def value_and_slope(
    term: Term, student: Softened, teacher: Softened | None, targets: Int[Tensor, " tokens"]
) -> ValueAndSlope:
    """A term of softened logits, and its gradient at the student's: in closed form where there is one and it is finite,
    else by autograd on the objective itself.
    """
    closed_form = closed_forms(student.given.device, student.given.dtype).get(term.name)
    if closed_form is not None:
        value, slope = closed_form(student, teacher, targets, **term.parameters)
        if (value + slope.sum(-1)).isfinite().all():
            return value, slope
    said = None if teacher is None else _with_bans(teacher.logits)
    return _by_autograd(lambda logits: term.untempered(logits, said, targets), _with_bans(student.logits))


def closed_forms(device: torch.device, dtype: torch.dtype) -> Mapping[str, ClosedForm]:
    """By name, for such logits: Triton's on a GPU that has it, and torch's for all else."""
    if device.type == "cuda" and dtype == torch.float32:
        return CLOSED_FORMS | _triton_forms()
    return CLOSED_FORMS


@cache
def _triton_forms() -> dict[str, ClosedForm]:
    try:
        from stillhouse.kernels import triton_divergences
    except ImportError:
        return {}
    return triton_divergences.CLOSED_FORMS


def _by_autograd(objective: Callable[[Tensor], Tensor], logits: Float[Tensor, "tokens vocab"]) -> ValueAndSlope:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = objective(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def _with_bans(logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    return logits.masked_fill(logits == _BANNED_BY_BOTH, -torch.inf)


class _Buckets:
    """Both sides over the teacher's likeliest tokens and one bucket for all others, as `objectives.sparse.in_buckets`."""

    def __init__(self, logits: Float[Tensor, "tokens vocab"], said: SparseLogprobs) -> None:
        used, self._ids = said.logprobs > -torch.inf, said.ids.long()
        # Of an unused place the id says nothing, and may be a used one's: the least of a logit and +inf is the logit.
        struck_out = torch.where(used, -torch.inf, torch.inf).to(logits.dtype)
        others = logits.scatter_reduce(-1, self._ids, struck_out, "amin")
        most = others.amax(-1, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)
        self._others = others.sub_(most).exp_()
        self._total = self._others.sum(-1, keepdim=True)
        tokens = logits.gather(-1, self._ids).masked_fill_(~used, -torch.inf)
        student, teacher = torch.cat([tokens, self._total.log() + most], -1), teacher_buckets(said, logits.dtype)
        banned = (student == -torch.inf) & (teacher == -torch.inf)
        self.student, self.teacher = (
            Softened(side.masked_fill_(banned, _BANNED_BY_BOTH)) for side in (student, teacher)
        )

    def spread(self, slope: Float[Tensor, "tokens buckets"]) -> Float[Tensor, "tokens vocab"]:
        """From the gradient at the buckets to that at the logits: all others share the last one's by their probability."""
        share = slope[:, -1:] / self._total.clamp(min=torch.finfo(slope.dtype).tiny)
        return (self._others * share).scatter_add_(-1, self._ids, slope[:, :-1])


def _sampled(student: Softened, said: SampledTokens) -> ValueAndSlope:
    """Cross-entropy with the drawn tokens less the teacher's entropy; its slope is q sum(w), less w at what was drawn."""
    ids, weights = said.ids.long(), said.weights.to(student.probs.dtype)
    value = -torch.linalg.vecdot(weights, student.logprobs.gather(-1, ids)) - said.entropy.to(weights.dtype)
    if not value.isfinite().all():
        return _by_autograd(lambda logits: sampled_forward_kl(logits, said), student.logits)
    slope = student.probs * weights.sum(-1, keepdim=True)
    return value, slope.scatter_add_(-1, ids, -weights)
