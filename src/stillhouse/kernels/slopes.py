"""Closed forms: an objective's value and its gradient at the student's logits, in few passes over the vocabulary.

Each takes log-probabilities that it may overwrite, and returns the value per token, in nats, and the slope: the gradient
of that value at the logits that `student` was made from. Its slow twin in `objectives/` is the oracle of its tests; it
also takes over where a value is not finite, as banned tokens make it.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

ValueAndSlope = tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens vocab"]]
ClosedForm = Callable[..., ValueAndSlope]
"""(student log-probabilities, teacher log-probabilities, target ids, **parameters) -> values, slopes."""


def cross_entropy(
    student: Float[Tensor, "tokens vocab"], _teacher: Tensor | None, targets: Int[Tensor, " tokens"]
) -> ValueAndSlope:
    """-log q(target); its slope is q - 1 at the target, q elsewhere."""
    at_target = targets[:, None]
    value = -student.gather(-1, at_target).squeeze(-1)
    slope = student.exp_()
    return value, slope.scatter_add_(-1, at_target, slope.new_full(at_target.shape, -1.0))


def forward_kl(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], _targets: Tensor
) -> ValueAndSlope:
    """KL(p || q); its slope is q - p."""
    teacher_probs = teacher.exp()
    value = torch.linalg.vecdot(teacher_probs, teacher.sub_(student))
    return value, student.exp_().sub_(teacher_probs)


def reverse_kl(
    student: Float[Tensor, "tokens vocab"], teacher: Float[Tensor, "tokens vocab"], _targets: Tensor
) -> ValueAndSlope:
    """KL(q || p); its slope is q (log(q / p) - KL)."""
    ratio = teacher.neg_().add_(student)
    return _weighted_excess(student.exp_(), ratio)


def jsd(
    student: Float[Tensor, "tokens vocab"],
    teacher: Float[Tensor, "tokens vocab"],
    _targets: Tensor,
    *,
    beta: float = 0.5,
) -> ValueAndSlope:
    """beta KL(p || m) + (1 - beta) KL(q || m); its slope is (1 - beta) q (log(q / m) - KL(q || m))."""
    teacher_probs, student_probs = teacher.exp(), student.exp()
    mixture = torch.lerp(student_probs, teacher_probs, beta)
    # Where both underflow to 0 the mixture does too; any finite logarithm will do there, as it is multiplied by 0.
    mixture_logprobs = mixture.clamp_(min=torch.finfo(mixture.dtype).tiny).log_()
    from_teacher = torch.linalg.vecdot(teacher_probs, teacher.sub_(mixture_logprobs))
    from_student, slope = _weighted_excess(student_probs, student.sub_(mixture_logprobs))
    return beta * from_teacher + (1 - beta) * from_student, slope.mul_(1 - beta)


def _weighted_excess(probs: Float[Tensor, "tokens vocab"], ratio: Float[Tensor, "tokens vocab"]) -> ValueAndSlope:
    """The mean of the log-ratio under `probs`, and how far each token's lies above it, weighted."""
    mean = torch.linalg.vecdot(probs, ratio)
    return mean, ratio.sub_(mean[:, None]).mul_(probs)


CLOSED_FORMS: Mapping[str, ClosedForm] = {
    **dict.fromkeys(("next_token", "masked_token", "hard_label"), cross_entropy),
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}
