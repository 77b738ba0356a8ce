"""95 % intervals by resampling documents: tokens of one document are not independent of each other.

A statistic is a function of how often each document occurs. Two models are then compared by the difference, or by the
ratio, of their statistics over the same draws: what they share cancels out.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from stillhouse.core.results import Interval

RESAMPLES = 2000
LEVELS = (0.025, 0.975)
DEVIATIONS = 1.96  # of a normal distribution, on either side
DRAWN_AT_ONCE = 4_000_000  # numbers; 32 MB, however many documents there are

Sums = NDArray[np.float64]
"""One number a document."""

Draws = NDArray[np.float64]
"""[draws, docs]: how often each document occurs in each draw."""

Statistic = Callable[[Draws], Sums]
"""One number a draw."""


def bootstrap_interval(statistic: Statistic, *, num_documents: int) -> Interval:
    """The statistic of the documents as they are, and its percentiles over documents drawn with replacement."""
    value = float(statistic(np.ones((1, num_documents)))[0])
    if num_documents < 2:
        return Interval(value, float("-inf"), float("inf"))
    drawn = np.concatenate([statistic(draws) for draws in _resampled(num_documents)])
    low, high = np.quantile(drawn, LEVELS)
    return Interval(value, float(low), float(high))


def _resampled(num_documents: int) -> Iterator[Draws]:
    """The same draws for whoever asks: that is what pairs the statistics of two models."""
    random = np.random.default_rng(0)
    at_once = max(1, DRAWN_AT_ONCE // num_documents)
    for start in range(0, RESAMPLES, at_once):
        chosen = random.integers(0, num_documents, (min(at_once, RESAMPLES - start), num_documents))
        rows = np.arange(len(chosen))[:, None] * num_documents
        counts = np.bincount((rows + chosen).ravel(), minlength=len(chosen) * num_documents)
        yield counts.reshape(chosen.shape).astype(np.float64)


def jackknife_interval(statistic: Statistic, *, num_documents: int) -> Interval:
    """The statistic, and 1.96 of its standard errors on either side, from leaving out each document once.

    For what documents that occur twice would distort: drawn with replacement, a CKA is too high, as equals are similar.
    """
    value = float(statistic(np.ones((1, num_documents)))[0])
    if num_documents < 2:
        return Interval(value, float("-inf"), float("inf"))
    without = statistic(1 - np.eye(num_documents))
    error = np.sqrt((num_documents - 1) * np.mean((without - without.mean()) ** 2))
    return Interval(value, value - DEVIATIONS * float(error), value + DEVIATIONS * float(error))


def difference(ours: Statistic, theirs: Statistic) -> Statistic:
    """Ours minus theirs, draw by draw."""
    return lambda draws: ours(draws) - theirs(draws)


def share(ours: Statistic, theirs: Statistic) -> Statistic:
    """Ours as a share of theirs, draw by draw; infinite where theirs is not above 0."""

    def statistic(draws: Draws) -> Sums:
        part, whole = ours(draws), theirs(draws)
        return np.divide(part, whole, out=np.full_like(part, np.inf), where=whole > 0)

    return statistic


def ratio(numerator: Sums, denominator: Sums, *, finish: Callable[[Sums], Sums] = lambda ratio: ratio) -> Statistic:
    """`finish(sum of numerators / sum of denominators)`."""
    return lambda draws: finish((draws @ numerator) / (draws @ denominator))


def ratio_interval(
    numerator: Sums, denominator: Sums, *, finish: Callable[[Sums], Sums] = lambda ratio: ratio
) -> Interval:
    """`finish(sum of numerators / sum of denominators)` with its interval."""
    return bootstrap_interval(ratio(numerator, denominator, finish=finish), num_documents=len(numerator))


def difference_interval(ours: Sums, theirs: Sums, denominator: Sums) -> Interval:
    """The difference of two models' ratios over the same documents, paired: what they share cancels out."""
    return ratio_interval(ours - theirs, denominator)


def spread(repeats: list[float]) -> Interval:
    """The median of repeated timings, from the slowest to the fastest."""
    return Interval(float(np.median(repeats)), min(repeats), max(repeats))


def median_interval(repeats: Sums) -> Interval:
    """The median of repeated measurements, between the two of them that hold it at least 95 times in 100.

    Whatever the distribution: each repeat falls on either side of the true median like a coin. Fewer than six repeats
    cannot be that sure, and give the lowest and the highest.
    """
    ordered = np.sort(repeats)
    rank = max(0, int(binom.ppf(LEVELS[0], len(ordered), 0.5)) - 1)
    return Interval(float(np.median(ordered)), float(ordered[rank]), float(ordered[-1 - rank]))
