"""The intervals: near 95 % of them hold the truth, and a pairing makes them narrow."""

import numpy as np
import pytest
from scipy.stats import binom, bootstrap

from stillhouse.evaluation.intervals import (
    LEVELS,
    RESAMPLES,
    bootstrapped,
    jackknifed,
    median_interval,
    ratio,
    spread,
)


def sampled(*numerators, lengths, finish=lambda ratio: ratio):
    """Ratios to the same lengths, over the same draws."""
    statistics = {number: ratio(sums, lengths, finish=finish) for number, sums in enumerate(numerators)}
    return bootstrapped(statistics, set_sizes=[len(lengths)]).values()


def ratio_interval(sums, lengths, **finish):
    (found,) = sampled(sums, lengths=lengths, **finish)
    return found.interval()


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
    drawn = list(sampled(ours, theirs, lengths=lengths))
    difference = drawn[0].minus(drawn[1]).interval()
    one, other = (found.interval() for found in drawn)
    assert difference.high < 0  # so small a gain shows
    assert one.high > other.low  # and would not, by the two apart
    assert difference.high - difference.low < 0.2 * (one.high - one.low)


def test_a_difference_from_itself_is_exactly_nothing():
    sums, lengths = _documents(np.random.default_rng(5))
    one, other = sampled(sums, sums.copy(), lengths=lengths)
    difference = one.minus(other).interval()
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
    one, other = sampled(ours, theirs, lengths=lengths)
    paired = one.minus(other).interval()
    summed = ratio_interval(ours - theirs, lengths)
    assert (paired.value, paired.low, paired.high) == pytest.approx((summed.value, summed.low, summed.high))


def test_a_share_of_oneself_is_exactly_one_and_of_twice_as_much_a_half():
    sums, lengths = _documents(np.random.default_rng(9))
    own, twice = sampled(sums, 2 * sums, lengths=lengths)
    whole, half = own.share_of(own).interval(), own.share_of(twice).interval()
    assert (whole.value, whole.low, whole.high) == (1, 1, 1)
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)


def test_the_jackknife_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(10).normal(size=30)
    interval = jackknifed({"mean": ratio(values, np.ones(30))}, num_documents=30)["mean"].interval()
    error = values.std(ddof=1) / np.sqrt(30)
    assert interval.value == pytest.approx(values.mean())
    assert (interval.high - interval.value, interval.value - interval.low) == pytest.approx(
        (1.96 * error, 1.96 * error)
    )


@pytest.mark.parametrize("at_once", [250_000, 700])
def test_a_set_is_drawn_as_often_as_it_is_large_and_none_stands_in_for_another(monkeypatch, at_once):
    monkeypatch.setattr("stillhouse.evaluation.intervals.DRAWN_AT_ONCE", at_once)
    seen = []
    bootstrapped({"": lambda draws: seen.append(draws) or draws[:, 0]}, set_sizes=[3, 300, 2])
    *drawn, whole = seen
    drawn = np.concatenate(drawn)
    assert drawn.shape == (RESAMPLES, 305)
    assert (whole == 1).all()
    for place, size in ((slice(0, 3), 3), (slice(3, 303), 300), (slice(303, 305), 2)):
        assert (drawn[:, place].sum(-1) == size).all()
        np.testing.assert_allclose(drawn[:, place].mean(0), 1, atol=0.12)  # five standard errors of 2000 draws
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 3])[0, 1]) < 0.1


def test_draws_do_not_depend_on_what_else_is_asked_of_them():
    random = np.random.default_rng(12)
    sums, lengths = _documents(random)
    one, _ = sampled(sums, random.normal(size=len(sums)), lengths=lengths)
    assert one.interval() == ratio_interval(sums, lengths)


def test_a_set_of_one_document_leaves_no_interval_an_end():
    (found,) = bootstrapped({"": ratio(np.arange(1.0, 5), np.ones(4))}, set_sizes=[3, 1]).values()
    interval = found.interval()
    assert (interval.value, interval.low, interval.high) == (2.5, float("-inf"), float("inf"))


@pytest.mark.parametrize("count", [*range(1, 40), 251, 2000])
def test_the_rank_of_a_medians_bounds_is_scipys(count):
    rank = max(0, int(binom.ppf(LEVELS[0], count, 0.5)) - 1)
    interval = median_interval(np.arange(count, dtype=float))
    assert (interval.low, interval.high) == (rank, count - 1 - rank)


def test_at_least_95_of_100_intervals_hold_the_true_median_of_repeats():
    random, held, tries = np.random.default_rng(11), 0, 1000
    for _ in range(tries):
        interval = median_interval(random.lognormal(0, 0.3, 21))
        held += interval.low <= 1 <= interval.high
    assert 0.95 < held / tries < 0.99  # 0.973 of 21 coins


def test_a_few_repeats_give_the_lowest_and_the_highest():
    interval = median_interval(np.array([3.0, 9.0, 1.0, 4.0, 5.0]))
    assert (interval.value, interval.low, interval.high) == (4.0, 1.0, 9.0)
