"""Objectives on pairs of answers: what they are at the start, where they end, and that only margins count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torch.testing import assert_close

from stillhouse.objectives import PREFERENCES, AnswerPairs, dpo, objective, reward_kl, reward_mse

SEEDS = st.integers(0, 2**31)
NAMES = list(PREFERENCES)


def make_pairs(seed, *, pairs=5, rewards="teacher"):
    random = torch.Generator().manual_seed(seed)
    drawn = [-10 * torch.rand(pairs, 2, generator=random, dtype=torch.float64) for _ in range(4)]
    ratios = drawn[2] if rewards == "teacher" else None
    return AnswerPairs(drawn[0].requires_grad_(), drawn[1], ratios, drawn[3])


def slope(found, pairs):
    return torch.autograd.grad(found.sum(), pairs.student_logprobs)[0]


@given(seed=SEEDS)
def test_dpo_is_log_2_where_the_student_is_its_reference(seed):
    pairs = make_pairs(seed)
    same = AnswerPairs(pairs.reference_logprobs, pairs.reference_logprobs)
    assert_close(dpo(same), torch.full((5,), math.log(2), dtype=torch.float64))
    assert_close(dpo(same, label_smoothing=0.2), torch.full((5,), math.log(2), dtype=torch.float64))


@given(seed=SEEDS)
def test_dpo_makes_the_chosen_answer_likelier_and_the_other_less_likely_by_as_much(seed):
    pairs = make_pairs(seed)
    found = slope(dpo(pairs), pairs)
    assert (found[:, 0] < 0).all()
    assert_close(found.sum(-1), torch.zeros(5, dtype=torch.float64))


@given(seed=SEEDS, beta=st.floats(0.05, 2), smoothing=st.floats(0, 0.4))
def test_dpo_is_the_formula_of_its_paper_with_a_share_of_mistaken_choices(seed, beta, smoothing):
    pairs = make_pairs(seed)
    ratios = pairs.student_logprobs - pairs.reference_logprobs
    inside = beta * (ratios[:, 0] - ratios[:, 1])
    wanted = binary_cross_entropy_with_logits(inside, torch.full_like(inside, 1 - smoothing), reduction="none")
    assert_close(dpo(pairs, beta=beta, label_smoothing=smoothing), wanted)
    if smoothing == 0:
        assert_close(dpo(pairs, beta=beta), -logsigmoid(inside))


@pytest.mark.parametrize("name", NAMES)
@given(seed=SEEDS, shift=st.floats(-50, 50))
def test_what_both_answers_to_a_prompt_earn_does_not_count(name, seed, shift):
    """Whoever earns it: student, reference, teacher, or scores."""
    pairs, value = make_pairs(seed), objective(name).bind()
    more = AnswerPairs(
        pairs.student_logprobs + shift,
        pairs.reference_logprobs - 2 * shift,
        pairs.teacher_ratios + shift / 2,
        pairs.scores + 3 * shift,
    )
    assert_close(value(more), value(pairs), rtol=1e-9, atol=1e-9)
    by_scores = [AnswerPairs(one.student_logprobs, one.reference_logprobs, None, one.scores) for one in (more, pairs)]
    assert_close(*(value(one) for one in by_scores), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("distance", [reward_mse, reward_kl])
@given(seed=SEEDS, beta=st.floats(0.05, 2))
def test_reward_distillation_ends_at_the_teacher_and_only_there(distance, seed, beta):
    pairs = make_pairs(seed)
    there = (pairs.reference_logprobs + pairs.teacher_ratios + 3.0).requires_grad_()
    at_teacher = AnswerPairs(there, pairs.reference_logprobs, pairs.teacher_ratios)
    found = distance(at_teacher, beta=beta)
    assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)
    assert_close(slope(found, at_teacher), torch.zeros(5, 2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (distance(pairs, beta=beta) > 0).all()


@given(seed=SEEDS, beta=st.floats(0.05, 2))
def test_reward_kl_is_the_cross_entropy_of_the_odds_less_the_teachers_entropy(seed, beta):
    pairs = make_pairs(seed)
    ours, theirs = beta * pairs.margins, beta * (pairs.teacher_ratios[:, 0] - pairs.teacher_ratios[:, 1])
    wanted = binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="none")
    entropy = binary_cross_entropy_with_logits(theirs, theirs.sigmoid(), reduction="none")
    assert_close(reward_kl(pairs, beta=beta), wanted - entropy, rtol=1e-7, atol=1e-12)
    assert_close(slope(reward_kl(pairs, beta=beta), pairs), slope(wanted, pairs))


@given(seed=SEEDS)
def test_scores_tell_where_no_teacher_does(seed):
    told, scored = make_pairs(seed), make_pairs(seed, rewards="scores")
    by_hand = (0.1 * scored.margins - 2 * (scored.scores[:, 0] - scored.scores[:, 1])).square()
    assert_close(reward_mse(scored, score_scale=2.0), by_hand)
    assert not torch.allclose(reward_mse(told, score_scale=2.0), by_hand)


def test_a_sure_teacher_pulls_less_by_odds_than_by_distance():
    sure = AnswerPairs(torch.zeros(1, 2).requires_grad_(), torch.zeros(1, 2), None, torch.tensor([[30.0, 0.0]]))
    assert slope(reward_kl(sure), sure).abs().max() < slope(reward_mse(sure), sure).abs().max() / 10
    assert reward_kl(sure).isfinite().all()


@pytest.mark.parametrize(
    ("name", "parameters", "word"),
    [
        ("dpo", {"beta": 0.0}, "beta must be positive"),
        ("dpo", {"label_smoothing": 0.5}, "below 0.5"),
        ("reward_mse", {"beta": -1.0}, "beta must be positive"),
        ("reward_kl", {"score_scale": 0.0}, "score_scale must be positive"),
        ("dpo", {"temperature": 2.0}, "no temperature softens"),
        ("dpo", {"gamma": 2.0}, "no parameter 'gamma'"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_what_to_do(name, parameters, word):
    with pytest.raises(ValueError, match=word):
        objective(name).bind(**parameters)
