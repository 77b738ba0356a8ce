"""95 % intervals by resampling documents: tokens of one document are not independent of each other."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from stillhouse.core.results import Interval

RESAMPLES = 2000

Sums = NDArray[np.float64]
"""One number a document."""


def ratio_interval(
    numerator: Sums, denominator: Sums, *, finish: Callable[[Sums], Sums] = lambda ratio: ratio
) -> Interval:
    """`finish(sum of numerators / sum of denominators)`, with documents resampled in pairs."""
    return _interval(lambda top, bottom, axis: finish(top.sum(axis) / bottom.sum(axis)), numerator, denominator)


def difference_interval(ours: Sums, theirs: Sums, denominator: Sums) -> Interval:
    """The difference of two models' ratios over the same documents, paired: what they share cancels out."""
    return ratio_interval(ours - theirs, denominator)


def _interval(statistic: Callable[..., Sums], *samples: Sums) -> Interval:
    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2:
        return Interval(value, float("-inf"), float("inf"))
    drawn = bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(value, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def spread(repeats: list[float]) -> Interval:
    """The median of repeated timings, from the slowest to the fastest."""
    return Interval(float(np.median(repeats)), min(repeats), max(repeats))
