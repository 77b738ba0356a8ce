"""The gradients: closed forms, finite differences, and what temperature does to them."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import (
    centred_logit_mse,
    forward_kl,
    next_token,
    tempered,
    total_variation,
)

from .cases import ALPHA_BETAS, DIVERGENCES, HELD, SMOOTH, WHOLE, every, gradient, random_logits


def jsd_slope(beta, p, q):
    return (1 - beta) * (q / (beta * p + (1 - beta) * q)).log()


def skewed_forward_slope(alpha, p, q):
    return -(1 - alpha) * p / (alpha * p + (1 - alpha) * q)


def skewed_reverse_slope(alpha, p, q):
    mixture = (1 - alpha) * p + alpha * q
    return (q / mixture).log() - alpha * q / mixture


def alpha_beta_slope(alpha, beta, p, q):
    if alpha == 0:
        return q ** (beta - 1) * (q / p).log()
    return (q ** (alpha + beta - 1) - p**alpha * q ** (beta - 1)) / alpha


def taid_slope(t, p, q):
    target = p**t * q ** (1 - t)
    return -target / target.sum(-1, keepdim=True) / q


def adaptive_slope(p, q):
    """Token by token, as the paper tells it."""
    slopes = torch.zeros_like(p)
    for position, (teacher, student) in enumerate(zip(p.tolist(), q.tolist(), strict=True)):
        head, mass = set(), 0.0
        for token in sorted(range(len(teacher)), key=lambda token: -teacher[token]):
            if mass >= 0.5:
                break
            head.add(token)
            mass += teacher[token]
        gaps = [abs(theirs - ours) for theirs, ours in zip(teacher, student, strict=True)]
        share = sum(gaps[token] for token in head) / sum(gaps)
        forward, reverse = -p[position] / q[position], (q[position] / p[position]).log() + 1
        slopes[position] = share * forward + (1 - share) * reverse
    return slopes


# Derivative of the divergence by each student probability, worked out by hand.
SLOPES = {
    "forward_kl": lambda p, q: -p / q,
    "reverse_kl": lambda p, q: (q / p).log() + 1,
    "jsd_0.1": partial(jsd_slope, 0.1),
    "jsd_0.5": partial(jsd_slope, 0.5),
    "jsd_0.9": partial(jsd_slope, 0.9),
    "skewed_forward_kl_0": partial(skewed_forward_slope, 0),
    "skewed_forward_kl_0.3": partial(skewed_forward_slope, 0.3),
    "skewed_reverse_kl_0": partial(skewed_reverse_slope, 0),
    "skewed_reverse_kl_0.3": partial(skewed_reverse_slope, 0.3),
    "total_variation": lambda p, q: torch.sign(q - p) / 2,
    "taid_0.4": partial(taid_slope, 0.4),
    "taid_1": partial(taid_slope, 1),
    "adaptive_kl": adaptive_slope,
} | {f"alpha_beta_{alpha}_{beta}": partial(alpha_beta_slope, alpha, beta) for alpha, beta in ALPHA_BETAS}


@pytest.mark.parametrize("name", list(DIVERGENCES))
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_gradient_is_the_closed_form(name, seed):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    p, q = teacher.softmax(-1), student.softmax(-1)
    slope = SLOPES[name](p, q)
    closed_form = q * (slope - (q * slope).sum(-1, keepdim=True))
    assert_close(gradient(DIVERGENCES[name], student, teacher), closed_form)


@every(WHOLE)
def test_gradient_agrees_with_finite_differences_for_student_and_teacher(divergence):
    student, teacher = random_logits(0, 2, 4).requires_grad_(), random_logits(1, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(divergence, (student, teacher))


@every(SMOOTH | HELD)
def test_gradient_vanishes_at_the_teacher(divergence):
    teacher = random_logits(0, 3, 7)
    assert_close(gradient(divergence, teacher.clone(), teacher), torch.zeros_like(teacher), atol=1e-14, rtol=0)


def test_forward_kl_has_the_gradient_of_cross_entropy_against_the_teacher():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    soft_targets = teacher.softmax(-1)
    cross_entropy = gradient(
        lambda student, _: torch.nn.functional.cross_entropy(student, soft_targets, reduction="none"), student, teacher
    )
    assert_close(gradient(forward_kl, student, teacher), cross_entropy)


def test_next_token_has_the_gradient_of_softmax_minus_one_hot():
    student, targets = random_logits(0, 4, 7), torch.tensor([0, 6, 3, 3])
    one_hot = torch.nn.functional.one_hot(targets, 7)
    assert_close(gradient(next_token, student, targets), student.softmax(-1) - one_hot)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_gradient_of_tempered_forward_kl_is_the_temperature_times_the_difference_of_probs(temperature):
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    difference = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    assert_close(gradient(tempered(forward_kl, temperature), student, teacher), temperature * difference)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 7.0])
@every(DIVERGENCES)
def test_tempered_divergence_is_that_of_the_softened_logits_times_the_temperature_squared(divergence, temperature):
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    softened = divergence(student / temperature, teacher / temperature)
    assert_close(tempered(divergence, temperature)(student, teacher), temperature**2 * softened)


def test_tempered_passes_the_parameters_of_its_divergence_on():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    fixed_before = tempered(DIVERGENCES["jsd_0.1"], 3.0)(student, teacher)
    assert_close(tempered(DIVERGENCES["jsd_0.5"].func, 3.0)(student, teacher, beta=0.1), fixed_before)


@every(DIVERGENCES)
def test_tempered_by_one_is_the_very_same_function(divergence):
    assert tempered(divergence, 1.0) is divergence
    assert tempered(divergence, 1) is divergence


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match=f"positive and finite, but it is {temperature}"):
        tempered(forward_kl, temperature)


def test_tempered_forward_kl_tends_to_half_the_mean_square_of_centred_logit_differences():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    difference = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    hot = tempered(forward_kl, 1e5)  # what is left is of order logit / T = 1e-4, and rounding of order 1e-16 T
    assert_close(hot(student, teacher), centred_logit_mse(student, teacher) / 2, rtol=2e-4, atol=0)
    assert_close(hot(student, teacher), difference.square().mean(-1) / 2, rtol=2e-4, atol=0)
    assert_close(gradient(hot, student, teacher), difference / 7, rtol=2e-4, atol=2e-5)


@every(SMOOTH | HELD)
def test_gradient_norm_hardly_depends_on_a_high_temperature(divergence):
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    warm, hot = (gradient(tempered(divergence, temperature), student, teacher) for temperature in (50, 5000))
    # Without T^2 the ratio would be 1e4, with a single T 1e2; what is left is of order logit / T.
    assert_close(warm.norm(dim=-1) / hot.norm(dim=-1), torch.ones(3, dtype=torch.float64), rtol=0.1, atol=0)


def test_gradient_norm_of_tempered_total_variation_grows_with_the_temperature():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    warm, hot = (gradient(tempered(total_variation, temperature), student, teacher) for temperature in (50, 5000))
    assert_close(hot.norm(dim=-1) / warm.norm(dim=-1), torch.full((3,), 100.0, dtype=torch.float64), rtol=0.1, atol=0)


def test_a_cold_teacher_is_a_hard_label():
    student, teacher = random_logits(0, 4, 7), random_logits(1, 4, 7)
    cold = teacher / 1e-4
    assert_close(forward_kl(student, cold), next_token(student, teacher.argmax(-1)))
    assert_close(gradient(forward_kl, student, cold), gradient(next_token, student, teacher.argmax(-1)))
