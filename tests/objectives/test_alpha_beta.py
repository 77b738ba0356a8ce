"""The alpha-beta divergence: against its textbook formula, and through every one of its limits."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import alpha_beta, forward_kl, reverse_kl

from .cases import ALPHA_BETAS, gradient, random_logits

STEP = 1e-4
POWERS = st.floats(-1, 2).filter(lambda power: abs(power) > 0.01)


def textbook(student, teacher, alpha, beta):
    """The formula as printed, in probability space, where no denominator vanishes."""
    p, q, total = teacher.softmax(-1), student.softmax(-1), alpha + beta
    terms = p**alpha * q**beta - alpha / total * p**total - beta / total * q**total
    return -terms.sum(-1) / (alpha * beta)


def textbook_limit(student, teacher, alpha, beta):
    """The formula as printed for each vanishing denominator."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    if alpha == beta == 0:
        terms = (log_p - log_q) ** 2 / 2
    elif beta == 0:
        u, v = alpha * log_p, alpha * log_q
        terms = (u.exp() * (u - v) - u.exp() + v.exp()) / alpha**2
    elif alpha == 0:
        u, v = beta * log_q, beta * log_p
        terms = (u.exp() * (u - v) - u.exp() + v.exp()) / beta**2
    else:
        assert alpha == -beta
        log_ratio = alpha * (log_p - log_q)
        terms = (log_ratio.exp() - log_ratio - 1) / alpha**2
    return terms.sum(-1)


@given(seed=st.integers(0, 2**31), alpha=POWERS, beta=POWERS)
@settings(max_examples=100, deadline=None)
def test_alpha_beta_is_its_textbook_formula(seed, alpha, beta):
    if abs(alpha + beta) < 0.01:
        beta = beta + 0.02
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    # The textbook form cancels: with all three denominators at 0.01 it has lost six of its sixteen digits.
    assert_close(
        alpha_beta(student, teacher, alpha=alpha, beta=beta),
        textbook(student, teacher, alpha, beta),
        rtol=1e-7,
        atol=1e-7,
    )


LIMITS = [(1, 0), (0.4, 0), (-0.5, 0), (0, 1), (0, 0.6), (0, -0.5), (0, 0), (0.5, -0.5), (-0.7, 0.7)]


@pytest.mark.parametrize(("alpha", "beta"), LIMITS)
def test_alpha_beta_at_a_limit_is_the_textbook_limit(alpha, beta):
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    assert_close(alpha_beta(student, teacher, alpha=alpha, beta=beta), textbook_limit(student, teacher, alpha, beta))


@pytest.mark.parametrize(("alpha", "beta"), LIMITS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alpha_beta_passes_smoothly_through_its_limits(alpha, beta, dtype):
    student, teacher = random_logits(0, 3, 7, scale=1.0, dtype=dtype), random_logits(1, 3, 7, scale=1.0, dtype=dtype)
    at_limit = alpha_beta(student, teacher, alpha=alpha, beta=beta)
    before = alpha_beta(student, teacher, alpha=alpha - STEP, beta=beta - STEP / 3)
    after = alpha_beta(student, teacher, alpha=alpha + STEP, beta=beta + STEP / 3)
    assert_close(before, at_limit, rtol=20 * STEP, atol=0)  # first order: a slope of up to 20 per unit of alpha
    # Second order: the slope cancels. float32 sums seven terms that are each good to 1e-6.
    tolerance = 1e-6 if dtype == torch.float64 else 5e-6
    assert_close((before + after) / 2, at_limit, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tiny", [5e-324, -5e-324, 1e-40])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0, 1), (0, 0)])
def test_a_parameter_too_small_to_divide_by_is_zero(alpha, beta, tiny, dtype):
    student, teacher = random_logits(0, 3, 7, dtype=dtype), random_logits(1, 3, 7, dtype=dtype)
    student[0, 2], teacher[1, 3] = -torch.inf, -torch.inf
    almost = partial(alpha_beta, alpha=alpha or tiny, beta=beta or tiny)
    limit = partial(alpha_beta, alpha=alpha, beta=beta)
    assert_close(almost(student, teacher), limit(student, teacher))
    assert_close(gradient(almost, student, teacher), gradient(limit, student, teacher))


def test_alpha_beta_has_the_kls_on_its_axes():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    assert_close(alpha_beta(student, teacher, alpha=1, beta=0), forward_kl(student, teacher))
    assert_close(alpha_beta(student, teacher, alpha=0, beta=1), reverse_kl(student, teacher))
    assert_close(
        gradient(lambda s, t: alpha_beta(s, t, alpha=1, beta=0), student, teacher),
        gradient(forward_kl, student, teacher),
    )


def test_alpha_beta_at_one_half_is_squared_hellinger():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    hellinger = 2 * (teacher.softmax(-1).sqrt() - student.softmax(-1).sqrt()).square().sum(-1)
    assert_close(alpha_beta(student, teacher, alpha=0.5, beta=0.5), hellinger)


@given(seed=st.integers(0, 2**31), alpha=st.floats(-1, 2), beta=st.floats(-1, 2))
@settings(max_examples=50, deadline=None)
def test_swapping_teacher_and_student_swaps_alpha_and_beta(seed, alpha, beta):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    swapped = alpha_beta(teacher, student, alpha=beta, beta=alpha)
    assert_close(alpha_beta(student, teacher, alpha=alpha, beta=beta), swapped)


@given(seed=st.integers(0, 2**31), alpha=st.floats(-1, 2), beta=st.floats(-1, 2), distance=st.floats(1e-6, 10))
@settings(max_examples=100, deadline=None)
def test_alpha_beta_is_never_negative(seed, alpha, beta, distance):
    teacher = random_logits(seed, 3, 7)
    student = teacher + distance * random_logits(seed + 1, 3, 7)
    assert (alpha_beta(student, teacher, alpha=alpha, beta=beta) >= 0).all()


NEAR_LIMITS = [(1e-4, 1e-4), (1, 1e-6), (1e-6, 1), (1e-9, 0.3), (1e-30, 1), (1e-30, 1e-30)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("alpha", "beta"), [pair for pair in ALPHA_BETAS + NEAR_LIMITS if min(pair) >= 0])
def test_alpha_beta_in_float32_equals_float64(alpha, beta, scale):
    teacher = random_logits(0, 3, 50, dtype=torch.float32)
    student = teacher + random_logits(1, 3, 50, scale=scale, dtype=torch.float32)
    in_float64 = alpha_beta(student.double(), teacher.double(), alpha=alpha, beta=beta)
    # float32 log-probabilities differ from the exact ones by 1e-7 of their size, and the value is of second order in
    # the distance between the two: the relative error is 1e-7 / scale where the scale is below one.
    rtol = 1e-5 / min(scale, 1)
    assert_close(alpha_beta(student, teacher, alpha=alpha, beta=beta).double(), in_float64, rtol=rtol, atol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(math.nan, 0.5), (0.5, math.inf)])
def test_alpha_beta_of_no_finite_number_is_refused(alpha, beta):
    logits = random_logits(0, 2, 3)
    with pytest.raises(ValueError, match=f"alpha is {alpha} and beta {beta}"):
        alpha_beta(logits, logits, alpha=alpha, beta=beta)
