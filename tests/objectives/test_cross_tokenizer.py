"""Two sides' logits as distributions over the same outcomes, whichever tokens they are of."""

import math
from itertools import accumulate
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.alignment import align, share_outcomes
from stillhouse.objectives import (
    Reading,
    alpha_beta,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    sorted_mass,
    span_logprobs,
    span_outcomes,
    tempered,
    total_variation,
)

DIVERGENCES = [forward_kl, reverse_kl, jsd, skewed_forward_kl, total_variation, alpha_beta, tempered(forward_kl, 2.0)]
SEEDS = st.integers(0, 2**31)


def random_logits(seed, *shape, dtype=torch.float64):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(logits, ids):
    """A reading whose every token is a span and an outcome of its own."""
    return Reading(logits, ids, torch.arange(len(ids)), torch.arange(logits.shape[-1]))


LETTERS = [b"a", b"b", b"c"]
CODE = [b"aa", b"ab", b"ac", b"b", b"c"]
"""Every text that does not end in the middle of a pair is cut in one way only: what a model of letters says of the next
token is known exactly."""


def next_letter(history, seed):
    """Log-probabilities of the three letters after a text."""
    return random_logits(crc32(history, seed % 2**31), 3).log_softmax(-1)


def logprob_of(text, history, seed):
    chances = [
        next_letter(history + text[:place], seed)[LETTERS.index(text[place : place + 1])] for place in range(len(text))
    ]
    return sum(chances, torch.zeros((), dtype=torch.float64))


def cut(text, vocabulary):
    ids, place = [], 0
    while place < len(text):
        ids.append(next(token for token, said in enumerate(vocabulary) if text.startswith(said, place)))
        place += len(vocabulary[ids[-1]])
    return ids


def reading(text, vocabulary, spans, outcomes, seed):
    """What one model of letters says of a text in the tokens of a vocabulary."""
    ids = cut(text, vocabulary)
    starts = [0, *accumulate(len(vocabulary[token]) for token in ids)][:-1]
    logits = [torch.stack([logprob_of(token, text[:start], seed) for token in vocabulary]) for start in starts]
    return Reading(torch.stack(logits), torch.tensor(ids), spans, outcomes)


def readings(text, seed, others, *, one_outcome=False):
    """Letters as the student, pairs as the teacher; `others` is the teacher's seed."""
    ends = [
        torch.tensor([*accumulate(len(vocabulary[token]) for token in cut(text, vocabulary))])
        for vocabulary in (LETTERS, CODE)
    ]
    spans, shared = align(*ends), share_outcomes(LETTERS, CODE)
    count = 1 if one_outcome else shared.count
    outcomes = [side.clamp(max=count - 1) for side in (shared.student, shared.teacher)]
    student = reading(text, LETTERS, spans.student, outcomes[0], seed)
    return student, reading(text, CODE, spans.teacher, outcomes[1], others), count


TEXTS = st.lists(st.sampled_from(CODE), min_size=1, max_size=6).map(b"".join)


@settings(max_examples=10, deadline=None)
@given(text=TEXTS, seed=SEEDS)
def test_one_model_in_two_tokenizations_says_the_same_of_every_span_and_outcome(text, seed):
    student, teacher, count = readings(text, seed, seed)
    ours, theirs = span_outcomes(student, teacher, num_outcomes=count)
    assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert_close(ours.logsumexp(-1), torch.zeros(len(ours), dtype=torch.float64), atol=1e-12, rtol=0)
    for divergence in DIVERGENCES:
        assert_close(divergence(ours, theirs), torch.zeros(len(ours), dtype=torch.float64), atol=1e-12, rtol=0)


@settings(max_examples=10, deadline=None)
@given(text=TEXTS, seed=SEEDS)
def test_two_models_differ_by_the_divergence_of_what_they_say_next(text, seed):
    student, teacher, count = readings(text, seed, seed + 1)
    values = forward_kl(*span_outcomes(student, teacher, num_outcomes=count))
    history = b""
    for value, piece in zip(values, (CODE[token] for token in cut(text, CODE)), strict=True):
        p, q = next_letter(history, seed + 1), next_letter(history, seed)
        expected = (p.exp() * (p - q)).sum()
        if len(piece) == 2:  # within `a`, the pair is told apart from the other two
            second = LETTERS.index(piece[1:])
            inner = [next_letter(history + b"a", which).exp()[second] for which in (seed + 1, seed)]
            expected += p.exp()[0] * sum(x * (x / y).log() for x, y in (inner, [1 - one for one in inner]))
        assert_close(value, expected)
        history += piece


@settings(max_examples=10, deadline=None)
@given(text=TEXTS, seed=SEEDS)
def test_a_single_outcome_leaves_the_texts_probability_and_its_complement(text, seed):
    student, teacher, count = readings(text, seed, seed + 1, one_outcome=True)
    history = b""
    outcomes = span_outcomes(student, teacher, num_outcomes=count)
    for span, piece in enumerate(CODE[token] for token in cut(text, CODE)):
        for said, model in zip(outcomes, (seed, seed + 1), strict=True):
            likely = logprob_of(piece, history, model).exp()
            assert_close(said[span].exp(), torch.stack([1 - likely, likely]))
        history += piece


