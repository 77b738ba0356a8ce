"""Precision, large logits, banned tokens and empty positions."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from stillhouse.objectives import alpha_beta, forward_kl, next_token, tempered, to_logprobs

from .cases import BOUNDED, DIVERGENCES, SMOOTH, every, gradient, random_logits

BANNED = -torch.inf
INFINITE_IF_STUDENT_BANS = {
    "forward_kl",
    "skewed_forward_kl_0",
    "alpha_beta_1_0",
    "alpha_beta_0.4_0",
    "alpha_beta_0_0",
    "alpha_beta_0.5_-0.5",
    "alpha_beta_0.6_-0.3",
    "taid_1",
    "adaptive_kl",
}
INFINITE_IF_TEACHER_BANS = {
    "reverse_kl",
    "skewed_reverse_kl_0",
    "alpha_beta_0_1",
    "alpha_beta_0_0.6",
    "alpha_beta_0_0",
    "alpha_beta_0.5_-0.5",
    "alpha_beta_-0.3_0.6",
    "adaptive_kl",
}


def logits_where(*, student_bans=(), teacher_bans=()):
    student, teacher = random_logits(0, 3, 6), random_logits(1, 3, 6)
    student[..., list(student_bans)] = BANNED
    teacher[..., list(teacher_bans)] = BANNED
    return student, teacher


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@every(DIVERGENCES)
def test_low_precision_logits_lose_nothing_more(divergence, temperature, dtype):
    student, teacher = random_logits(0, 4, 300).to(dtype), random_logits(1, 4, 300).to(dtype)
    values = tempered(divergence, temperature)(student, teacher)
    in_float64 = tempered(divergence, temperature)(student.double(), teacher.double())
    assert values.dtype == torch.float32
    # Arithmetic in float32, not in the 1e-2 (bfloat16) or 1e-3 (float16) of the logits.
    assert_close(values.double(), in_float64, rtol=1e-5, atol=0)


def test_a_low_precision_softmax_would_fail_the_test_above():
    student, teacher = random_logits(0, 4, 300).bfloat16(), random_logits(1, 4, 300).bfloat16()
    naive = (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
    relative_error = naive.double() / forward_kl(student.double(), teacher.double()) - 1
    assert relative_error.abs().max() > 1e-3


@every(DIVERGENCES)
def test_float64_stays_float64(divergence):
    assert divergence(random_logits(0, 2, 3), random_logits(1, 2, 3)).dtype == torch.float64


@every(BOUNDED | {"alpha_beta_near_0": partial(alpha_beta, alpha=1e-10, beta=1e-10)})
@pytest.mark.parametrize("size", [1e4, 1e10])
def test_huge_logits_are_finite_in_float32_and_right(divergence, size):
    signs = random_logits(0, 2, 8, 9).sign()
    student, teacher = size * signs[0].float(), size * signs[1].float()
    values, grad = divergence(student, teacher), gradient(divergence, student, teacher)
    assert values.isfinite().all()
    assert_close(values.double(), divergence(student.double(), teacher.double()), rtol=1e-6, atol=1e-6)
    # A gradient is a difference of terms as large as the value itself, and rounds as they do.
    rounding = 1e-6 * max(1.0, values.max().item())
    assert_close(grad.double(), gradient(divergence, student.double(), teacher.double()), rtol=1e-6, atol=rounding)


@every(DIVERGENCES)
def test_a_large_offset_changes_nothing_in_float32(divergence):
    # Sixteenths are exact in float32 beside 1e4, so the shifted logits carry the same information.
    student, teacher = (random_logits(seed, 4, 9).mul(16).round().div(16).float() for seed in (0, 1))
    shifted = divergence(student + 1e4, teacher - 1e4)
    assert_close(shifted, divergence(student, teacher), rtol=1e-5, atol=1e-6)


@every(DIVERGENCES)
def test_a_token_banned_on_both_sides_is_not_in_the_vocabulary(divergence):
    student, teacher = logits_where(student_bans=[1, 4], teacher_bans=[1, 4])
    kept = torch.tensor([0, 2, 3, 5])
    grad = gradient(divergence, student, teacher)
    assert_close(divergence(student, teacher), divergence(student[:, kept], teacher[:, kept]))
    assert_close(grad[:, kept], gradient(divergence, student[:, kept], teacher[:, kept]))
    assert (grad[:, [1, 4]] == 0).all()


@pytest.mark.parametrize("name", list(DIVERGENCES))
@pytest.mark.parametrize(
    ("side", "infinite"), [("student", INFINITE_IF_STUDENT_BANS), ("teacher", INFINITE_IF_TEACHER_BANS)]
)
def test_a_token_banned_on_one_side_is_the_limit_of_an_unlikely_one(name, side, infinite):
    student, teacher = logits_where(**{f"{side}_bans": [2]})
    values = DIVERGENCES[name](student, teacher)
    if name in infinite:
        assert (values == torch.inf).all()
    else:
        # exp(-700) is still a float64, and its power 0.3 is far below rounding.
        almost = [logits.masked_fill(logits == BANNED, -700.0) for logits in (student, teacher)]
        assert_close(values, DIVERGENCES[name](*almost))


@every(DIVERGENCES)
@pytest.mark.parametrize(
    "bans",
    [
        {"student_bans": [2]},
        {"teacher_bans": [2]},
        {"student_bans": [2], "teacher_bans": [4]},
        {"student_bans": [1, 2], "teacher_bans": [2, 4]},
        {"student_bans": [0, 1, 2], "teacher_bans": [3, 4, 5]},
        {"student_bans": range(6)},
        {"teacher_bans": range(6)},
        {"student_bans": range(6), "teacher_bans": range(6)},
    ],
    ids=str,
)
def test_no_pattern_of_banned_tokens_gives_nan(divergence, bans):
    student, teacher = logits_where(**bans)
    assert not divergence(student, teacher).isnan().any()
    assert gradient(divergence, student, teacher).isfinite().all()
    assert gradient(tempered(divergence, 2.0), student, teacher).isfinite().all()


@every(DIVERGENCES)
def test_a_finite_value_beside_a_banned_token_has_the_gradient_of_an_unlikely_one(divergence):
    for bans in ({"student_bans": [2]}, {"teacher_bans": [2]}):
        student, teacher = logits_where(**bans)
        if divergence(student, teacher).isfinite().all():
            almost = [logits.masked_fill(logits == BANNED, -700.0) for logits in (student, teacher)]
            assert_close(gradient(divergence, student, teacher), gradient(divergence, *almost))


@every(DIVERGENCES)
def test_a_position_that_is_selected_away_leaves_no_trace_in_the_gradient(divergence):
    student, teacher = logits_where()
    clean = gradient(lambda s, t: divergence(s, t)[1:], student, teacher)
    student[0, 2], teacher[0, 4] = BANNED, BANNED
    kept = torch.tensor([False, True, True])
    selected = gradient(lambda s, t: torch.where(kept, divergence(s, t), 0.0), student, teacher)
    assert (selected[0] == 0).all()
    assert_close(selected, clean)


@every(DIVERGENCES)
def test_a_position_without_any_token_has_no_divergence_and_no_gradient(divergence):
    student, teacher = logits_where()
    clean_values, clean_gradient = divergence(student, teacher), gradient(divergence, student, teacher)
    student[0], teacher[0] = BANNED, BANNED
    assert divergence(student, teacher)[0] == 0
    assert (gradient(divergence, student, teacher)[0] == 0).all()
    assert_close(divergence(student, teacher)[1:], clean_values[1:])
    assert_close(gradient(divergence, student, teacher)[1:], clean_gradient[1:])


@every(DIVERGENCES)
def test_nan_logits_stay_nan(divergence):
    student, teacher = logits_where()
    student[0, 2] = math.nan
    teacher[1, 3] = math.nan
    assert divergence(student, teacher).isnan().tolist() == [True, True, False]


@every(SMOOTH)
def test_a_teacher_that_wants_no_gradient_gets_none(divergence):
    student, teacher = logits_where()
    divergence(student.requires_grad_(), teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_logprobs_sum_to_one_over_the_vocabulary():
    logprobs = to_logprobs(random_logits(0, 2, 3, 5))
    assert_close(logprobs.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_a_banned_target_costs_infinity_and_its_gradient_is_finite():
    student = random_logits(0, 2, 5)
    student[0, 3] = BANNED
    targets = torch.tensor([3, 3])
    assert next_token(student, targets).isinf().tolist() == [True, False]
    assert gradient(next_token, student, targets).isfinite().all()
