"""The values: what each divergence is, and how they are related."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from stillhouse.objectives import (
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    total_variation,
)

from .cases import DIVERGENCES, every, random_logits

SEEDS = st.integers(0, 2**31)
NEGATIVE_INFINITY = -torch.inf


@every(DIVERGENCES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_divergence_vanishes_only_at_the_teacher(divergence, seed):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    assert_close(divergence(teacher, teacher), torch.zeros(3, dtype=torch.float64), atol=1e-15, rtol=0)
    assert (divergence(student, teacher) > 1e-6).all()


@every(DIVERGENCES)
def test_divergence_of_a_slightly_different_student_is_positive(divergence):
    teacher = random_logits(0, 5, 7)
    assert (divergence(teacher + 1e-4 * random_logits(1, 5, 7), teacher) > 0).all()


@every(DIVERGENCES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, student_shift=st.floats(-50, 50), teacher_shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(divergence, seed, student_shift, teacher_shift):
    student, teacher = random_logits(seed, 2, 5), random_logits(seed + 1, 2, 5)
    assert_close(divergence(student + student_shift, teacher + teacher_shift), divergence(student, teacher))


@every(DIVERGENCES)
def test_divergence_keeps_the_batch_axes_and_consumes_the_vocabulary(divergence):
    student, teacher = random_logits(0, 2, 3, 5), random_logits(1, 2, 3, 5)
    values = divergence(student, teacher)
    assert values.shape == (2, 3)
    one_by_one = [[divergence(student[i, j], teacher[i, j]) for j in range(3)] for i in range(2)]
    assert_close(values, torch.tensor(one_by_one, dtype=torch.float64))


@every(DIVERGENCES)
def test_permuting_positions_permutes_the_output(divergence):
    student, teacher = random_logits(0, 2, 5, 7), random_logits(1, 2, 5, 7)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(divergence(student[:, order], teacher[:, order]), divergence(student, teacher)[:, order])


@every(DIVERGENCES)
def test_renaming_tokens_changes_nothing(divergence):
    student, teacher = random_logits(0, 3, 5), random_logits(1, 3, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(divergence(student[:, order], teacher[:, order]), divergence(student, teacher))


@every(DIVERGENCES)
def test_doubling_the_vocabulary_with_banned_tokens_changes_nothing(divergence):
    student, teacher = random_logits(0, 3, 5), random_logits(1, 3, 5)
    banned = torch.full((3, 5), NEGATIVE_INFINITY, dtype=torch.float64)
    doubled = divergence(torch.cat([student, banned], -1), torch.cat([teacher, banned], -1))
    assert_close(doubled, divergence(student, teacher))


@every(DIVERGENCES)
def test_logits_of_different_shapes_are_refused_rather_than_broadcast(divergence):
    # With shape checks installed jaxtyping speaks first.
    with pytest.raises((ValueError, TypeCheckError)) as refusal:
        divergence(random_logits(0, 3, 1), random_logits(1, 3, 5))
    if refusal.type is ValueError:
        assert "teacher's logits are [3, 5]" in str(refusal.value)
        assert "student's [3, 1]" in str(refusal.value)


def test_cross_entropy_exceeds_forward_kl_by_the_entropy_of_the_teacher():
    student, teacher = random_logits(0, 4, 7), random_logits(1, 4, 7)
    cross_entropy = F.cross_entropy(student, teacher.softmax(-1), reduction="none")
    entropy = torch.distributions.Categorical(logits=teacher).entropy()
    assert_close(cross_entropy - forward_kl(student, teacher), entropy)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_jsd_tends_to_the_two_kls_at_its_ends(seed):
    student, teacher = random_logits(seed, 3, 7, scale=1.0), random_logits(seed + 1, 3, 7, scale=1.0)
    # The next order is beta times the squared ratio of probabilities, here below 1e4.
    assert_close(jsd(student, teacher, beta=1e-8) / 1e-8, forward_kl(student, teacher), rtol=1e-4, atol=1e-6)
    assert_close(jsd(student, teacher, beta=1 - 1e-8) / 1e-8, reverse_kl(student, teacher), rtol=1e-4, atol=1e-6)


@given(seed=SEEDS, beta=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_swapping_teacher_and_student_swaps_their_weights_in_jsd(seed, beta):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    assert_close(jsd(student, teacher, beta=beta), jsd(teacher, student, beta=1 - beta))
    assert_close(jsd(student, teacher), jsd(teacher, student))


@given(seed=SEEDS, beta=st.floats(0.01, 0.99), scale=st.floats(0.1, 100))
@settings(max_examples=50, deadline=None)
def test_jsd_is_at_most_the_entropy_of_its_weights(seed, beta, scale):
    student, teacher = random_logits(seed, 3, 7, scale=scale), random_logits(seed + 1, 3, 7, scale=scale)
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert bound <= math.log(2)
    assert (jsd(student, teacher, beta=beta) <= bound + 1e-12).all()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_reaches_its_bound_where_teacher_and_student_share_no_token(beta):
    student, teacher = disjoint_logits()
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert_close(jsd(student, teacher, beta=beta), torch.tensor(bound, dtype=torch.float64))


def test_beta_of_jsd_is_the_weight_of_the_teacher():
    # Teacher (1, 0), student (1/2, 1/2), mixture ((1 + beta)/2, (1 - beta)/2), worked out by hand.
    teacher = torch.tensor([0.0, NEGATIVE_INFINITY], dtype=torch.float64)
    student = torch.zeros(2, dtype=torch.float64)
    for beta, by_hand in [(0.1, 0.0643064), (0.9, 0.1292005)]:
        value = jsd(student, teacher, beta=beta).item()
        closed_form = -beta * math.log((1 + beta) / 2) - (1 - beta) / 2 * math.log((1 + beta) * (1 - beta))
        assert value == pytest.approx(closed_form, rel=1e-12)
        assert value == pytest.approx(by_hand, abs=1e-7)


@given(seed=SEEDS, beta=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_jsd_is_a_weighted_sum_of_the_two_skewed_kls(seed, beta):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    skewed_forward = skewed_forward_kl(student, teacher, alpha=beta)
    skewed_reverse = skewed_reverse_kl(student, teacher, alpha=1 - beta)
    assert_close(jsd(student, teacher, beta=beta), beta * skewed_forward + (1 - beta) * skewed_reverse)


def test_skew_zero_is_the_plain_kl():
    student, teacher = random_logits(0, 3, 7), random_logits(1, 3, 7)
    assert_close(skewed_forward_kl(student, teacher, alpha=0), forward_kl(student, teacher))
    assert_close(skewed_reverse_kl(student, teacher, alpha=0), reverse_kl(student, teacher))


@pytest.mark.parametrize("skewed", [skewed_forward_kl, skewed_reverse_kl])
@given(seed=SEEDS, alpha=st.floats(0.01, 0.99), scale=st.floats(0.1, 100))
@settings(max_examples=30, deadline=None)
def test_skewed_kl_is_at_most_minus_log_alpha(skewed, seed, alpha, scale):
    student, teacher = random_logits(seed, 3, 7, scale=scale), random_logits(seed + 1, 3, 7, scale=scale)
    assert (skewed(student, teacher, alpha=alpha) <= -math.log(alpha) + 1e-12).all()


@pytest.mark.parametrize("skewed", [skewed_forward_kl, skewed_reverse_kl])
def test_skewed_kl_reaches_its_bound_where_teacher_and_student_share_no_token(skewed):
    student, teacher = disjoint_logits()
    assert_close(skewed(student, teacher, alpha=0.2), torch.tensor(-math.log(0.2), dtype=torch.float64))


def test_total_variation_is_the_mass_that_the_two_do_not_share():
    student, teacher = random_logits(0, 4, 7), random_logits(1, 4, 7)
    shared = torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1)
    assert_close(total_variation(student, teacher), 1 - shared)
    assert_close(total_variation(*disjoint_logits()), torch.tensor(1.0, dtype=torch.float64))


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_total_variation_obeys_pinsker(seed):
    student, teacher = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 7)
    smaller_kl = torch.minimum(forward_kl(student, teacher), reverse_kl(student, teacher))
    assert (total_variation(student, teacher) <= (smaller_kl / 2).sqrt()).all()


@pytest.mark.parametrize("beta", [0, 1, -0.1, 1.1, math.nan, math.inf])
def test_jsd_outside_the_open_interval_is_refused_with_the_mend(beta):
    logits = random_logits(0, 2, 3)
    with pytest.raises(ValueError, match=rf"beta is {beta}.*use forward_kl .* reverse_kl"):
        jsd(logits, logits, beta=beta)


@pytest.mark.parametrize("skewed", [skewed_forward_kl, skewed_reverse_kl])
@pytest.mark.parametrize("alpha", [1, -0.1, 1.1, math.nan])
def test_a_skew_outside_its_interval_is_refused_by_the_name_of_the_objective(skewed, alpha):
    logits = random_logits(0, 2, 3)
    with pytest.raises(ValueError, match=rf"{skewed.__name__} needs 0 <= alpha < 1, but alpha is {alpha}"):
        skewed(logits, logits, alpha=alpha)


def disjoint_logits():
    """A student and a teacher that allow different tokens."""
    some, others = random_logits(0, 3), random_logits(1, 2)
    student = torch.cat([some, torch.full((2,), NEGATIVE_INFINITY, dtype=torch.float64)])
    teacher = torch.cat([torch.full((3,), NEGATIVE_INFINITY, dtype=torch.float64), others])
    return student, teacher
