"""How a loss falls with the data: L(D) = E + A / D^a, as far as the points tell it.

Source: Hoffmann et al., 2022, arXiv:2203.15556, equation 2, with the size of the model held fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.results import Interval

FEWEST_BUDGETS = 4
"""Three numbers are fitted: of fewer budgets than four, any three say nothing of how well."""
LEAST_SPAN = 4.0
"""The largest budget over the smallest: within less, a power law and a straight line look alike."""
EXPONENTS = np.geomspace(0.02, 2.5, 160)
DRAWS = 1000
DEVIATIONS = 1.96


@dataclass(frozen=True)
class Measured:
    """A loss after learning from so many tokens, with its 95 % interval; seeds are points of their own."""

    tokens: float
    loss: Interval


@dataclass(frozen=True)
class ScalingLaw:
    """L(D) = floor + amount / D^exponent, each with the 95 % interval of a parametric bootstrap."""

    floor: Interval
    amount: Interval
    exponent: Interval
    draws: NDArray[np.float64]
    """[draws, 3]: what each draw of the points gives."""
    is_open: bool
    """Whether the exponent reaches an end of what was tried, so that the points do not bound it."""

    def at(self, tokens: float) -> Interval:
        """The loss that is to be expected after so many tokens."""
        found = self.draws[:, 0] + self.draws[:, 1] * tokens ** -self.draws[:, 2]
        low, high = np.quantile(found, (0.025, 0.975))
        return Interval(self.floor.value + self.amount.value * tokens**-self.exponent.value, float(low), float(high))


def why_no_law(points: Sequence[Measured]) -> str:
    """Why no law can be fitted, in words; empty where one can."""
    budgets = sorted({point.tokens for point in points})
    if len(budgets) < FEWEST_BUDGETS:
        return (
            f"a law with three unknowns needs at least {FEWEST_BUDGETS} budgets, and there "
            f"{'is' if len(budgets) == 1 else 'are'} {len(budgets)}"
        )
    if budgets[-1] < LEAST_SPAN * budgets[0]:
        return (
            f"the largest budget is only {budgets[-1] / budgets[0]:.1f} times the smallest: within less than {LEAST_SPAN:g} "
            "times, a power law cannot be told from a straight line"
        )
    means = [np.mean([point.loss.value for point in points if point.tokens == budget]) for budget in budgets]
    if means[-1] >= means[0]:
        return "the loss does not fall from the smallest budget to the largest"
    return ""


def scaling_law(points: Sequence[Measured], *, seed: int = 0) -> ScalingLaw:
    """Least squares, weighted by each point's interval, and the same again for points drawn from those intervals.

    Raises:
        ValueError: for points that `why_no_law` refuses.
    """
    if why := why_no_law(points):
        raise ValueError(f"no law is fitted: {why}.")
    tokens = np.array([point.tokens for point in points])
    losses = np.array([point.loss.value for point in points])
    errors = _errors(points, losses)
    fitted = _fit(tokens, losses[None], 1 / errors)[0]
    drawn = losses + errors * np.random.default_rng(seed).standard_normal((DRAWS, len(points)))
    draws = _fit(tokens, drawn, 1 / errors)
    floor, amount, exponent = (
        Interval(float(value), *(float(bound) for bound in np.quantile(column, (0.025, 0.975))))
        for value, column in zip(fitted, draws.T, strict=True)
    )
    is_open = bool(exponent.low <= EXPONENTS[0] or exponent.high >= EXPONENTS[-1])
    return ScalingLaw(floor, amount, exponent, draws, is_open)


def _errors(points: Sequence[Measured], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """One standard error a point: from its interval, or from how far seeds of one budget lie apart, whichever is more."""
    own = np.array([(point.loss.high - point.loss.low) / (2 * DEVIATIONS) for point in points])
    budgets = np.array([point.tokens for point in points])
    apart = np.zeros(len(points))
    for budget in set(budgets.tolist()):
        here = budgets == budget
        if here.sum() > 1:
            apart[here] = losses[here].std(ddof=1)
    smallest = max(1e-9, 1e-4 * float(np.ptp(losses)))  # a point without any error would be all that counts
    return np.maximum(np.maximum(own, apart), smallest)


def _fit(tokens: NDArray[np.float64], losses: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draws, points] in, [draws, 3] out: floor, amount, exponent. For each exponent the other two are a straight line's, with
    neither below 0; the exponent with the smallest error wins."""
    found, least = np.zeros((len(losses), 3)), np.full(len(losses), np.inf)
    squares = weights**2
    for exponent in EXPONENTS:
        powers = tokens**-exponent
        mean_power = (squares * powers).sum() / squares.sum()
        mean_loss = (losses * squares).sum(-1) / squares.sum()  # [draws]
        spread = (squares * (powers - mean_power) ** 2).sum()
        slope = ((losses - mean_loss[:, None]) * (squares * (powers - mean_power))).sum(-1) / spread
        amount = np.maximum(0.0, slope)
        floor = mean_loss - amount * mean_power
        through_zero = (losses * squares * powers).sum(-1) / (squares * powers**2).sum()
        amount = np.where(floor < 0, through_zero, amount)
        floor = np.maximum(0.0, floor)
        error = (squares * (losses - floor[:, None] - amount[:, None] * powers) ** 2).sum(-1)
        better = error < least
        least = np.where(better, error, least)
        found[better] = np.stack([floor, amount, np.full(len(losses), exponent)], axis=-1)[better]
    return found
