"""Two models on the same examples: by how much they differ, what share is kept, and which answers changed."""

from collections.abc import Collection, Mapping
from math import comb
from types import MappingProxyType

import numpy as np

from stillhouse.core.measures import Scored
from stillhouse.core.results import Flips, Interval, Role
from stillhouse.evaluation.intervals import Sampled, Statistic, Sums, bootstrapped, wilson


def scored(
    statistics: Mapping[Role, Mapping[str, Statistic]],
    *,
    num_examples: int,
    hits: Mapping[Role, Sums] | None = None,
    kept: Collection[str] | None = None,
    shares: Mapping[str, int] = MappingProxyType({}),
    chance: Mapping[str, float] = MappingProxyType({}),
) -> list[Scored]:
    """Every model over the same draws of the examples, beside the teacher where there is one.

    `shares` names metrics that are a yes or no of so many examples: where all of them say the same, no draw differs from
    another, and the interval is Wilson's. `hits` are 1 for a right answer and 0 for a wrong one, example by example. A share
    kept is told of the metrics in `kept`, or of all: of one where less is better, or 0 is not worth nothing, it says nothing;
    nor does it where the teacher is not surely above what `chance` gives, 0 if that is not said.
    """
    named = {(role, name): found for role, own in statistics.items() for name, found in own.items()}
    sampled = bootstrapped(named, set_sizes=[num_examples])
    return [
        Scored(
            role,
            {name: _interval(sampled[role, name], shares.get(name, 0)) for name in own},
            change={
                name: sampled[role, name].minus(sampled["teacher", name]).interval()
                for name in _beside_teacher(statistics, role)
            },
            retained={
                name: sampled[role, name].share_of(teacher).interval()
                for name in _beside_teacher(statistics, role)
                if (kept is None or name in kept)
                and is_worth_keeping(teacher := sampled["teacher", name], chance.get(name, 0.0))
            },
            flips=None if hits is None or role == "teacher" or "teacher" not in hits else flips(**_sides(hits, role)),
        )
        for role, own in statistics.items()
    ]


def _interval(found: Sampled, number: int) -> Interval:
    return wilson(round(found.value * number), number) if number > 1 and found.value in (0, 1) else found.interval()


def _beside_teacher(statistics: Mapping[Role, Mapping[str, Statistic]], role: Role) -> list[str]:
    """What this model and the teacher were both measured by."""
    theirs = {} if role == "teacher" else statistics.get("teacher", {})
    return [name for name in statistics[role] if name in theirs]


def _sides(hits: Mapping[Role, Sums], role: Role) -> dict[str, Sums]:
    return {"teacher": hits["teacher"], "model": hits[role]}


def is_worth_keeping(teacher: Sampled, chance: float = 0.0) -> bool:
    """Whether it is sure that the teacher has anything of which a share can be kept."""
    return bool(teacher.interval().low > chance)


def flips(*, teacher: Sums, model: Sums) -> Flips:
    """Which answers changed; each side is 1 where it is right and 0 where it is wrong, question by question."""
    theirs, ours = np.asarray(teacher) > 0.5, np.asarray(model) > 0.5
    both, lost, won, neither = (
        int(np.sum(some)) for some in (theirs & ours, theirs & ~ours, ~theirs & ours, ~theirs & ~ours)
    )
    return Flips(both, lost, won, neither, p_value=mcnemar(lost=lost, won=won))


def mcnemar(*, lost: int, won: int) -> float:
    """The exact two-sided p-value of McNemar's test: 1 where as many went either way, or none went any.

    Source: McNemar, 1947, Psychometrika 12, 153-157, with the binomial distribution in the place of its approximation.
    """
    changed = lost + won
    fewer = sum(comb(changed, count) for count in range(min(lost, won) + 1))
    return min(1.0, 2 * fewer / 2**changed)


def cohens_kappa(ours: Sums, theirs: Sums) -> float:
    """Agreement of two models' answers beyond chance, 1 for the same; 0 where nobody's ever varies."""
    _, codes = np.unique([ours, theirs], return_inverse=True)
    one, other = codes.reshape(2, -1)
    counts = [np.bincount(side, minlength=int(codes.max()) + 1) / len(one) for side in (one, other)]
    observed, expected = float(np.mean(one == other)), float(counts[0] @ counts[1])
    return 0.0 if expected == 1 else (observed - expected) / (1 - expected)
