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
