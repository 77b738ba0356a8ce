"""States, attention and the shape of a document, compared: laws, closed forms and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import (
    attention_kl,
    attention_mse,
    flow_mse,
    forward_kl,
    gram_mse,
    hidden_cosine,
    hidden_mse,
    linear_cka,
    linear_cka_similarity,
    normalized_mse,
)

from .cases import random_logits, random_rotation

SEEDS = st.integers(0, 2**31)
STATE_OBJECTIVES = [hidden_mse, hidden_cosine, normalized_mse]
DOCUMENT_OBJECTIVES = [gram_mse, linear_cka]
ATTENTION_OBJECTIVES = [attention_mse, attention_kl]
BANNED = -torch.inf


def self_flow(student, teacher):
    """Flow with each side's lower layer half its upper one."""
    return flow_mse(student / 2, student, teacher / 2, teacher)


def states(seed, *shape, **options):
    return random_logits(seed, *shape, scale=1.0, **options)


def scores(seed, *, lengths=(5, 3), heads=2, keys=5, causal=False, dtype=torch.float64):
    """Attention scores of padded rows, [batch, heads, keys, keys], and which positions are real, [batch, keys]."""
    real = torch.arange(keys) < torch.tensor(lengths)[:, None]
    allowed = real[:, :, None] & real[:, None, :]
    if causal:
        allowed = allowed & torch.ones(keys, keys, dtype=torch.bool).tril()
    values = random_logits(seed, len(lengths), heads, keys, keys, dtype=dtype)
    return values.masked_fill(~allowed[:, None], BANNED), real


# What all have in common


@pytest.mark.parametrize("objective", [*STATE_OBJECTIVES, *DOCUMENT_OBJECTIVES, self_flow])
def test_it_vanishes_at_the_teacher_and_not_elsewhere(objective):
    student, teacher = states(0, 4, 6, 5), states(1, 4, 6, 5)
    values = objective(teacher, teacher)
    assert_close(values, torch.zeros_like(values), atol=0, rtol=0)
    assert (objective(student, teacher) > 1e-3).all()


@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_vanishes_at_the_teacher_and_not_elsewhere(objective, causal):
    (student, real), (teacher, _) = scores(0, causal=causal), scores(1, causal=causal)
    values = objective(teacher, teacher)
    assert_close(values, torch.zeros_like(values), atol=1e-15, rtol=0)
    # A causal first token has one key: there is no other distribution over it.
    judged = real.clone()
    judged[:, 0] &= not (causal and objective is attention_kl)
    assert (objective(student, teacher)[judged] > 1e-6).all()


