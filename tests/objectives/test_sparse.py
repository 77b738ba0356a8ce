"""A teacher known in part: the likeliest tokens with a bucket for the rest, and tokens drawn from it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.signals import SampledTokens, SparseLogprobs
from stillhouse.objectives import CATALOGUE, forward_kl, jsd, objective, reverse_kl, total_variation
from stillhouse.objectives.sparse import in_buckets, refusal, renormalised, sampled_forward_kl

from .cases import BOUNDED, WHOLE, every, random_logits

VOCAB = 6
BANNED = -torch.inf


def likeliest(logits, k, *, places=None):
    """The k likeliest tokens of each position, with unused places up to `places`."""
    logprobs = logits.log_softmax(-1)
    found, ids = logprobs.topk(k)
    tail = logprobs.scatter(-1, ids, BANNED).logsumexp(-1)
    unused = (places or k) - k
    return SparseLogprobs(
        ids=torch.nn.functional.pad(ids, (0, unused), value=int(logits[0].argmax())),
        logprobs=torch.nn.functional.pad(found, (0, unused), value=BANNED),
        tail=tail,
        vocab_size=logits.shape[-1],
    )


def over_buckets(divergence, student, teacher):
    return divergence(*in_buckets(student, teacher))


def with_gradient(function, student):
    leaf = student.clone().requires_grad_()
    values = function(leaf)
    (grad,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), grad


@every(WHOLE)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_the_whole_vocabulary_is_as_good_as_logits(divergence, seed):
    student, logits = random_logits(seed, 3, VOCAB), random_logits(seed + 1, 3, VOCAB)
    sparse = with_gradient(lambda leaf: over_buckets(divergence, leaf, likeliest(logits, VOCAB)), student)
    assert_close(sparse, with_gradient(lambda leaf: divergence(leaf, logits), student))


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jsd, total_variation])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=5, deadline=None)
def test_a_divergence_of_buckets_grows_with_their_number_to_that_of_all_tokens(divergence, seed):
    student, logits = random_logits(seed, 4, VOCAB), random_logits(seed + 1, 4, VOCAB)
    values = torch.stack([over_buckets(divergence, student, likeliest(logits, k)) for k in range(VOCAB + 1)])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert_close(values[0], torch.zeros(4, dtype=torch.float64))  # nothing but "any token": all agree
    assert_close(values[-1], divergence(student, logits))


@every(BOUNDED)
def test_the_gradient_reaches_what_is_not_listed_in_proportion_to_its_probability(divergence):
    student, teacher = random_logits(0, 3, VOCAB), likeliest(random_logits(1, 3, VOCAB), 2)
    _, grad = with_gradient(lambda leaf: over_buckets(divergence, leaf, teacher), student)
    buckets, said = in_buckets(student, teacher)
    _, at_buckets = with_gradient(lambda leaf: divergence(leaf, said), buckets)
    probs = student.softmax(-1)
    rest = probs.scatter(-1, teacher.ids, 0.0)
    expected = at_buckets[:, -1:] * rest / rest.sum(-1, keepdim=True)
    assert_close(grad, expected.scatter(-1, teacher.ids, at_buckets[:, :-1]))


@every(BOUNDED)
def test_an_unused_place_counts_nothing_whatever_its_id(divergence):
    student, logits = random_logits(0, 3, VOCAB), random_logits(1, 3, VOCAB)
    used = with_gradient(lambda leaf: over_buckets(divergence, leaf, likeliest(logits, 2)), student)
    padded = with_gradient(lambda leaf: over_buckets(divergence, leaf, likeliest(logits, 2, places=4)), student)
    assert_close(padded, used)


@every(BOUNDED)
@pytest.mark.parametrize("size", [1e4, 1e10])
def test_huge_logits_stay_finite_in_buckets(divergence, size):
    student, logits = (size * random_logits(seed, 4, VOCAB).sign().float() for seed in (0, 1))
    values, grad = with_gradient(lambda leaf: over_buckets(divergence, leaf, likeliest(logits, 2)), student)
    assert values.isfinite().all() and grad.isfinite().all()


def test_the_students_bucket_is_as_good_where_its_mass_is_far_below_rounding():
    student = torch.tensor([[90.0, 0.0, 1.0, 2.0]])
    teacher = SparseLogprobs(
        torch.tensor([[0]]), torch.tensor([[-0.5]]), torch.tensor([math.log1p(-math.exp(-0.5))]), 4
    )
    buckets, _ = in_buckets(student, teacher)
    # 1 - q would be 0 in float32, and its logarithm -inf.
    assert_close(buckets.log_softmax(-1)[0, 1], torch.logsumexp(student[0, 1:], 0) - 90)


@pytest.mark.parametrize("bans", [[0], [4], [0, 4], list(range(VOCAB))], ids=str)
@every(BOUNDED)
def test_banned_tokens_leave_no_nan_in_buckets(divergence, bans):
    student, logits = random_logits(0, 3, VOCAB), random_logits(1, 3, VOCAB)
    student[:, bans] = BANNED
    for k in (0, 2, VOCAB):
        values, grad = with_gradient(lambda leaf, k=k: over_buckets(divergence, leaf, likeliest(logits, k)), student)
        assert not values.isnan().any()
        assert grad.isfinite().all()


def test_renormalised_is_a_teacher_that_never_says_anything_else():
    student, logits = random_logits(0, 3, VOCAB), random_logits(1, 3, VOCAB)
    teacher = likeliest(logits, 2)
    surer = torch.full_like(logits, BANNED).scatter(-1, teacher.ids, teacher.logprobs)
    for divergence in (forward_kl, jsd, total_variation):
        found = with_gradient(lambda leaf, d=divergence: over_buckets(d, leaf, renormalised(teacher)), student)
        assert_close(found, with_gradient(lambda leaf, d=divergence: d(leaf, surer), student))
    assert over_buckets(reverse_kl, student, renormalised(teacher)).isinf().all()


def draws(probs, num_draws, proposal=None):
    """Every outcome of so many draws from one distribution, as one batch, and the chance of each."""
    proposal = probs if proposal is None else proposal
    ids = torch.tensor(list(itertools.product(range(len(probs)), repeat=num_draws)))
    entropy = -(probs * probs.log()).sum()
    weights = (probs / proposal)[ids] / num_draws
    return SampledTokens(ids, weights, entropy.expand(len(ids)), len(probs)), proposal[ids].prod(-1)


@given(seed=st.integers(0, 2**31), num_draws=st.integers(1, 4), tempered=st.booleans())
@settings(max_examples=15, deadline=None)
def test_over_all_draws_value_and_gradient_are_on_average_those_of_forward_kl(seed, num_draws, tempered):
    student, logits = random_logits(seed, 1, 4), random_logits(seed + 1, 1, 4)
    probs = logits.softmax(-1)[0]
    drawn, chances = draws(probs, num_draws, (logits / 2).softmax(-1)[0] if tempered else None)
    values, grad = with_gradient(lambda leaf: sampled_forward_kl(leaf, drawn), student.expand(len(chances), -1))
    expected, expected_grad = with_gradient(lambda leaf: forward_kl(leaf, logits), student)
    assert_close((chances * values).sum(), expected[0])
    assert_close(chances @ grad, expected_grad[0])


def test_a_draw_of_no_weight_counts_nothing_even_where_the_student_bans_it():
    student, drawn = (
        random_logits(0, 1, 4),
        SampledTokens(torch.tensor([[1, 3]]), torch.tensor([[1.0, 0.0]]), torch.ones(1), 4),
    )
    student[0, 3] = BANNED
    alone = replace(drawn, ids=drawn.ids[:, :1], weights=drawn.weights[:, :1])
    found = with_gradient(lambda leaf: sampled_forward_kl(leaf, drawn), student)
    assert_close(found, with_gradient(lambda leaf: sampled_forward_kl(leaf, alone), student))


def test_a_drawn_token_that_the_student_bans_costs_infinity_and_its_gradient_is_finite():
    student, drawn = (
        random_logits(0, 1, 4),
        SampledTokens(torch.tensor([[1, 3]]), torch.tensor([[0.5, 0.5]]), torch.ones(1), 4),
    )
    student[0, 3] = BANNED
    values, grad = with_gradient(lambda leaf: sampled_forward_kl(leaf, drawn), student)
    assert values.isinf().all() and grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_widened_first(dtype):
    student, logits = random_logits(0, 3, VOCAB).to(dtype), random_logits(1, 3, VOCAB)
    values = over_buckets(forward_kl, student, likeliest(logits, 2))
    assert values.dtype == torch.float32
    assert_close(
        values.double(), over_buckets(forward_kl, student.double(), likeliest(logits, 2)), rtol=1e-5, atol=1e-6
    )


def refused(name, *, stored="sparse", temperature=1.0, stored_temperature=1.0):
    return refusal(objective(name), temperature=temperature, stored=stored, stored_temperature=stored_temperature)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_likeliest_tokens_serve_whatever_compares_two_distributions(name):
    message = refused(name)
    if name in ("logit_mse", "centred_logit_mse", "decoupled_kd"):
        assert message.startswith(name) and "Use forward_kl" in message
    else:
        assert message is None


@pytest.mark.parametrize("name", CATALOGUE)
def test_drawn_tokens_serve_forward_kl_and_what_asks_no_teacher(name):
    message = refused(name, stored="sampled")
    if name == "forward_kl" or not CATALOGUE[name].reads_teacher:
        assert message is None
    else:
        assert message.startswith(name) and "forward_kl" in message


@pytest.mark.parametrize("stored", ["sparse", "sampled"])
def test_another_temperature_than_the_stored_one_is_refused_with_both_ways_out(stored):
    message = refused("forward_kl", stored=stored, temperature=2.0, stored_temperature=1.0)
    assert message.startswith("forward_kl has a temperature of 2")
    assert "objective's temperature to 1, or store the teacher at 2" in message
    assert refused("forward_kl", stored=stored, temperature=2.0, stored_temperature=2.0) is None
    assert refused("next_token", stored=stored, stored_temperature=2.0) is None
