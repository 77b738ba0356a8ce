"""Closed forms: an objective's value and its gradient at the student's logits, in few passes over the vocabulary.

Each takes both sides as `Softened` logits, which find probabilities once for all that ask, and returns the value per
token and the slope: the gradient of that value at the student's softened logits. Its slow twin in `objectives/` is the
oracle of its tests, and takes over where a value is not finite, as banned tokens make it.

Where g is the derivative of a divergence by the student's probabilities q, its slope is q g - q sum(q g).
"""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillhouse import objectives

ValueAndSlope = tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens vocab"]]
ClosedForm = Callable[..., ValueAndSlope]
"""(student, teacher, target ids, **parameters) -> values, slopes. What it is given stays as it was."""


class Softened:
    """Logits at a temperature. Each of their forms is found when it is first asked for, and kept."""

    def __init__(self, logits: Float[Tensor, "tokens vocab"], temperature: float = 1.0) -> None:
        self.given = logits
        self.temperature = temperature

    @cached_property
    def logits(self) -> Float[Tensor, "tokens vocab"]:
        """The logits, divided by the temperature."""
        return self.given if self.temperature == 1 else self.given / self.temperature

    @property
    def logprobs(self) -> Float[Tensor, "tokens vocab"]:
        """Log-probabilities, in nats."""
        return self._forms[0]

    @property
    def probs(self) -> Float[Tensor, "tokens vocab"]:
        """Probabilities."""
        return self._forms[1]

    @cached_property
    def _forms(self) -> tuple[Tensor, Tensor]:
        """Both with one exponential a token: a log_softmax, and the exponential of that, would be two."""
        logprobs = self.given - self.given.amax(-1, keepdim=True)
        if self.temperature != 1:
            logprobs.div_(self.temperature)
        probs = logprobs.exp()
        total = probs.sum(-1, keepdim=True)
        return logprobs.sub_(total.log()), probs.div_(total)


def cross_entropy(student: Softened, _teacher: Softened | None, targets: Int[Tensor, " tokens"]) -> ValueAndSlope:
    """-log q(target); its slope is q - 1 at the target, q elsewhere."""
    at_target = targets[:, None]
    value = -student.logprobs.gather(-1, at_target).squeeze(-1)
    return value, student.probs.scatter_add(-1, at_target, value.new_full(at_target.shape, -1.0))


