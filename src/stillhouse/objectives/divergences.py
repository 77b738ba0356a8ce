"""Distances between two next-token distributions: logits in, nats out, one number per position.

Below, p is the teacher and q the student. A token banned (logit -inf) on both sides counts nothing. A token banned on
one side only is worth what the formula says, which may be +inf; an infinite term shows in the value and is left out of
the gradient, so that a position of weight zero cannot turn the backward pass into NaN. NaN logits stay NaN.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.objectives.logprobs import at_least_float32, kl, paired_logprobs

Divergence = Callable[..., Tensor]
"""(student_logits, teacher_logits, *, its own parameters) -> nats per position."""


def forward_kl(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) per position, in nats. Mode-covering: the student pays for each teacher token it misses.

    Has the gradient of cross-entropy against the teacher, but is zero at the teacher. Infinite where the student bans a
    token that the teacher allows.

    Source: Hinton et al., 2015, arXiv:1503.02531, section 2.
    """
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    return kl(teacher_logprobs, student_logprobs)


def reverse_kl(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """KL(student || teacher) per position, in nats. Mode-seeking: the student may ignore rare teacher modes.

    Infinite where the teacher bans a token that the student allows.

    Source: Gu et al., 2024, arXiv:2306.08543, section 2.
    """
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    return kl(student_logprobs, teacher_logprobs)


def jsd(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    beta: float = 0.5,
) -> Float[Tensor, "*batch"]:
    """beta KL(p || m) + (1 - beta) KL(q || m) per position, in nats, where m = beta p + (1 - beta) q. At most log 2.

    beta is the teacher's weight. Near 0 it behaves as beta times forward KL, near 1 as (1 - beta) times reverse KL, so
    its scale shrinks towards both ends: compare a sweep over beta at equal gradient norm, not at equal weight.

    Raises: ValueError unless 0 < beta < 1.
    Source: Agarwal et al., 2024, arXiv:2306.13649, equation 1.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"jsd needs 0 < beta < 1, but beta is {beta}. jsd itself is zero at both ends; "
            "use forward_kl for the limit of jsd / beta at 0, reverse_kl for that of jsd / (1 - beta) at 1."
        )
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    mixture_logprobs = _mixture(teacher_logprobs, student_logprobs, teacher_weight=beta)
    return beta * kl(teacher_logprobs, mixture_logprobs) + (1 - beta) * kl(student_logprobs, mixture_logprobs)


def skewed_forward_kl(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    alpha: float = 0.1,
) -> Float[Tensor, "*batch"]:
    """KL(p || alpha p + (1 - alpha) q) per position, in nats. Forward KL that never exceeds -log alpha.

    A little teacher in the mixture bounds the gradient where the student has almost no mass. alpha = 0 is forward KL.

    Raises: ValueError unless 0 <= alpha < 1.
    Source: Ko et al., 2024, arXiv:2402.03898, section 3.
    """
    _check_skew("skewed_forward_kl", alpha)
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    return kl(teacher_logprobs, _mixture(teacher_logprobs, student_logprobs, teacher_weight=alpha))


def skewed_reverse_kl(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    alpha: float = 0.1,
) -> Float[Tensor, "*batch"]:
    """KL(q || (1 - alpha) p + alpha q) per position, in nats. Reverse KL that never exceeds -log alpha.

    Finite even where the teacher bans what the student says. The gradient flows through the student's share of the
    mixture too: this is the gradient of the value shown. alpha = 0 is reverse KL.

    Raises: ValueError unless 0 <= alpha < 1.
    Source: Ko et al., 2024, arXiv:2402.03898, section 3.
    """
    _check_skew("skewed_reverse_kl", alpha)
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    return kl(student_logprobs, _mixture(teacher_logprobs, student_logprobs, teacher_weight=1 - alpha))


def total_variation(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Half the L1 distance of the two distributions per position: a share of mass in [0, 1], not nats.

    One minus it is the chance that speculative decoding accepts a token. Its gradient does not fade near the teacher,
    so it wants a falling learning rate, and T^2 makes its gradient grow with T instead of keeping it constant.

    Source: Wen et al., 2023, arXiv:2307.15190, section 2.
    """
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    return (teacher_logprobs.exp() - student_logprobs.exp()).abs().sum(-1) / 2


def alpha_beta(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> Float[Tensor, "*batch"]:
    """Alpha-beta divergence per position: forward KL at (1, 0), reverse KL at (0, 1), Hellinger between them.

    -sum(p^alpha q^beta - alpha/(alpha + beta) p^(alpha + beta) - beta/(alpha + beta) q^(alpha + beta)) / (alpha beta),
    and its continuous limits where a denominator vanishes: (0, 0) is half the squared distance of the logprobs.
    A smaller alpha looks harder at large errors, a larger beta at what the student is sure of. Where alpha + beta is
    below 1, rare tokens count more than their mass; above 1, less. A negative parameter is legal and may overflow.

    Raises: ValueError unless alpha and beta are finite.
    Source: Wang et al., 2025, arXiv:2505.04560; limits: Cichocki et al., 2011, doi:10.3390/e13010134.
    """
    if not (math.isfinite(alpha) and math.isfinite(beta)):
        raise ValueError(f"alpha_beta needs finite numbers, but alpha is {alpha} and beta {beta}. Try 0.5 and 0.5.")
    # Nearer to zero than this is zero to rounding, and a smaller divisor would underflow in float32.
    alpha, beta, total = (0.0 if abs(power) < 1e-20 else power for power in (alpha, beta, alpha + beta))
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    teacher_bans, student_bans = teacher_logprobs == -torch.inf, student_logprobs == -torch.inf
    either_bans = teacher_bans | student_bans

    terms = _alpha_beta_terms(
        teacher_logprobs.masked_fill(either_bans, 0.0), student_logprobs.masked_fill(either_bans, 0.0), alpha, total
    )
    terms = torch.where(teacher_bans, _alpha_beta_alone(student_logprobs, alpha, total), terms)
    terms = torch.where(student_bans, _alpha_beta_alone(teacher_logprobs, beta, total), terms)
    return terms.masked_fill(teacher_bans & student_bans, 0.0).sum(-1)


def check_temperature(temperature: float) -> None:
    """Raises: ValueError unless the temperature is positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"A temperature must be positive and finite, but it is {temperature}. Use 1 to leave logits as they are."
        )


def tempered(objective: Divergence, temperature: float) -> Divergence:
    """The same objective of the distributions softened by a temperature T, times T^2; itself at T = 1.

    Of objectives on logits, this is the one place where T^2 is multiplied. Soft gradients shrink as 1 / T^2, so T^2 keeps the
    balance with a hard-label term when T changes. As T grows, T^2 KL(teacher || student) tends to half of
    `centred_logit_mse`. What is read beside the two logits, such as target ids, passes through.

    Raises: ValueError unless the temperature is positive and finite.
    Source: Hinton et al., 2015, arXiv:1503.02531, section 2.
    """
    check_temperature(temperature)
    if temperature == 1:
        return objective

    def softened(
        student_logits: Float[Tensor, "*batch vocab"],
        teacher_logits: Float[Tensor, "*batch vocab"],
        **others: Tensor | float,
    ) -> Float[Tensor, "*batch"]:
        student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
        return temperature**2 * objective(student / temperature, teacher / temperature, **others)

    return softened


def _mixture(
    teacher_logprobs: Float[Tensor, "*batch vocab"],
    student_logprobs: Float[Tensor, "*batch vocab"],
    *,
    teacher_weight: float,
) -> Float[Tensor, "*batch vocab"]:
    """log(w p + (1 - w) q) for 0 <= w <= 1, never leaving log space."""
    teacher_share = teacher_logprobs + (math.log(teacher_weight) if teacher_weight > 0 else -math.inf)
    student_share = student_logprobs + (math.log1p(-teacher_weight) if teacher_weight < 1 else -math.inf)
    # logaddexp(-inf, -inf) is right, but its gradient is NaN: both shares are moved away first.
    empty = (teacher_share == -torch.inf) & (student_share == -torch.inf)
    mixture = torch.logaddexp(teacher_share.masked_fill(empty, 0.0), student_share.masked_fill(empty, 0.0))
    return mixture.masked_fill(empty, -torch.inf)


def _check_skew(name: str, alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(
            f"{name} needs 0 <= alpha < 1, but alpha is {alpha}. At 1 it compares a distribution with itself; "
            "0.1 is the usual choice."
        )


def _alpha_beta_terms(
    teacher_logprobs: Float[Tensor, "*batch vocab"],
    student_logprobs: Float[Tensor, "*batch vocab"],
    alpha: float,
    total: float,
) -> Float[Tensor, "*batch vocab"]:
    """The alpha-beta summand of tokens that both sides allow.

    It is the second divided difference, over x = 0, alpha, total, of x -> p^x q^(total - x): convex, so never negative,
    and every limit of the divergence is two of the three points meeting. Measured from the end where that power is
    largest, all exponents are negative and nothing overflows that is not itself too large.
    """
    low, middle, high = sorted((0.0, alpha, total))
    log_ratio = teacher_logprobs - student_logprobs
    teacher_leads = log_ratio >= 0
    at_low = low * teacher_logprobs + (total - low) * student_logprobs
    at_high = high * teacher_logprobs + (total - high) * student_logprobs
    from_high = _decay_bend(log_ratio.abs(), near=high - middle, far=middle - low)
    from_low = _decay_bend(log_ratio.abs(), near=middle - low, far=high - middle)
    return torch.where(teacher_leads, at_high, at_low).exp() * torch.where(teacher_leads, from_high, from_low)


def _decay_bend(rate: Float[Tensor, "*axes"], *, near: float, far: float) -> Float[Tensor, "*axes"]:
    """Second divided difference of t -> exp(-rate t) over t = 0, near, near + far; rate^2 / 2 where they meet."""
    reach = near + far
    if reach == 0:
        return rate.square() / 2
    # A difference of slopes cancels as reach * rate shrinks; up to 0.05, six terms of the series are good to 1e-11.
    close = reach * rate < 0.05
    small = (reach * rate).masked_fill(~close, 0.0)
    series = torch.zeros_like(rate)
    for order in reversed(range(6)):
        symmetric = sum((near / reach) ** power for power in range(order + 1))
        series = symmetric / math.factorial(order + 2) - small * series
    slopes = (-near * rate).exp() * _decay_slope(rate, far) - _decay_slope(rate, near)
    return torch.where(close, rate.square() * series, slopes / reach)


def _decay_slope(rate: Float[Tensor, "*axes"], step: float) -> Float[Tensor, "*axes"]:
    """(exp(-rate step) - 1) / step, and its limit at step 0."""
    return torch.expm1(-step * rate) / step if step else -rate


def _alpha_beta_alone(
    logprobs: Float[Tensor, "*batch vocab"], power: float, total: float
) -> Float[Tensor, "*batch vocab"]:
    """The alpha-beta summand of a token that only these log-probabilities allow; `power` is the other side's."""
    if power <= 0 or total <= 0:
        return torch.full_like(logprobs, torch.inf)
    return (total * logprobs).exp() / (power * total)
