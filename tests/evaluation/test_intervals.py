"""The intervals: near 95 % of them hold the truth, and a pairing makes them narrow."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from stillhouse.evaluation.intervals import (
    RESAMPLES,
    bootstrapped,
    difference_interval,
    jackknifed,
    median_interval,
    ratio,
    ratio_interval,
    spread,
)


def _documents(random, count=40):
    """Sums and lengths of documents that differ from each other: the true ratio is 2."""
    lengths = random.integers(5, 60, count).astype(float)
    return 2 * lengths + random.normal(0, 0.4, count) * lengths, lengths


def test_about_95_of_100_intervals_hold_the_true_ratio():
    random, held, tries = np.random.default_rng(0), 0, 400
    for _ in range(tries):
        interval = ratio_interval(*_documents(random))
        held += interval.low <= 2 <= interval.high
    assert 0.91 < held / tries < 0.98


def test_the_value_is_the_ratio_of_the_sums_and_lies_in_its_interval():
    sums, lengths = _documents(np.random.default_rng(1))
    interval = ratio_interval(sums, lengths)
    assert interval.value == pytest.approx(sums.sum() / lengths.sum())
    assert interval.low < interval.value < interval.high


def test_what_finishes_the_ratio_finishes_its_interval_too():
    sums, lengths = _documents(np.random.default_rng(2))
    plain, finished = ratio_interval(sums, lengths), ratio_interval(sums, lengths, finish=np.exp)
    assert (finished.value, finished.low, finished.high) == pytest.approx(
        (np.exp(plain.value), np.exp(plain.low), np.exp(plain.high))
    )


def test_four_times_the_documents_halve_the_interval():
    random = np.random.default_rng(3)
    few, many = (ratio_interval(*_documents(random, count)) for count in (250, 1000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.2)


def test_a_paired_difference_is_narrower_than_what_the_two_intervals_leave_open():
    random = np.random.default_rng(4)
    theirs, lengths = _documents(random)
    ours = theirs - 0.05 * lengths + random.normal(0, 0.02, len(lengths)) * lengths
    difference = difference_interval(ours, theirs, lengths)
    one, other = ratio_interval(ours, lengths), ratio_interval(theirs, lengths)
    assert difference.high < 0  # so small a gain shows
    assert one.high > other.low  # and would not, by the two apart
    assert difference.high - difference.low < 0.2 * (one.high - one.low)


def test_a_difference_from_itself_is_exactly_nothing():
    sums, lengths = _documents(np.random.default_rng(5))
    difference = difference_interval(sums, sums, lengths)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_the_same_numbers_give_the_same_interval():
    sums, lengths = _documents(np.random.default_rng(6))
    np.random.default_rng().normal(size=3)
    assert ratio_interval(sums, lengths) == ratio_interval(sums, lengths)


def test_one_document_says_nothing_about_others():
    interval = ratio_interval(np.array([3.0]), np.array([2.0]))
    assert (interval.value, interval.low, interval.high) == (1.5, float("-inf"), float("inf"))


def test_repeated_timings_are_a_median_between_the_slowest_and_the_fastest():
    interval = spread([3.0, 9.0, 1.0, 4.0, 5.0])
    assert (interval.value, interval.low, interval.high) == (4.0, 1.0, 9.0)


@pytest.mark.parametrize("at_once", [250_000, 700])
def test_the_interval_is_scipys_of_the_same_draws(monkeypatch, at_once):
    monkeypatch.setattr("stillhouse.evaluation.intervals.DRAWN_AT_ONCE", at_once)
    sums, lengths = _documents(np.random.default_rng(7), 41)
    drawn = bootstrap(
        (sums, lengths),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = ratio_interval(sums, lengths)
    assert (interval.low, interval.high) == pytest.approx(tuple(drawn.confidence_interval), abs=1e-12)


def test_a_paired_difference_of_statistics_is_that_of_their_sums():
    random = np.random.default_rng(8)
    theirs, lengths = _documents(random)
    ours = theirs + random.normal(0, 1, len(theirs))
    one, other = (bootstrapped(ratio(values, lengths), num_documents=len(ours)) for values in (ours, theirs))
    paired = one.minus(other).interval()
    summed = difference_interval(ours, theirs, lengths)
    assert (paired.value, paired.low, paired.high) == pytest.approx((summed.value, summed.low, summed.high))


def test_a_share_of_oneself_is_exactly_one_and_of_twice_as_much_a_half():
    sums, lengths = _documents(np.random.default_rng(9))
    own, twice = (bootstrapped(ratio(values, lengths), num_documents=len(sums)) for values in (sums, 2 * sums))
    whole, half = own.share_of(own).interval(), own.share_of(twice).interval()
    assert (whole.value, whole.low, whole.high) == (1, 1, 1)
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)


def test_the_jackknife_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(10).normal(size=30)
    interval = jackknifed(ratio(values, np.ones(30)), num_documents=30).interval()
    error = values.std(ddof=1) / np.sqrt(30)
    assert interval.value == pytest.approx(values.mean())
    assert (interval.high - interval.value, interval.value - interval.low) == pytest.approx(
        (1.96 * error, 1.96 * error)
    )


def test_at_least_95_of_100_intervals_hold_the_true_median_of_repeats():
    random, held, tries = np.random.default_rng(11), 0, 1000
    for _ in range(tries):
        interval = median_interval(random.lognormal(0, 0.3, 21))
        held += interval.low <= 1 <= interval.high
    assert 0.95 < held / tries < 0.99  # 0.973 of 21 coins


def test_a_few_repeats_give_the_lowest_and_the_highest():
    interval = median_interval(np.array([3.0, 9.0, 1.0, 4.0, 5.0]))
    assert (interval.value, interval.low, interval.high) == (4.0, 1.0, 9.0)
