"""Numbers that move as training goes on: temperatures, weights, and objectives' own parameters, over progress in [0, 1]."""

import math
from dataclasses import dataclass
from typing import Literal

RampShape = Literal["linear", "cosine", "step"]


@dataclass(frozen=True)
class Ramp:
    """From `start` to `end`, reached when `until` of the training is done, and kept from there on.

    `linear` moves evenly, `cosine` slowly at both ends, `step` not at all before it arrives.

    Raises: ValueError unless both ends are finite and 0 < until <= 1.
    """

    start: float
    end: float
    shape: RampShape = "linear"
    until: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"A ramp goes between finite numbers, but start is {self.start} and end {self.end}.")
        if not 0 < self.until <= 1:
            raise ValueError(
                f"until is the share of the training at which a ramp arrives, above 0 and up to 1, but it is {self.until}."
            )

    def at(self, progress: float) -> float:
        """The number when this share of the training is done; exactly `start` at 0, exactly `end` from `until` on."""
        assert 0 <= progress <= 1, f"progress is a share, and is {progress}"
        share = self._share(min(progress / self.until, 1.0))
        return (1 - share) * self.start + share * self.end

    def _share(self, travelled: float) -> float:
        match self.shape:
            case "linear":
                return travelled
            case "cosine":
                return (1 - math.cos(math.pi * travelled)) / 2
            case "step":
                return float(travelled == 1)


@dataclass(frozen=True)
class Pace:
    """How far an adaptive ramp has come, and what it remembers of the value that it follows."""

    number: float
    trend: float = 0.0
    """By which share of itself the value has lately fallen in a step."""
    last: float | None = None
    """The value a step ago; None before the first."""


@dataclass(frozen=True)
class AdaptiveRamp:
    """Up from `start` to `end`, both shares: as far as a linear ramp at least, and farther the faster a value falls.

    A step adds up to `rate` of what lies between the number and 1, half of it while the value stays as it is: with an end
    of 1, a training of fewer than 1 / rate steps is linear. `momentum` is how much of the trend a step keeps.

    Raises: ValueError unless 0 <= start <= end <= 1, 0 < until <= 1, 0 <= rate <= 1 and 0 <= momentum < 1.
    Source: Shing et al., 2025, arXiv:2501.16937.
    """

    start: float
    end: float
    until: float = 1.0
    rate: float = 5e-4
    momentum: float = 0.99

    def __post_init__(self) -> None:
        _ = self._linear
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"An adaptive ramp raises a share, so it needs 0 <= start <= end <= 1, but start is {self.start} and end "
                f"{self.end}."
            )
        if not (0 <= self.rate <= 1 and 0 <= self.momentum < 1):
            raise ValueError(
                f"An adaptive ramp needs a rate in [0, 1] and a momentum in [0, 1), but they are {self.rate} and "
                f"{self.momentum}. 0.0005 and 0.99 are the usual choice."
            )

    @property
    def _linear(self) -> Ramp:
        return Ramp(self.start, self.end, until=self.until)

    def at(self, progress: float) -> float:
        """The least that it may be when this share of the training is done."""
        return self._linear.at(progress)

    def after(self, pace: Pace, *, value: float, progress: float) -> Pace:
        """Where it stands after one more step, in which the value followed was `value`: never lower than before."""
        least = max(pace.number, self.at(progress))
        if not math.isfinite(value):  # says nothing of how fast it falls
            return Pace(least, pace.trend, pace.last)
        if pace.last is None:
            return Pace(least, pace.trend, value)
        fallen = (pace.last - value) / (max(pace.last, 0.0) + 1e-15)  # a divergence is below 0 by rounding alone
        trend = self.momentum * pace.trend + (1 - self.momentum) * fallen
        gained = self.rate * _sigmoid(trend) * (1 - pace.number)
        return Pace(min(self.end, max(least, pace.number + gained)), trend, value)


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), for any x: no exponential that overflows."""
    return (1 + math.tanh(x / 2)) / 2
