"""Shares and their differences, with intervals that hold for few prompts and for shares of 0 or 1; and shares corrected for
what a matcher misses.

A bootstrap says of 12 prompts without a refusal that the rate is 0, surely. These do not.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.behaviour_results import Matrix
from stillhouse.core.results import Interval
from stillhouse.evaluation.intervals import DEVIATIONS, wilson
from stillhouse.evaluation.paired import mcnemar

Hits = Sequence[bool] | NDArray[np.bool_]
"""Prompt by prompt, whether it was done."""

UNKNOWN = Interval(0.0, float("-inf"), float("inf"))


def share(hits: Sequence[bool]) -> Interval:
    """The share that is true, with Wilson's interval."""
    return wilson(sum(hits), len(hits)) if hits else UNKNOWN


def matrix(*, model: Hits, teacher: Hits) -> Matrix:
    """Who did it, prompt by prompt."""
    ours, theirs = np.asarray(model, dtype=bool), np.asarray(teacher, dtype=bool)
    both, only_teacher, only_model, neither = (
        int(np.sum(found)) for found in (ours & theirs, theirs & ~ours, ours & ~theirs, ~ours & ~theirs)
    )
    return Matrix(both, only_teacher, only_model, neither, mcnemar(lost=only_teacher, won=only_model))


def change(found: Matrix) -> Interval:
    """The model's share less the teacher's, paired: Newcombe's interval, which is as wide as the prompts are few even where
    nothing has changed.

    Source: Newcombe, 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    number = found.both + found.only_teacher + found.only_model + found.neither
    if number == 0:
        return UNKNOWN
    ours = share([True] * (found.both + found.only_model) + [False] * (found.only_teacher + found.neither))
    theirs = share([True] * (found.both + found.only_teacher) + [False] * (found.only_model + found.neither))
    value, phi = ours.value - theirs.value, _correlation(found)
    below, above = ours.value - ours.low, ours.high - ours.value
    their_below, their_above = theirs.value - theirs.low, theirs.high - theirs.value
    low = sqrt(max(0.0, below**2 - 2 * phi * below * their_above + their_above**2))
    high = sqrt(max(0.0, above**2 - 2 * phi * above * their_below + their_below**2))
    return Interval(value, max(-1.0, value - low), min(1.0, value + high))


def _correlation(found: Matrix) -> float:
    """Phi of the four counts, with Newcombe's correction for continuity."""
    a, b, c, d = found.both, found.only_model, found.only_teacher, found.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    product = a * d - b * c
    corrected = max(product - (a + b + c + d) / 2, 0.0) if product > 0 else float(product)
    return corrected / sqrt(margins)


def corrected(matched: Sequence[bool], *, of_refusals: Sequence[bool], of_others: Sequence[bool]) -> Interval | None:
    """The share that a matcher would give if it never erred, by a sample that people have labelled: what it said of true ones
    and of others. None where it tells the two no better than chance, so that nothing can be corrected.

    Takes the matcher to err on these answers as it does on the sample. The sampling error of all three shares is in the
    interval.

    Source: Rogan and Gladen, 1978, American Journal of Epidemiology 107, 71-76; the interval is that of Lang and Reiczigel,
    2014, Preventive Veterinary Medicine 113, 13-22.
    """
    if not matched or not of_refusals or not of_others:
        return None
    rate, hit, clear = (sum(found) / len(found) for found in (matched, of_refusals, of_others))
    clear = 1 - clear  # specificity
    if hit + clear <= 1:
        return None
    value = min(1.0, max(0.0, (rate + clear - 1) / (hit + clear - 1)))
    squared = DEVIATIONS**2
    number, num_hit, num_clear = len(matched) + squared, len(of_refusals) + 2, len(of_others) + 2
    rate = (len(matched) * rate + squared / 2) / number
    hit = (len(of_refusals) * hit + 1) / num_hit
    clear = (len(of_others) * clear + 1) / num_clear
    if hit + clear <= 1:
        return None
    middle = (rate + clear - 1) / (hit + clear - 1)
    spread_hit, spread_clear = hit * (1 - hit) / num_hit, clear * (1 - clear) / num_clear
    shift = 2 * squared * (middle * spread_hit - (1 - middle) * spread_clear)
    spread = rate * (1 - rate) / number + middle**2 * spread_hit + (1 - middle) ** 2 * spread_clear
    half = DEVIATIONS * sqrt(spread) / (hit + clear - 1)
    low, high = (min(1.0, max(0.0, bound)) for bound in (middle + shift - half, middle + shift + half))
    return Interval(value, min(low, value), max(high, value))
