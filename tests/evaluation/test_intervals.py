"""The intervals: near 95 % of them hold the truth, and a pairing makes them narrow."""

import numpy as np
import pytest

from stillhouse.evaluation.intervals import difference_interval, ratio_interval, spread


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
