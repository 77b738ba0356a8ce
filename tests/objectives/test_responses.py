"""Logits as they are, decoupled distillation, a moving target, and the two KLs in turns: values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from stillhouse.objectives import (
    adaptive_kl,
    centred_logit_mse,
    cross_entropy,
    decoupled_kd,
    forward_kl,
    logit_mse,
    reverse_kl,
    squared_error,
    taid,
    tempered,
)

from .cases import gradient, random_logits

SEEDS = st.integers(0, 2**31)
BANNED = -torch.inf
TARGETS = torch.tensor([0, 6, 3])


def case(seed=0, *shape):
    shape = shape or (3, 7)
    return random_logits(seed, *shape), random_logits(seed + 1, *shape)


# Logits as they are


def test_logit_mse_is_the_mean_squared_difference():
    student, teacher = case()
    assert_close(logit_mse(student, teacher), F.mse_loss(student, teacher, reduction="none").mean(-1))
    assert_close(gradient(logit_mse, student, teacher), 2 * (student - teacher) / 7)


def test_centred_logit_mse_is_the_variance_of_the_difference():
    student, teacher = case()
    assert_close(centred_logit_mse(student, teacher), (student - teacher).var(-1, correction=0))
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    assert_close(gradient(centred_logit_mse, student, teacher), 2 * centred / 7)


@given(seed=SEEDS, shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_only_the_uncentred_sees_a_constant(seed, shift):
    student, teacher = case(seed)
    assert_close(centred_logit_mse(student + shift, teacher), centred_logit_mse(student, teacher))
    lifted = centred_logit_mse(student, teacher) + (student - teacher).mean(-1).square()
    assert_close(logit_mse(student, teacher), lifted)


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
def test_logits_that_both_sides_ban_are_not_in_the_vocabulary(objective):
    student, teacher = case()
    banned = torch.full((3, 7), BANNED, dtype=torch.float64)
    wide = [torch.cat([logits, banned], -1) for logits in (student, teacher)]
    assert_close(objective(*wide), objective(student, teacher))
    assert_close(gradient(objective, *wide)[:, :7], gradient(objective, student, teacher))
    assert (gradient(objective, *wide)[:, 7:] == 0).all()


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
@pytest.mark.parametrize("side", [0, 1])
def test_a_logit_that_one_side_bans_is_infinitely_far_and_its_gradient_is_finite(objective, side):
    logits = case()
    logits[side][1, 2] = BANNED
    assert objective(*logits).isinf().tolist() == [False, True, False]
    assert gradient(objective, *logits).isfinite().all()


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
def test_a_position_where_all_is_banned_counts_nothing(objective):
    student, teacher = case()
    student[1], teacher[1] = BANNED, BANNED
    assert objective(student, teacher)[1] == 0
    assert (gradient(objective, student, teacher)[1] == 0).all()


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
def test_nan_logits_stay_nan_in_a_mean_square(objective):
    student, teacher = case()
    student[0, 2], teacher[1, 3] = math.nan, math.nan
    assert objective(student, teacher).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
def test_a_mean_square_agrees_with_finite_differences(objective):
    student, teacher = case(0, 2, 4)
    assert torch.autograd.gradcheck(objective, (student.requires_grad_(), teacher.requires_grad_()))


@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse, decoupled_kd])
def test_logits_of_different_shapes_are_refused(objective):
    with pytest.raises((ValueError, TypeCheckError)):
        objective(random_logits(0, 3, 1), random_logits(1, 3, 5), *([TARGETS] if objective is decoupled_kd else []))


@pytest.mark.parametrize("temperature", [0.5, 2.0, 7.0])
@pytest.mark.parametrize("objective", [logit_mse, centred_logit_mse])
def test_the_square_of_a_temperature_cancels_it_in_a_mean_square(objective, temperature):
    student, teacher = case()
    assert_close(tempered(objective, temperature)(student, teacher), objective(student, teacher))


# Decoupled


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_forward_kl_is_its_target_part_and_its_other_part_times_the_mass_of_the_others(seed):
    student, teacher = case(seed)
    target_part = decoupled_kd(student, teacher, TARGETS, alpha=1, beta=0)
    other_part = decoupled_kd(student, teacher, TARGETS, alpha=0, beta=1)
    others = 1 - teacher.softmax(-1).gather(-1, TARGETS[:, None]).squeeze(-1)
    assert_close(target_part + others * other_part, forward_kl(student, teacher))
    assert_close(decoupled_kd(student, teacher, TARGETS), target_part + 8 * other_part)


def test_decoupled_kd_is_its_definition_in_probabilities():
    student, teacher = case()
    for row, target in enumerate(TARGETS.tolist()):
        p, q = teacher[row].softmax(-1), student[row].softmax(-1)
        keep = torch.arange(7) != target
        binary = sum(a * (a / b).log() for a, b in ((p[target], q[target]), (1 - p[target], 1 - q[target])))
        p_rest, q_rest = p[keep] / p[keep].sum(), q[keep] / q[keep].sum()
        expected = 2 * binary + 3 * (p_rest * (p_rest / q_rest).log()).sum()
        found = decoupled_kd(student[row], teacher[row], torch.tensor(target), alpha=2, beta=3)
        assert_close(found, expected)


def test_the_ranking_of_the_others_is_heard_however_sure_the_teacher_is():
    student, teacher = case()
    sure = teacher.scatter_add(-1, TARGETS[:, None], torch.full((3, 1), 60.0, dtype=torch.float64))
    others = decoupled_kd(student, teacher, TARGETS, alpha=0, beta=1)
    assert_close(decoupled_kd(student, sure, TARGETS, alpha=0, beta=1), others)
    assert (others > 0.1).all()


def test_decoupled_kd_of_two_classes_has_only_its_target_part():
    student, teacher = case(0, 3, 2)
    targets = torch.tensor([0, 1, 1])
    assert_close(decoupled_kd(student, teacher, targets, alpha=1, beta=5), forward_kl(student, teacher))


def test_decoupled_kd_agrees_with_finite_differences():
    student, teacher = case(0, 2, 4)
    targets = torch.tensor([3, 1])
    assert torch.autograd.gradcheck(
        lambda s, t: decoupled_kd(s, t, targets, alpha=1.5, beta=2.5),
        (student.requires_grad_(), teacher.requires_grad_()),
    )


def test_decoupled_kd_vanishes_only_at_the_teacher():
    student, teacher = case()
    assert_close(decoupled_kd(teacher, teacher, TARGETS), torch.zeros(3, dtype=torch.float64))
    assert (decoupled_kd(student, teacher, TARGETS) > 1e-3).all()


@pytest.mark.parametrize("student_bans", [(), (1,), (0,), (1, 2, 3, 4, 5, 6), range(7)], ids=str)
@pytest.mark.parametrize("teacher_bans", [(), (1,), (0,), (1, 2, 3, 4, 5, 6), range(7)], ids=str)
def test_no_pattern_of_banned_classes_makes_decoupled_kd_nan(student_bans, teacher_bans):
    student, teacher = case()
    student[:, list(student_bans)], teacher[:, list(teacher_bans)] = BANNED, BANNED
    targets = torch.zeros(3, dtype=torch.long)
    assert not decoupled_kd(student, teacher, targets).isnan().any()
    assert gradient(lambda s, t: decoupled_kd(s, t, targets), student, teacher).isfinite().all()


def test_a_part_without_weight_is_left_out_even_where_it_is_infinite():
    student, teacher = case()
    student[:, 1] = BANNED  # which is no target
    without = decoupled_kd(student, teacher, TARGETS, beta=0)
    assert decoupled_kd(student, teacher, TARGETS).isinf().all()
    assert without.isfinite().all()
    almost = student.masked_fill(student == BANNED, -700.0)
    assert_close(without, decoupled_kd(almost, teacher, TARGETS, beta=0))


def test_a_class_that_both_sides_ban_is_no_class():
    student, teacher = case()
    banned = torch.full((3, 2), BANNED, dtype=torch.float64)
    wide = decoupled_kd(torch.cat([student, banned], -1), torch.cat([teacher, banned], -1), TARGETS)
    assert_close(wide, decoupled_kd(student, teacher, TARGETS))


@pytest.mark.parametrize("temperature", [2.0, 5.0])
def test_decoupled_kd_is_softened_as_any_other(temperature):
    student, teacher = case()
    softened = decoupled_kd(student / temperature, teacher / temperature, TARGETS)
    found = tempered(decoupled_kd, temperature)(student, teacher, target_ids=TARGETS)
    assert_close(found, temperature**2 * softened)


def test_gradient_norm_of_decoupled_kd_hardly_depends_on_a_high_temperature():
    student, teacher = case()
    warm, hot = (
        gradient(lambda s, t, T=T: tempered(decoupled_kd, T)(s, t, target_ids=TARGETS), student, teacher)
        for T in (50, 5000)
    )
    assert_close(warm.norm(dim=-1) / hot.norm(dim=-1), torch.ones(3, dtype=torch.float64), rtol=0.1, atol=0)


# A moving target


def test_taid_at_one_is_forward_kl():
    student, teacher = case()
    assert_close(taid(student, teacher, t=1), forward_kl(student, teacher))
    assert_close(gradient(lambda s, t: taid(s, t, t=1), student, teacher), gradient(forward_kl, student, teacher))


def test_taid_at_zero_asks_nothing():
    student, teacher = case()
    student[0, 1], teacher[1, 2] = BANNED, BANNED
    assert_close(taid(student, teacher, t=0), torch.zeros(3, dtype=torch.float64))
    grad = gradient(lambda s, t: taid(s, t, t=0), student, teacher)
    assert_close(grad, torch.zeros(3, 7, dtype=torch.float64), rtol=0, atol=1e-15)


@given(seed=SEEDS, t=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_taid_has_the_gradient_of_the_student_less_its_target_in_between(seed, t):
    student, teacher = case(seed)
    target = ((1 - t) * student + t * teacher).softmax(-1)  # between logits, not between probabilities
    assert_close(gradient(lambda s, z: taid(s, z, t=t), student, teacher), student.softmax(-1) - target)


def test_taid_never_falls_as_its_target_moves_to_the_teacher():
    student, teacher = case()
    values = torch.stack([taid(student, teacher, t=step / 20) for step in range(21)])
    assert (values.diff(dim=0) > 0).all()


# The two KLs in turns


def test_adaptive_kl_is_the_mean_of_the_two_kls_where_head_and_tail_lag_alike():
    # Head (0.6): one token, 0.2 short. Tail (0.3, 0.1): 0.1 and 0.1 too much.
    teacher = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.4, 0.4, 0.2]], dtype=torch.float64).log()
    half = (forward_kl(student, teacher) + reverse_kl(student, teacher)) / 2
    assert_close(adaptive_kl(student, teacher), half)


def test_adaptive_kl_is_forward_kl_where_only_the_head_lags():
    teacher = torch.tensor([[0.4, 0.35, 0.15, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.35, 0.4, 0.15, 0.1]], dtype=torch.float64).log()
    assert_close(adaptive_kl(student, teacher, mu=0.7), forward_kl(student, teacher))


def test_the_head_is_as_few_tokens_as_hold_its_mass():
    teacher = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    student = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64).log()
    assert_close(adaptive_kl(student, teacher, mu=0.4), reverse_kl(student, teacher))
    half = (forward_kl(student, teacher) + reverse_kl(student, teacher)) / 2
    assert_close(adaptive_kl(student, teacher, mu=0.6), half)


# Answers in the data


def test_squared_error_is_that_of_the_one_number():
    estimates, values = random_logits(0, 4, 1), random_logits(1, 4)
    assert_close(squared_error(estimates, values), (estimates[:, 0] - values) ** 2)
    assert torch.autograd.gradcheck(squared_error, (estimates.requires_grad_(), values))


def test_a_teacher_of_one_number_is_compared_in_the_same_unit():
    estimates, theirs = random_logits(0, 4, 1), random_logits(1, 4, 1)
    assert_close(logit_mse(estimates, theirs), squared_error(estimates, theirs[:, 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_answers_lose_nothing_more(dtype):
    student, teacher = random_logits(0, 4, 50).to(dtype), random_logits(1, 4, 50).to(dtype)
    targets = torch.tensor([0, 49, 3, 7])
    calls = {
        logit_mse: (student, teacher),
        centred_logit_mse: (student, teacher),
        decoupled_kd: (student, teacher, targets),
        cross_entropy: (student, targets),
        squared_error: (student[:, :1], teacher[:, 0]),
    }
    for objective, signals in calls.items():
        found = objective(*signals)
        assert found.dtype == torch.float32
        exact = objective(*(signal.double() if signal.is_floating_point() else signal for signal in signals))
        assert_close(found.double(), exact, rtol=1e-5, atol=0)
