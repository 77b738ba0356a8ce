"""Objectives across tokenizers: what they are where tokenizers are equal, and what they are not fooled by."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import (
    SPANS,
    Reading,
    forward_kl,
    jsd,
    reverse_kl,
    sorted_mass,
    span_hybrid,
    tempered,
)

from .cases import random_logits

SEEDS = st.integers(0, 2**31)
PLAIN = {
    "span_forward_kl": forward_kl,
    "span_reverse_kl": reverse_kl,
    "span_hybrid": jsd,
    "span_sorted_mass": sorted_mass,
}
TOKENS, VOCAB = 4, 6


def reading(logits, ids, count=VOCAB):
    return Reading(logits, ids, torch.arange(len(ids)), torch.arange(VOCAB).clamp(max=count - 1))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", SPANS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_for_equal_tokenizers_it_is_the_plain_objective_with_its_gradient(name, temperature, seed):
    ours, theirs = random_logits(seed, TOKENS, VOCAB), random_logits(seed + 1, TOKENS, VOCAB)
    ids = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(seed))
    # What matches by name has one more outcome for the rest, which is empty here.
    count = VOCAB + (SPANS[name].outcomes == "matched")
    across, directly = ours.clone().requires_grad_(), ours.clone().requires_grad_()
    found = SPANS[name].bind(temperature)(reading(across, ids), reading(theirs, ids), count)
    wanted = tempered(PLAIN[name], temperature)(directly, theirs)
    assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    for values in (found, wanted):
        values.sum().backward()
    assert_close(across.grad, directly.grad, rtol=1e-9, atol=1e-12)


def test_the_hybrids_beta_is_that_of_jsd():
    ours, theirs, ids = random_logits(1, TOKENS, VOCAB), random_logits(2, TOKENS, VOCAB), torch.arange(TOKENS)
    found = SPANS["span_hybrid"].bind(beta=0.1)(reading(ours, ids), reading(theirs, ids), VOCAB + 1)
    assert_close(found, partial(jsd, beta=0.1)(ours, theirs))


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_hybrid_weighs_names_and_ranks_by_the_share_of_the_teachers_tokens_that_match(seed):
    """Two of six tokens match; a text of matched tokens leaves jsd over these two and the rest, and the rest by rank."""
    ours, theirs = random_logits(seed, TOKENS, VOCAB), random_logits(seed + 1, TOKENS, VOCAB)
    ids = torch.randint(2, (TOKENS,), generator=torch.Generator().manual_seed(seed))
    found = span_hybrid(reading(ours, ids, 3), reading(theirs, ids, 3), num_outcomes=3)

    def grouped(logits):
        return torch.cat([logits[:, :2], logits[:, 2:].logsumexp(-1, keepdim=True)], dim=-1)

    rest = [logits.softmax(-1)[:, 2:].sort(-1).values for logits in (ours, theirs)]
    by_rank = (rest[0] - rest[1]).abs().sum(-1)
    assert_close(found, jsd(grouped(ours), grouped(theirs)) / 3 + 2 * by_rank / 3)


@pytest.mark.parametrize("name", SPANS)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_it_is_zero_at_the_teacher_and_never_below(name, seed):
    ours, theirs = random_logits(seed, TOKENS, VOCAB), random_logits(seed + 1, TOKENS, VOCAB)
    ids = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(seed))
    value = SPANS[name].bind()
    same, other = (value(reading(side, ids, 4), reading(theirs, ids, 4), 4) for side in (theirs, ours))
    assert_close(same, torch.zeros(TOKENS, dtype=same.dtype))
    assert (other > 0).all()


def test_sorted_mass_hears_only_what_is_said_before_the_first_token_of_a_span():
    logits, spans = random_logits(3, TOKENS, VOCAB), torch.tensor([0, 0, 1, 1])
    side = Reading(logits, torch.arange(TOKENS), spans, torch.arange(VOCAB))
    changed = Reading(logits.index_fill(0, torch.tensor([1, 3]), 0.0), side.ids, spans, side.outcomes)
    teacher = reading(random_logits(4, 2, VOCAB), torch.arange(2))
    value = SPANS["span_sorted_mass"].bind()
    assert_close(value(side, teacher, VOCAB), value(changed, teacher, VOCAB))
