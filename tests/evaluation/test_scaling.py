import numpy as np
import pytest

from stillhouse.core.results import Interval
from stillhouse.evaluation.scaling import Measured, scaling_law, why_no_law

BUDGETS = (1e4, 3e4, 1e5, 3e5, 1e6)


def points_of(losses, *, half_width=0.01, budgets=BUDGETS):
    return [
        Measured(budget, Interval(loss, loss - half_width, loss + half_width))
        for budget, loss in zip(budgets, losses, strict=True)
    ]


def test_a_law_without_noise_is_found_again():
    law = scaling_law(points_of([2.0 + 50 * budget**-0.4 for budget in BUDGETS], half_width=1e-5))
    assert law.floor.value == pytest.approx(2.0, abs=0.02)
    assert law.exponent.value == pytest.approx(0.4, abs=0.02)
    assert law.at(1e7).value == pytest.approx(2.0 + 50 * 1e7**-0.4, abs=0.02)
    assert not law.is_open


def test_intervals_hold_the_truth_at_about_their_rate():
    draws, hits = np.random.default_rng(1), []
    for number in range(30):
        losses = [1.5 + 20 * budget**-0.35 + draws.normal(0, 0.02) for budget in BUDGETS]
        law = scaling_law(points_of(losses, half_width=1.96 * 0.02), seed=number)
        expected = law.at(2e6)
        hits.append(expected.low <= 1.5 + 20 * 2e6**-0.35 <= expected.high)
    assert np.mean(hits) >= 0.85


@pytest.mark.parametrize(
    ("budgets", "losses", "words"),
    [
        ((1e4,), (3.0,), "there is 1"),
        ((1e4, 1e5, 1e6), (3.0, 2.5, 2.2), "there are 3"),
        ((1e4, 1.5e4, 2e4, 3e4), (3.0, 2.9, 2.8, 2.7), "only 3.0 times the smallest"),
        ((1e4, 3e4, 1e5, 1e6), (3.0, 3.1, 3.2, 3.3), "does not fall"),
    ],
)
def test_points_that_tell_nothing_are_refused_in_words(budgets, losses, words):
    points = points_of(losses, budgets=budgets)
    assert words in why_no_law(points)
    with pytest.raises(ValueError, match="no law is fitted"):
        scaling_law(points)


def test_noise_that_hides_the_law_leaves_the_exponent_open():
    law = scaling_law(points_of([3.0, 2.98, 2.99, 2.97, 2.96], half_width=0.3))
    assert law.is_open
