"""Next-token distributions compared: every number is the objective's own, and a teacher is exactly like itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.likeness import CURVES
from stillhouse.evaluation.calibration import reliability
from stillhouse.evaluation.intervals import bootstrapped
from stillhouse.evaluation.language import say
from stillhouse.evaluation.nearness import TokenNumbers, compared, nearness
from stillhouse.objectives import forward_kl, jsd, next_token, reverse_kl, total_variation

WHOLE = {"forward_kl": 0, "reverse_kl": 0, "jsd": 0, "top1_agreement": 1, "top5_agreement": 1, "acceptance": 1}


def _logits(seed, tokens=6, vocab=11):
    random = torch.Generator().manual_seed(seed)
    ours, theirs = (3 * torch.randn(tokens, vocab, generator=random, dtype=torch.float64) for _ in range(2))
    return ours, theirs, torch.randint(0, vocab, (tokens,), generator=random)


def _named(ours, theirs, targets):
    return TokenNumbers(*compared(ours.log_softmax(-1), theirs.log_softmax(-1), targets).numpy())


@given(seed=st.integers(0, 2**31))
def test_every_number_is_the_objectives_own(seed):
    ours, theirs, targets = _logits(seed)
    found = _named(ours, theirs, targets)
    p, q = theirs.softmax(-1), ours.softmax(-1)
    for name, expected in {
        "forward_kl": forward_kl(ours, theirs),
        "reverse_kl": reverse_kl(ours, theirs),
        "jsd": jsd(ours, theirs),
        "cross_entropy": next_token(ours, targets),
        "teacher_entropy": torch.distributions.Categorical(p).entropy(),
        "acceptance": 1 - total_variation(ours, theirs),
        "brier": ((q - torch.nn.functional.one_hot(targets, 11)) ** 2).sum(-1),
        "teacher_brier": ((q - torch.nn.functional.one_hot(p.argmax(-1), 11)) ** 2).sum(-1),
    }.items():
        assert getattr(found, name) == pytest.approx(expected.numpy(), abs=1e-9), name


@given(seed=st.integers(0, 2**31))
def test_a_distribution_beside_itself_is_nothing_away(seed):
    logits, _, targets = _logits(seed)
    found = _named(logits, logits, targets)
    for name, value in WHOLE.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-12), name


def test_a_token_that_is_banned_on_both_sides_counts_nothing():
    ours, theirs, targets = _logits(0)
    ours[:, 3], theirs[:, 3] = -math.inf, -math.inf
    found = _named(ours, theirs, targets.clamp(max=2))
    left = [column for column in range(11) if column != 3]
    assert found.forward_kl == pytest.approx(forward_kl(ours[:, left], theirs[:, left]).numpy())
    assert np.isfinite(found.teacher_entropy).all() and np.isfinite(found.jsd).all()


def test_top_five_counts_what_both_have_whatever_the_order():
    ours = torch.tensor([[9.0, 8, 7, 6, 5, 0, 0, 0]]).log_softmax(-1)
    theirs = torch.tensor([[5.0, 9, 0, 7, 6, 8, 0, 0]]).log_softmax(-1)
    found = TokenNumbers(*compared(ours.double(), theirs.double(), torch.tensor([0])).numpy())
    assert found.top5_agreement[0] == pytest.approx(4 / 5)
    assert found.top1_agreement[0] == 0


def test_a_teacher_beside_itself_on_documents(build_model, build_example):
    teacher = build_model()
    examples = [build_example(seed, tokens) for seed, tokens in enumerate((9, 14, 5))]
    found = nearness(teacher, examples, say(teacher, examples, vocab_size=300), vocab_size=300)
    sampled = bootstrapped(found.statistics([*CURVES]), set_sizes=[3])
    for name, value in WHOLE.items():
        interval = sampled[name].interval()
        assert (interval.value, interval.low, interval.high) == pytest.approx((value, value, value), abs=1e-6), name
    assert len(found.document) == sum(len(one.ids) - 1 for one in examples)
    assert reliability("teacher", "teacher", found.of_the_teacher()).bins[-1].accuracy.value == 1


def test_entropy_and_kl_make_the_cross_entropy_of_the_two(build_model, build_example):
    """H(p, q) = H(p) + KL(p || q), and a random student is far."""
    teacher, student = build_model(), build_model(seed=1)
    examples = [build_example(0, 20)]
    found = nearness(student, examples, say(teacher, examples, vocab_size=300), vocab_size=300)
    assert (found.tokens.forward_kl > 0).all() and (found.tokens.acceptance < 1).all()
    assert (found.tokens.jsd <= math.log(2)).all()
