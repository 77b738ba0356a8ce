"""What the tests of objectives share: every divergence at several parameters, and seeded logits and states."""

from functools import partial

import pytest
import torch

from stillhouse.objectives import (
    adaptive_kl,
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    taid,
    total_variation,
)

KL_LIKE = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd_0.1": partial(jsd, beta=0.1),
    "jsd_0.5": partial(jsd, beta=0.5),
    "jsd_0.9": partial(jsd, beta=0.9),
    "skewed_forward_kl_0": partial(skewed_forward_kl, alpha=0),
    "skewed_forward_kl_0.3": partial(skewed_forward_kl, alpha=0.3),
    "skewed_reverse_kl_0": partial(skewed_reverse_kl, alpha=0),
    "skewed_reverse_kl_0.3": partial(skewed_reverse_kl, alpha=0.3),
}
# Generic points, both axes, the origin, the diagonal where alpha + beta = 0, and one negative parameter on each side.
ALPHA_BETAS = [
    (0.5, 0.5),
    (0.2, 0.7),
    (1.2, 0.3),
    (1, 0),
    (0, 1),
    (0.4, 0),
    (0, 0.6),
    (0, 0),
    (0.5, -0.5),
    (-0.3, 0.6),
    (0.6, -0.3),
]
SMOOTH = KL_LIKE | {
    f"alpha_beta_{alpha}_{beta}": partial(alpha_beta, alpha=alpha, beta=beta) for alpha, beta in ALPHA_BETAS
}
# Their gradient is that of their value.
WHOLE = SMOOTH | {"total_variation": total_variation}
# A part of their value is held fixed, and is no part of the gradient.
HELD = {"taid_0.4": partial(taid, t=0.4), "taid_1": partial(taid, t=1), "adaptive_kl": adaptive_kl}
DIVERGENCES = WHOLE | HELD

# A negative alpha or beta raises a ratio of probabilities to a power, which overflows by right at extreme logits; of
# tokens that are equally likely, the head of adaptive_kl takes one and leaves another, by rounding.
BOUNDED = {name: divergence for name, divergence in DIVERGENCES.items() if "-" not in name and name != "adaptive_kl"}


def every(divergences):
    """Parametrise a test by these divergences, named in its id."""
    return pytest.mark.parametrize("divergence", list(divergences.values()), ids=list(divergences))


def random_logits(seed, *shape, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(divergence, student_logits, teacher_logits):
    """Gradient of the sum over positions with respect to the student's logits."""
    student_logits = student_logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(divergence(student_logits, teacher_logits).sum(), student_logits)
    return grad


def random_rotation(seed, width, dtype=torch.float64):
    """An orthogonal matrix, [width, width]."""
    return torch.linalg.qr(random_logits(seed, width, width, dtype=dtype)).Q
