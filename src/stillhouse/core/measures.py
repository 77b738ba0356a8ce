"""What is measured beside an evaluation's headline: one form for whoever measures, and for every report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stillhouse.core.results import Interval, Role


@dataclass(frozen=True)
class Flips:
    """What became of answers that are right or wrong: the teacher's beside those of a model to the same questions."""

    both_right: int
    lost: int
    """Right by the teacher, wrong by the model."""
    won: int
    """Wrong by the teacher, right by the model."""
    both_wrong: int
    p_value: float
    """Exact McNemar: how often a change as lopsided would come about if each that changed had fallen like a coin."""

    @property
    def changed(self) -> int:
        """Answers that the two do not have in common, whichever is right: what an equal accuracy hides."""
        return self.lost + self.won


@dataclass(frozen=True)
class Scored:
    """One model's numbers on the examples that all models answered."""

    role: Role
    metrics: Mapping[str, Interval]
    change: Mapping[str, Interval] = field(default_factory=dict)
    """The model's less the teacher's, over the same draws of examples; the teacher has none."""
    retained: Mapping[str, Interval] = field(default_factory=dict)
    """As shares of the teacher's, over the same draws; left out where the teacher may have nothing to keep."""
    flips: Flips | None = None
    """Beside the teacher, where each answer is right or wrong."""
