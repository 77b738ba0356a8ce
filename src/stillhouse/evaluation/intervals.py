"""95 % intervals by resampling documents: tokens of one document are not independent of each other.

A statistic is a function of how often each document occurs. Two models are then compared by the difference, or by the
ratio, of their statistics over the same draws: what they share cancels out.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb, sqrt
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.results import Interval

RESAMPLES = 2000
LEVELS = (0.025, 0.975)
DEVIATIONS = 1.96  # of a normal distribution, on either side
DRAWN_AT_ONCE = 250_000  # numbers: few enough to stay in the cache between one operation and the next

Sums = NDArray[np.float64]
"""One number a document."""

Draws = NDArray[np.float64]
"""[draws, docs]: how often each document occurs in each draw."""

Statistic = Callable[[Draws], Sums]
"""One number a draw."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Sampled:
    """A statistic of the documents as they are, and of every draw of them."""

    value: float
    drawn: Sums
    method: Literal["bootstrap", "jackknife"] = "bootstrap"

    def interval(self) -> Interval:
        """Percentiles of documents drawn with replacement, or 1.96 standard errors from leaving out each once."""
        if len(self.drawn) == 0:
            return Interval(self.value, float("-inf"), float("inf"))
        if self.method == "bootstrap":
            low, high = np.quantile(self.drawn, LEVELS)
            return Interval(self.value, float(low), float(high))
        error = float(np.sqrt((len(self.drawn) - 1) * np.mean((self.drawn - self.drawn.mean()) ** 2)))
        return Interval(self.value, self.value - DEVIATIONS * error, self.value + DEVIATIONS * error)

    def minus(self, other: "Sampled") -> "Sampled":
        """The difference, draw by draw."""
        return Sampled(self.value - other.value, self.drawn - other.drawn, self.method)

    def share_of(self, other: "Sampled") -> "Sampled":
        """The ratio, draw by draw; infinite where the other is not above 0."""
        shares = np.full_like(self.drawn, np.inf)
        np.divide(self.drawn, other.drawn, out=shares, where=other.drawn > 0)
        return Sampled(self.value / other.value if other.value > 0 else float("inf"), shares, self.method)


def bootstrapped(statistics: Mapping[Name, Statistic], *, set_sizes: Sequence[int]) -> dict[Name, Sampled]:
    """Every statistic over the same draws: that is what pairs those of two models.

    Documents of one set never stand in for those of another: each set is drawn as often as it is large. A set of one
    document says nothing about others, and leaves every interval without an end.
    """
    drawn: dict[Name, list[Sums]] = {name: [] for name in statistics}
    for draws in _draws(set_sizes) if min(set_sizes) > 1 else ():
        for name, statistic in statistics.items():
            drawn[name].append(statistic(draws))
    whole = np.ones((1, sum(set_sizes)))
    return {
        name: Sampled(float(statistic(whole)[0]), np.concatenate([np.zeros(0), *drawn[name]]))
        for name, statistic in statistics.items()
    }


def _draws(set_sizes: Sequence[int]) -> Iterator[Draws]:
    """The same draws for whoever asks, a few at a time; those of one set beside those of the next."""
    random = np.random.default_rng(0)
    at_once = max(1, DRAWN_AT_ONCE // sum(set_sizes))
    for start in range(0, RESAMPLES, at_once):
        num_draws = min(at_once, RESAMPLES - start)
        yield np.concatenate([_drawn(random, num_draws, size) for size in set_sizes], axis=-1)


def _drawn(random: np.random.Generator, num_draws: int, num_documents: int) -> Draws:
    """How often each document occurs among as many as there are, drawn with replacement."""
    chosen = random.integers(0, num_documents, (num_draws, num_documents))
    rows = np.arange(num_draws)[:, None] * num_documents
    counts = np.bincount((rows + chosen).ravel(), minlength=num_draws * num_documents)
    return counts.reshape(chosen.shape).astype(np.float64)


def jackknifed(statistics: Mapping[Name, Statistic], *, num_documents: int) -> dict[Name, Sampled]:
    """Every statistic with each document left out once.

    For what documents that occur twice would distort: drawn with replacement, a CKA is too high, as equals are similar.
    """
    whole, without = np.ones((1, num_documents)), 1 - np.eye(num_documents)
    return {
        name: Sampled(float(statistic(whole)[0]), statistic(without) if num_documents > 1 else np.zeros(0), "jackknife")
        for name, statistic in statistics.items()
    }


def ratio(numerator: Sums, denominator: Sums, *, finish: Callable[[Sums], Sums] = lambda ratio: ratio) -> Statistic:
    """`finish(sum of numerators / sum of denominators)`."""
    return lambda draws: finish((draws @ numerator) / (draws @ denominator))


def wilson(hits: int, number: int) -> Interval:
    """A share of yes or no: as wide as the examples are few, even where all of them say the same.

    Source: Wilson, 1927, Journal of the American Statistical Association 22, 209-212.
    """
    value, squared = hits / number, DEVIATIONS**2
    middle = (value + squared / (2 * number)) / (1 + squared / number)
    half = DEVIATIONS / (1 + squared / number) * sqrt(value * (1 - value) / number + squared / (4 * number**2))
    # Rounding may leave a bound on the wrong side of a share of 0 or 1.
    return Interval(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def spread(repeats: list[float]) -> Interval:
    """The median of repeated timings, from the slowest to the fastest."""
    return Interval(float(np.median(repeats)), min(repeats), max(repeats))


def median_interval(repeats: Sums) -> Interval:
    """The median of repeated measurements, between the two of them that hold it at least 95 times in 100.

    Whatever the distribution: each repeat falls on either side of the true median like a coin. Fewer than six repeats
    cannot be that sure, and give the lowest and the highest.
    """
    ordered = np.sort(repeats)
    rank = max(0, _heads(LEVELS[0], num_coins=len(ordered)) - 1)
    return Interval(float(np.median(ordered)), float(ordered[rank]), float(ordered[-1 - rank]))


def _heads(level: float, *, num_coins: int) -> int:
    """The fewest heads of so many coins such that no more fall with at least this probability."""
    ways = accumulate(comb(num_coins, heads) for heads in range(num_coins + 1))
    return next(heads for heads, up_to in enumerate(ways) if up_to / 2**num_coins >= level)
