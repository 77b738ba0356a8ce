"""Reward models beside each other: only margins count, ties are half right, and a taste for length shows."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from stillhouse.evaluation.intervals import bootstrapped
from stillhouse.evaluation.preferences import PairCounts
from stillhouse.evaluation.rewards import bernoulli_kl, reward_statistics


@pytest.fixture
def counted():
    random = np.random.default_rng(0)
    return PairCounts(np.arange(40) // 2, random.integers(1, 30, (40, 2)).astype(float))


def values(margin, teacher, counted):
    found = bootstrapped(reward_statistics(margin, teacher, counted), set_sizes=[counted.num_prompts])
    return {name: one.interval() for name, one in found.items()}


def test_numbers_are_what_others_find(counted):
    random = np.random.default_rng(1)
    teacher = random.normal(size=40)
    margin = teacher + random.normal(size=40)
    found = values(margin, teacher, counted)
    assert found["preference_accuracy"].value == pytest.approx(np.mean(margin > 0))
    assert found["top1_agreement"].value == pytest.approx(np.mean((margin > 0) == (teacher > 0)))
    assert found["teacher_pearson"].value == pytest.approx(pearsonr(margin, teacher)[0])
    assert found["teacher_spearman"].value == pytest.approx(spearmanr(margin, teacher)[0])
    assert found["cross_entropy"].value == pytest.approx(np.mean(np.log1p(np.exp(-margin))))
    assert all(one.low <= one.value <= one.high for one in found.values())


def test_the_teacher_agrees_with_itself_and_a_tie_is_half_right(counted):
    teacher = np.random.default_rng(2).normal(size=40)
    own = values(teacher, teacher, counted)
    assert (
        own["forward_kl"].value == 0
        and own["top1_agreement"].value == 1
        and own["teacher_pearson"].value == pytest.approx(1)
    )
    blind = values(np.zeros(40), teacher, counted)
    assert blind["preference_accuracy"].value == blind["top1_agreement"].value == 0.5
    assert blind["cross_entropy"].value == pytest.approx(np.log(2))


def test_odds_are_compared_as_bernoulli_and_stay_finite():
    margin, teacher = np.array([0.0, 2.0, -800.0]), np.array([1.0, 2.0, 800.0])
    p, q = 1 / (1 + np.exp(-teacher[0])), 0.5
    wanted = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = bernoulli_kl(margin, teacher)
    assert found[0] == pytest.approx(wanted) and found[1] == pytest.approx(0, abs=1e-12) and np.isfinite(found).all()
