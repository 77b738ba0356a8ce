"""The same numbers group by group, and the gap between groups."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.measures import GroupScored
from stillhouse.core.results import Role
from stillhouse.evaluation.intervals import Draws, Statistic, Sums
from stillhouse.evaluation.paired import scored
from stillhouse.evaluation.statistics import quotient

GAP = "group_gap"


def group_scores(metric: str, values: Mapping[Role, Sums], groups: Sequence[str]) -> list[GroupScored]:
    """Every model's mean of one number an example, in each group; nothing where there is one group."""
    members = _members(groups)
    return [
        GroupScored(
            name,
            int(inside.sum()),
            scored(
                {role: {metric: mean_within(own, inside)} for role, own in values.items()},
                num_examples=len(groups),
                shares={metric: int(inside.sum())},
            ),
        )
        for name, inside in members.items()
        if len(members) > 1
    ]


def gap_statistics(values: Mapping[Role, Sums], groups: Sequence[str]) -> dict[Role, dict[str, Statistic]]:
    """By how much the mean of one group is above that of another: of the two that are furthest apart for the teacher, or for
    the first model where there is none. The same two for all, so that a gap that only chance made at the teacher closes
    at a student, and none is made by choosing anew.
    """
    members = _members(groups)
    if len(members) < 2:
        return {role: {} for role in values}
    judge = values.get("teacher", next(iter(values.values())))
    means = {name: float(judge[inside].mean()) for name, inside in members.items()}
    high, low = (members[pick(means, key=lambda name: means[name])] for pick in (max, min))
    if high is low:
        high, low = list(members.values())[:2]
    return {role: {GAP: _difference(mean_within(own, high), mean_within(own, low))} for role, own in values.items()}


def mean_within(values: Sums, inside: NDArray[np.bool_]) -> Statistic:
    """The mean over the examples of a group; 0 in a draw that has none of them."""
    total, count = np.where(inside, values, 0.0), inside.astype(np.float64)
    return lambda draws: quotient(draws @ total, draws @ count)


def _difference(one: Statistic, other: Statistic) -> Statistic:
    def statistic(draws: Draws) -> Sums:
        return np.asarray(one(draws) - other(draws))

    return statistic


def _members(groups: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    names = np.array(groups)
    return {str(name): names == name for name in dict.fromkeys(groups)}