def forward_kl(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """KL(p || q); its slope is q - p."""
    value = torch.linalg.vecdot(teacher.probs, teacher.logprobs - student.logprobs)
    return value, student.probs - teacher.probs


def reverse_kl(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """KL(q || p); its slope is q (log(q / p) - KL)."""
    return _weighted_excess(student.probs, student.logprobs - teacher.logprobs)


def jsd(student: Softened, teacher: Softened, _targets: Tensor | None, *, beta: float = 0.5) -> ValueAndSlope:
    """beta KL(p || m) + (1 - beta) KL(q || m); its slope is (1 - beta) q (log(q / m) - KL(q || m))."""
    mixture_logprobs = _log(torch.lerp(student.probs, teacher.probs, beta))
    from_student, slope = _weighted_excess(student.probs, student.logprobs - mixture_logprobs)
    from_teacher = torch.linalg.vecdot(teacher.probs, mixture_logprobs.neg_().add_(teacher.logprobs))
    return beta * from_teacher + (1 - beta) * from_student, slope.mul_(1 - beta)


def skewed_forward_kl(
    student: Softened, teacher: Softened, _targets: Tensor | None, *, alpha: float = 0.1
) -> ValueAndSlope:
    """KL(p || m), m = alpha p + (1 - alpha) q; q g = -(1 - alpha) p q / m."""
    if alpha == 0:
        return forward_kl(student, teacher, None)
    mixture = _positive(torch.lerp(student.probs, teacher.probs, alpha))
    pull = torch.mul(teacher.probs, student.probs).div_(mixture).mul_(alpha - 1)
    value = torch.linalg.vecdot(teacher.probs, mixture.log_().neg_().add_(teacher.logprobs))
    return value, _through_softmax(pull, student.probs)


def skewed_reverse_kl(
    student: Softened, teacher: Softened, _targets: Tensor | None, *, alpha: float = 0.1
) -> ValueAndSlope:
    """KL(q || m), m = (1 - alpha) p + alpha q; q g = q (log(q / m) - alpha q / m)."""
    if alpha == 0:
        return reverse_kl(student, teacher, None)
    mixture = _positive(torch.lerp(teacher.probs, student.probs, alpha))
    share = torch.div(student.probs, mixture)
    ratio = mixture.log_().neg_().add_(student.logprobs)
    value = torch.linalg.vecdot(student.probs, ratio)
    return value, _through_softmax(ratio.sub_(share, alpha=alpha).mul_(student.probs), student.probs)


def total_variation(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """Half the sum of |q - p|; q g = q sign(q - p) / 2."""
    excess = student.probs - teacher.probs
    value = excess.abs().sum(-1) / 2
    return value, _through_softmax(excess.sign_().mul_(student.probs).div_(2), student.probs)


def alpha_beta(
    student: Softened, teacher: Softened, _targets: Tensor | None, *, alpha: float = 0.5, beta: float = 0.5
) -> ValueAndSlope:
    """The divergence as its oracle finds it; q g = q^(alpha + beta) (1 - (p / q)^alpha) / alpha, or its limit at alpha = 0.

    The larger of the two powers is taken out, so that what is left lies between 0 and 1.
    """
    rows = zip(student.logprobs.split(1), teacher.logprobs.split(1), strict=True)  # the oracle takes much room
    value = torch.cat([objectives.alpha_beta(*pair, alpha=alpha, beta=beta) for pair in rows])
    ratio = teacher.logprobs - student.logprobs
    if abs(alpha) < _NO_POWER:
        pull = ratio.neg_().mul_(student.logprobs.mul(beta).exp_())
    else:
        gap = ratio.mul_(alpha)  # of the logs of the two powers
        larger = torch.add(gap.clamp(min=0), student.logprobs, alpha=alpha + beta).exp_()
        pull = torch.expm1(-gap.abs()).mul_(gap.sign()).mul_(larger).div_(alpha)
    return value, _through_softmax(pull, student.probs)


def taid(student: Softened, teacher: Softened, _targets: Tensor | None, *, t: float = 0.4) -> ValueAndSlope:
    """KL(p_t || q), p_t = softmax((1 - t) log q + t log p) held fixed; its slope is q - p_t."""
    return forward_kl(student, Softened(torch.lerp(student.logprobs, teacher.logprobs, t)), None)


def adaptive_kl(student: Softened, teacher: Softened, _targets: Tensor | None, *, mu: float = 0.5) -> ValueAndSlope:
    """c KL(p || q) + (1 - c) KL(q || p), c the head's share of sum |p - q|, held fixed."""
    forward, slope = forward_kl(student, teacher, None)
    share = _head_share(teacher.probs, slope.abs(), mu)
    reverse, reverse_slope = reverse_kl(student, teacher, None)
    return torch.lerp(reverse, forward, share), torch.lerp(reverse_slope, slope, share[:, None])


def logit_mse(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """The mean of (s - t)^2; its slope is 2 (s - t) / vocab."""
    return _mean_square(student.logits - teacher.logits)


def centred_logit_mse(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """The same of s - t less its mean, which its slope has nothing of."""
    differences = student.logits - teacher.logits
    return _mean_square(differences.sub_(differences.mean(-1, keepdim=True)))


def decoupled_kd(
    student: Softened,
    teacher: Softened,
    targets: Int[Tensor, " tokens"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> ValueAndSlope:
    """alpha KL(target or not) + beta KL(among the rest).

    The slope is alpha (q - p) at the target; elsewhere, with both sides renormalised there, the rest's own q - p weighted
    by beta, less q of what the target's slope takes.
    """
    at_target = targets[:, None]
    ours, our_rest = _target_and_rest(student, at_target)
    theirs, their_rest = _target_and_rest(teacher, at_target)
    among_rest = (their_rest.logprobs - our_rest.logprobs).scatter_(-1, at_target, 0.0)
    value = beta * torch.linalg.vecdot(their_rest.probs, among_rest)
    value += alpha * torch.linalg.vecdot(theirs.probs, theirs.logprobs - ours.logprobs)
    of_target = alpha * (ours.probs - theirs.probs)[:, :1]
    slope = torch.mul(our_rest.probs, beta - of_target).sub_(their_rest.probs, alpha=beta)
    return value, slope.scatter_(-1, at_target, of_target)


def _target_and_rest(side: Softened, at_target: Int[Tensor, "tokens 1"]) -> tuple[Softened, Softened]:
    """The target against all else together, [tokens, 2], and all else without it."""
    rest = side.logprobs.scatter(-1, at_target, -torch.inf)
    pair = torch.cat([side.logprobs.gather(-1, at_target), rest.logsumexp(-1, keepdim=True)], -1)
    return Softened(pair), Softened(rest)


def _weighted_excess(probs: Float[Tensor, "tokens vocab"], ratio: Float[Tensor, "tokens vocab"]) -> ValueAndSlope:
    """The mean of the log-ratio under `probs`, and how far each token's lies above it, weighted. Overwrites `ratio`."""
    mean = torch.linalg.vecdot(probs, ratio)
    return mean, ratio.sub_(mean[:, None]).mul_(probs)


def _through_softmax(
    pull: Float[Tensor, "tokens vocab"], probs: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, "tokens vocab"]:
    """From q g to the slope. Overwrites `pull`."""
    return pull.addcmul_(probs, pull.sum(-1, keepdim=True), value=-1)


def _mean_square(differences: Float[Tensor, "tokens vocab"]) -> ValueAndSlope:
    """Overwrites `differences`."""
    vocab_size = differences.shape[-1]
    return differences.square().mean(-1), differences.mul_(2 / vocab_size)


def _positive(mixture: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Where both sides underflow to 0 their mixture does too; anything finite will do there, as it is multiplied by 0."""
    return mixture.clamp_(min=torch.finfo(mixture.dtype).tiny)


def _log(mixture: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
    return _positive(mixture).log_()


def _head_share(
    teacher_probs: Float[Tensor, "tokens vocab"], gaps: Float[Tensor, "tokens vocab"], mu: float
) -> Float[Tensor, " tokens"]:
    """Which part of the gaps lies at the teacher's likeliest tokens, as few as hold a mass of mu.

    A few hundred tokens hold it as a rule, and finding those is far cheaper than to sort the vocabulary.
    """
    vocab_size = teacher_probs.shape[-1]
    for num_likely in (min(256, vocab_size), vocab_size):
        likely, order = teacher_probs.topk(num_likely)
        before = likely.cumsum(-1).sub_(likely)
        if num_likely == vocab_size or (before[:, -1] >= mu).all():
            break
    head_gap = gaps.gather(-1, order).masked_fill_(before >= mu, 0.0).sum(-1)
    return head_gap / _positive(gaps.sum(-1))  # no gap at all is none at the head


_NO_POWER = 1e-20
"""As `objectives.alpha_beta`: a power nearer to zero is zero to rounding."""

CLOSED_FORMS: dict[str, ClosedForm] = {
    **dict.fromkeys(("next_token", "masked_token", "hard_label"), cross_entropy),
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skewed_forward_kl": skewed_forward_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
    "total_variation": total_variation,
    "alpha_beta": alpha_beta,
    "adaptive_kl": adaptive_kl,
    "taid": taid,
    "logit_mse": logit_mse,
    "centred_logit_mse": centred_logit_mse,
    "decoupled_kd": decoupled_kd,
}