@pytest.mark.parametrize("objective", [*STATE_OBJECTIVES, *DOCUMENT_OBJECTIVES, self_flow])
def test_gradient_of_features_agrees_with_finite_differences(objective):
    student, teacher = states(0, 2, 4, 3).requires_grad_(), states(1, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(objective, (student, teacher))


@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_gradient_of_attention_agrees_with_finite_differences_where_keys_are_allowed(objective):
    (student, _), (teacher, _) = scores(0, lengths=(3, 2), keys=3), scores(1, lengths=(3, 2), keys=3)
    allowed = student.isfinite()

    def at_allowed(student_values, teacher_values):
        sides = [
            torch.full_like(student, BANNED).masked_scatter(allowed, side) for side in (student_values, teacher_values)
        ]
        return objective(*sides)

    inputs = (student[allowed].requires_grad_(), teacher[allowed].requires_grad_())
    assert torch.autograd.gradcheck(at_allowed, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", [*STATE_OBJECTIVES, *DOCUMENT_OBJECTIVES, self_flow])
def test_low_precision_states_lose_nothing_more(objective, dtype):
    student, teacher = states(0, 3, 20, 16).to(dtype), states(1, 3, 20, 16).to(dtype)
    values = objective(student, teacher)
    assert values.dtype == torch.float32
    assert_close(values.double(), objective(student.double(), teacher.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_low_precision_scores_lose_nothing_more(objective, dtype):
    (student, _), (teacher, _) = scores(0, lengths=(20, 9), keys=20), scores(1, lengths=(20, 9), keys=20)
    student, teacher = student.to(dtype), teacher.to(dtype)
    values = objective(student, teacher)
    assert values.dtype == torch.float32
    assert_close(values.double(), objective(student.double(), teacher.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("objective", [*STATE_OBJECTIVES, self_flow])
def test_different_widths_are_refused_and_the_mend_named(objective):
    with pytest.raises(ValueError, match=r"the teacher's states are 5 wide and the student's 3\. Let a projection"):
        objective(states(0, 2, 4, 3), states(1, 2, 4, 5))


@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_different_numbers_of_heads_are_refused_and_the_mend_named(objective):
    (student, _), (teacher, _) = scores(0, heads=4), scores(1, heads=12)
    with pytest.raises(ValueError, match=r"the teacher has 12 heads and the student 4\. Use multi_head_relation_kl"):
        objective(student, teacher)


# States


def test_hidden_mse_is_the_mean_square_of_each_token():
    student, teacher = states(0, 2, 3, 5), states(1, 2, 3, 5)
    assert_close(hidden_mse(student, teacher), F.mse_loss(student, teacher, reduction="none").mean(-1))


def test_hidden_cosine_is_one_less_the_cosine_and_half_of_normalized_mse():
    student, teacher = states(0, 2, 3, 5), states(1, 2, 3, 5)
    assert_close(hidden_cosine(student, teacher), 1 - F.cosine_similarity(student, teacher, dim=-1))
    assert_close(normalized_mse(student, teacher), 2 * hidden_cosine(student, teacher))
    assert_close(hidden_cosine(-teacher, teacher), torch.full((2, 3), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("objective", [hidden_cosine, normalized_mse])
@given(seed=SEEDS, ours=st.floats(1e-3, 1e3), theirs=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_length_is_nothing_to_a_direction(objective, seed, ours, theirs):
    student, teacher = states(seed, 3, 5), states(seed + 1, 3, 5)
    assert_close(objective(ours * student, theirs * teacher), objective(student, teacher))


@pytest.mark.parametrize("objective", [hidden_cosine, normalized_mse])
def test_a_state_of_zeros_has_a_finite_value_and_gradient(objective):
    student, teacher = torch.zeros(2, 5, requires_grad=True), states(0, 2, 5, dtype=torch.float32)
    objective(student, teacher).sum().backward()
    assert objective(student, teacher).isfinite().all()
    assert student.grad.norm() < 10


@pytest.mark.parametrize("objective", STATE_OBJECTIVES)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_turning_both_sides_alike_changes_nothing(objective, seed):
    student, teacher, rotation = states(seed, 4, 5), states(seed + 1, 4, 5), random_rotation(seed + 2, 5)
    assert_close(objective(student @ rotation, teacher @ rotation), objective(student, teacher))


def test_a_projection_is_recovered_in_closed_form_by_least_squares():
    student, truth = states(0, 40, 3), states(1, 3, 5)
    teacher = student @ truth + 0.1 * states(2, 40, 5)
    best = torch.linalg.lstsq(student, teacher).solution.requires_grad_()
    (slope,) = torch.autograd.grad(hidden_mse(student @ best, teacher).sum(), best)
    assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)

    learnt = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([learnt], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

    def step():
        optimizer.zero_grad()
        loss = hidden_mse(student @ learnt, teacher).mean()
        loss.backward()
        return loss

    optimizer.step(step)
    assert_close(learnt, best, atol=1e-6, rtol=0)
    assert_close(learnt, truth, atol=0.1, rtol=0)


# Attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_attention_is_what_a_loop_over_heads_and_allowed_keys_finds(objective, causal):
    (student, real), (teacher, _) = scores(0, causal=causal), scores(1, causal=causal)
    for row, query in real.nonzero().tolist():
        found = []
        for head in range(student.shape[1]):
            ours, theirs = student[row, head, query], teacher[row, head, query]
            keys = ours.isfinite()
            if objective is attention_mse:
                found.append((ours[keys] - theirs[keys]).square().mean())
            else:
                found.append(forward_kl(ours[keys], theirs[keys]))
        assert_close(objective(student, teacher)[row, query], torch.stack(found).mean())


@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_padding_changes_nothing_and_gets_no_gradient(objective):
    (student, _), (teacher, _) = scores(0, lengths=(3, 3), keys=3), scores(1, lengths=(3, 3), keys=3)
    padded = [F.pad(side, (0, 2, 0, 2), value=BANNED) for side in (student, teacher)]
    padded[0].requires_grad_()
    values = objective(*padded)
    assert_close(values[:, :3], objective(student, teacher))
    assert (values[:, 3:] == 0).all()
    values.sum().backward()
    assert (padded[0].grad[..., 3:] == 0).all()
    assert (padded[0].grad[:, :, 3:] == 0).all()
    assert padded[0].grad.isfinite().all()


@pytest.mark.parametrize("side", [0, 1])
def test_attention_mse_counts_only_keys_that_both_sides_allow(side):
    sides = [scores(seed, lengths=(5,), heads=1)[0] for seed in (0, 1)]
    expected = attention_mse(*(values[..., 1:] for values in sides))
    sides[side][..., 0] = BANNED
    assert_close(attention_mse(*sides), expected)


def test_attention_kl_is_infinite_where_the_student_may_not_look_and_the_teacher_does():
    (student, _), (teacher, _) = scores(0, lengths=(5,), heads=1), scores(1, lengths=(5,), heads=1)
    student[0, 0, 2, 0] = BANNED
    assert attention_kl(student, teacher).isinf().tolist() == [[False, False, True, False, False]]


@given(seed=SEEDS, shift=st.floats(-20, 20))
@settings(max_examples=10, deadline=None)
def test_attention_kl_does_not_see_what_a_softmax_does_not(seed, shift):
    (student, _), (teacher, _) = scores(seed), scores(seed + 1)
    assert_close(attention_kl(student + shift, teacher), attention_kl(student, teacher))


@pytest.mark.parametrize("objective", ATTENTION_OBJECTIVES)
def test_nan_scores_stay_nan(objective):
    (student, _), (teacher, _) = scores(0, lengths=(5,)), scores(1, lengths=(5,))
    student[0, 0, 1, 2], teacher[0, 1, 3, 0] = math.nan, math.nan
    assert objective(student, teacher).isnan().tolist() == [[False, True, False, True, False]]


# The shape of a document


def test_gram_mse_is_what_a_loop_over_pairs_of_tokens_finds():
    student, teacher = states(0, 4, 3), states(1, 4, 5)
    pairs = [(student[i] @ student[j] / 3 - teacher[i] @ teacher[j] / 5) ** 2 for i in range(4) for j in range(4)]
    assert_close(gram_mse(student, teacher), torch.stack(pairs).mean())


def test_flow_mse_is_what_a_loop_over_pairs_of_units_finds():
    lower, upper, teacher_lower, teacher_upper = (states(seed, 4, 3) for seed in range(4))
    pairs = [
        (lower[:, i] @ upper[:, j] / 4 - teacher_lower[:, i] @ teacher_upper[:, j] / 4) ** 2
        for i in range(3)
        for j in range(3)
    ]
    assert_close(flow_mse(lower, upper, teacher_lower, teacher_upper), torch.stack(pairs).mean())


@pytest.mark.parametrize("objective", DOCUMENT_OBJECTIVES)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_turning_one_side_changes_nothing_where_tokens_meet_tokens(objective, seed):
    student, teacher = states(seed, 2, 6, 4), states(seed + 1, 2, 6, 5)
    turned = objective(student @ random_rotation(seed + 2, 4), teacher @ random_rotation(seed + 3, 5))
    assert_close(turned, objective(student, teacher))


@pytest.mark.parametrize("objective", [*DOCUMENT_OBJECTIVES, self_flow])
def test_documents_together_are_documents_alone(objective):
    student, teacher = states(0, 3, 6, 4), states(1, 3, 6, 4)
    alone = torch.stack([objective(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)])
    assert_close(objective(student, teacher), alone)


@given(seed=SEEDS, scale=st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_linear_cka_does_not_see_rotation_scale_or_shift(seed, scale):
    student, teacher, shift = states(seed, 8, 4), states(seed + 1, 8, 5), states(seed + 2, 1, 4)
    moved = scale * student @ random_rotation(seed + 3, 4) + shift
    assert_close(linear_cka(moved, teacher), linear_cka(student, teacher))
    assert_close(linear_cka(moved, student), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(linear_cka_similarity(moved, teacher), linear_cka_similarity(student, teacher))
    assert_close(linear_cka_similarity(moved, student), torch.ones((), dtype=torch.float64))


@given(seed=SEEDS, tokens=st.integers(2, 12))
@settings(max_examples=20, deadline=None)
def test_the_objective_is_one_less_the_metric(seed, tokens):
    student, teacher = states(seed, tokens, 4), states(seed + 1, tokens, 5)
    similarity = linear_cka_similarity(student, teacher)
    assert 0 <= similarity <= 1 + 1e-12
    assert_close(linear_cka(student, teacher), 1 - similarity, atol=1e-12, rtol=0)


def test_linear_cka_of_one_direction_is_the_squared_correlation():
    ours, theirs = states(0, 30, 1), states(1, 30, 1)
    correlation = torch.corrcoef(torch.cat([ours, theirs], 1).T)[0, 1]
    assert_close(linear_cka_similarity(ours, theirs), correlation**2)


def test_unrelated_states_of_many_tokens_are_hardly_similar():
    assert linear_cka_similarity(states(0, 2000, 4), states(1, 2000, 5)) < 0.01


def test_a_document_of_one_token_has_no_shape_to_compare():
    student, teacher = states(0, 1, 4).requires_grad_(), states(1, 1, 5)
    linear_cka(student, teacher).backward()
    assert linear_cka(student, teacher) == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("objective", DOCUMENT_OBJECTIVES)
def test_the_order_of_tokens_is_nothing_to_a_document(objective):
    student, teacher, order = states(0, 6, 4), states(1, 6, 5), torch.tensor([3, 0, 5, 1, 2, 4])
    assert_close(objective(student[order], teacher[order]), objective(student, teacher))
