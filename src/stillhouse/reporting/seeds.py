"""Several runs that differ in their seed alone, as one number."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from stillhouse.core.results import Interval

STUDENT_T: Sequence[float] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond these, that of the last is a little too wide."""


def combined(intervals: Sequence[Interval]) -> Interval:
    """The mean over seeds, with an interval for another seed on other documents.

    Two things make it uncertain: that seeds differ (Student's t over their values) and that all of them were measured on the
    same documents (the mean of their own half-widths, as what these have in common does not average out). Both are added as
    variances.
    """
    values = [one.value for one in intervals]
    if len(values) == 1:
        return intervals[0]
    mean = fmean(values)
    over_seeds = STUDENT_T[min(len(values) - 2, len(STUDENT_T) - 1)] * stdev(values) / math.sqrt(len(values))
    over_documents = fmean((one.high - one.low) / 2 for one in intervals)
    half_width = math.hypot(over_seeds, over_documents)
    return Interval(mean, mean - half_width, mean + half_width)
