"""Whether a reward likes long answers: its rank correlation with their length, over everything and within each question."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.results import Interval

DRAWS = 1000
LEVELS = (0.025, 0.975)
DRAWN_AT_ONCE = 50
"""Draws of all questions that are held at once: of 10,000 questions they take 4 MB."""

Numbers = NDArray[np.float64]


def correlation_over_all(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> Interval:
    """Spearman's correlation over all answers of all questions. A question that needs a long answer may also be one that is
    answered well, so this says less of a reward than `correlation_within`.
    """
    sizes = [len(group) for group in scores]
    ours = _centred(_ranks([value for group in scores for value in group]))
    theirs = _centred(_ranks([value for group in lengths for value in group]))
    ends = np.cumsum(sizes)[:-1]
    return _correlated(np.split(ours, ends), np.split(theirs, ends))


def correlation_within(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> Interval:
    """The same of ranks among the answers to one question, over all questions: whether of two answers to the same question the
    longer one is the one that the reward prefers. 0 where no question has two answers that differ.
    """
    ours = [_centred(_ranks(group)) for group in scores]
    return _correlated(ours, [_centred(_ranks(group)) for group in lengths])


def _correlated(ours: Sequence[Numbers], theirs: Sequence[Numbers]) -> Interval:
    """The correlation of numbers around 0, with its 95 % interval over questions drawn with replacement. Ranks stay those of
    the whole: to rank every draw anew costs much and moves the interval little.
    """
    pairs = list(zip(ours, theirs, strict=True))
    sums = np.array([[float(a @ b), float(a @ a), float(b @ b)] for a, b in pairs]).reshape(-1, 3)  # [questions, 3]
    value = float(_quotient(sums.sum(0)[None])[0])
    if len(sums) < 2:
        return Interval(value, -1.0, 1.0)
    random, found = np.random.default_rng(0), []
    for _ in range(DRAWS // DRAWN_AT_ONCE):
        chosen = random.integers(0, len(sums), (DRAWN_AT_ONCE, len(sums)))
        found.append(_quotient(sums[chosen].sum(1)))
    low, high = np.quantile(np.concatenate(found), LEVELS)
    return Interval(value, float(low), float(high))


def _quotient(sums: Numbers) -> Numbers:
    spread = np.sqrt(sums[:, 1] * sums[:, 2])
    return np.divide(sums[:, 0], spread, out=np.zeros_like(spread), where=spread > 0)


def _ranks(values: Sequence[float] | Sequence[int]) -> Numbers:
    """From 1 on; equals share their mean rank."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Numbers = ((ends - counts + 1 + ends) / 2)[place.reshape(-1)]
    return found


def _centred(ranks: Numbers) -> Numbers:
    return ranks - ranks.mean() if len(ranks) else ranks