@pytest.mark.parametrize("divergence", DIVERGENCES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_equal_tokenizers_have_the_plain_divergence_and_its_gradient(divergence, seed):
    logits, others = random_logits(seed, 4, 6), random_logits(seed + 1, 4, 6)
    ids = torch.randint(6, (4,), generator=torch.Generator().manual_seed(seed))
    ours, same = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    across = divergence(*span_outcomes(plain(ours, ids), plain(others, ids), num_outcomes=6))
    directly = divergence(same, others)
    assert_close(across, directly, rtol=1e-10, atol=1e-12)
    for values in (across, directly):
        values.sum().backward()
    assert_close(ours.grad, same.grad, rtol=1e-10, atol=1e-12)


def random_pair(seed, *, tokens=7, spans=4, vocabularies=(6, 9), count=3):
    """Two sides that cut a text at random, of random vocabularies in which some tokens begin no common outcome."""
    draw = torch.Generator().manual_seed(seed)
    sides = []
    for size in vocabularies:
        extra = torch.randint(spans, (tokens - spans,), generator=draw)
        order = torch.cat([torch.arange(spans), extra]).sort().values
        outcomes = torch.cat([torch.arange(count), torch.randint(-1, count, (size - count,), generator=draw)])
        ids = torch.randint(size, (tokens,), generator=draw)
        sides.append(Reading(random_logits(seed + size, tokens, size), ids, order, outcomes))
    return sides


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_any_two_sides_have_finite_divergences_and_the_slope_that_finite_differences_find(seed):
    student, teacher = random_pair(seed)
    direction = random_logits(seed + 1, *student.logits.shape)

    def value(logits):
        moved = Reading(logits, student.ids, student.spans, student.outcomes)
        values = forward_kl(*span_outcomes(moved, teacher, num_outcomes=3))
        assert values.isfinite().all() and (values > -1e-12).all()
        return values.sum()

    logits = student.logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(logits), logits)
    step = 1e-6
    slope = (value(student.logits + step * direction) - value(student.logits - step * direction)) / (2 * step)
    assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_outcomes_hold_all_mass_that_has_one_once(seed):
    student, teacher = random_pair(seed)
    for side, said in zip((student, teacher), span_outcomes(student, teacher, num_outcomes=3), strict=True):
        starts = [side.spans.tolist().index(span) for span in range(4)]
        named = side.logits.log_softmax(-1).exp()[starts][:, side.outcomes >= 0].sum(-1)
        assert_close(said.exp().sum(-1), named)


def test_a_token_that_is_certain_or_banned_leaves_the_gradient_finite():
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf], [0.0, 1.0, -torch.inf]], requires_grad=True)
    spans, outcomes = torch.tensor([0, 0]), torch.tensor([0, 0, 1])
    for ids in ([0, 0], [0, 2], [2, 1]):
        student = Reading(logits, torch.tensor(ids), spans, outcomes)
        teacher = Reading(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([0]), outcomes)
        (grad,) = torch.autograd.grad(reverse_kl(*span_outcomes(student, teacher, num_outcomes=2)).sum(), logits)
        assert grad.isfinite().all()


def test_sides_with_unlike_spans_are_refused_and_none_at_all_are_none():
    ids = torch.tensor([0, 1])
    student, teacher = plain(torch.zeros(2, 3), ids), plain(torch.zeros(1, 3), ids[:1])
    with pytest.raises(ValueError, match="the student's are 2 and the teacher's 1"):
        span_outcomes(student, teacher, num_outcomes=3)
    nothing = plain(torch.zeros(0, 3), ids[:0])
    assert forward_kl(*span_outcomes(nothing, nothing, num_outcomes=3)).shape == (0,)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_sorted_mass_asks_for_a_shape_in_any_order_and_of_any_size(seed):
    p, q = random_logits(seed, 3, 7), random_logits(seed + 1, 3, 5)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    assert_close(sorted_mass(p, p[:, order]), torch.zeros(3, dtype=torch.float64))
    assert_close(sorted_mass(q, p), sorted_mass(p, q))
    padded = torch.cat([q, torch.full((3, 2), -torch.inf, dtype=torch.float64)], dim=-1)
    assert_close(sorted_mass(q, p), sorted_mass(padded, p))
    ranked = [logits.softmax(-1).sort(-1, descending=True).values for logits in (p, padded)]
    assert_close(sorted_mass(q, p), (ranked[0] - ranked[1]).abs().sum(-1))


def test_the_gradient_of_sorted_mass_is_that_of_finite_differences():
    p, q = random_logits(3, 2, 5), random_logits(4, 2, 3)
    assert torch.autograd.gradcheck(lambda logits: sorted_mass(logits, p), q.requires_grad_())


def test_sorted_mass_is_largest_between_certainty_and_chance():
    certain = torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf])
    assert_close(sorted_mass(certain, torch.zeros(4)), torch.tensor(2 * (1 - 1 / 4)))


def test_a_spans_logprob_is_the_sum_of_its_tokens():
    logprobs = torch.tensor([0.5, 0.25, 0.2, 1.0]).log()
    found = span_logprobs(logprobs, torch.tensor([0, 0, 1, 2]), num_spans=3)
    assert_close(found, torch.tensor([math.log(0.125), math.log(0.2), 0.0]))
