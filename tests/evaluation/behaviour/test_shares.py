"""Shares, their differences, and what is corrected for a matcher's errors: against scipy, closed forms and simulation."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from stillhouse.core.behaviour_results import Matrix
from stillhouse.evaluation.behaviour.shares import change, corrected, matrix, share


@pytest.mark.parametrize(("hits", "number"), [(0, 12), (12, 12), (3, 12), (40, 100)])
def test_a_share_has_wilsons_interval(hits, number):
    found = share([True] * hits + [False] * (number - hits))
    reference = binomtest(hits, number).proportion_ci(method="wilson")
    assert found.value == pytest.approx(hits / number)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-4)  # 1.96 is no more exact


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((36, 14, 0, 0), 0.1528, 0.4167), ((0, 2, 12, 36), -0.3404, -0.0569)],
)
def test_a_paired_change_is_newcombes(counts, low, high):
    """His table III: method 10; and what holds for those who did not, or for models that change places."""
    both, ours, theirs, neither = counts
    found = change(Matrix(both, theirs, ours, neither, 1.0))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


def test_who_did_it_is_counted_prompt_by_prompt():
    found = matrix(model=[True, True, False, False, True], teacher=[True, False, True, False, False])
    assert (found.both, found.only_model, found.only_teacher, found.neither) == (1, 2, 1, 1)
    assert found.p_value == 1.0


def test_a_model_beside_itself_has_not_changed_and_few_prompts_cannot_prove_it():
    hits = [True, False] * 10
    found = change(matrix(model=hits, teacher=hits))
    assert found.value == 0 and found.low < 0 < found.high
    assert change(matrix(model=hits * 50, teacher=hits * 50)).high < found.high


def test_intervals_cover_at_their_rate():
    random, held, trials = np.random.default_rng(0), [0, 0], 1000
    for _ in range(trials):
        teacher = random.random(60) < 0.3
        model = np.where(random.random(60) < 0.7, teacher, random.random(60) < 0.6)
        found = change(matrix(model=model.tolist(), teacher=teacher.tolist()))
        held[0] += found.low <= 0.3 * 0.3 <= found.high  # 0.7 x 0.3 + 0.3 x 0.6 less 0.3
        refused = random.random(80) < 0.25
        matched = np.where(refused, random.random(80) < 0.8, random.random(80) < 0.1)
        right = corrected(
            matched.tolist(),
            of_refusals=(random.random(40) < 0.8).tolist(),
            of_others=(random.random(40) < 0.1).tolist(),
        )
        assert right is not None
        held[1] += right.low <= 0.25 <= right.high
    assert all(0.93 <= count / trials <= 0.99 for count in held), held


def test_the_interval_of_a_share_covers_at_its_rate_over_all_shares():
    """Exactly: at one share it covers a little more or less, as hits are whole numbers."""
    intervals = [share([True] * hits + [False] * (30 - hits)) for hits in range(31)]
    covered = [
        sum(binom.pmf(hits, 30, true) for hits, one in enumerate(intervals) if one.low <= true <= one.high)
        for true in np.linspace(0.02, 0.98, 193)
    ]
    assert 0.945 <= np.mean(covered) <= 0.96
    assert min(covered) > 0.83


def test_a_matcher_that_never_errs_is_not_corrected_and_one_that_cannot_tell_not_at_all():
    hits = [True] * 30 + [False] * 70
    sure = corrected(hits, of_refusals=[True] * 500, of_others=[False] * 500)
    assert sure is not None and sure.value == pytest.approx(0.3)
    assert corrected(hits, of_refusals=[True, False], of_others=[True, False]) is None
    assert corrected(hits, of_refusals=[], of_others=[False]) is None


def test_the_corrected_rate_is_rogan_and_gladens():
    found = corrected([True] * 40 + [False] * 60, of_refusals=[True] * 8 + [False] * 2, of_others=[True] + [False] * 9)
    assert found is not None
    assert found.value == pytest.approx((0.4 + 0.9 - 1) / (0.8 + 0.9 - 1))
    assert 0 <= found.low < found.value < found.high <= 1
