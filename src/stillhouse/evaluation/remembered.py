"""What was measured of a model before, and need not be measured again."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.results import Role

Measured = Mapping[str, NDArray[np.float64]]
"""Numbers by name, such as sums over documents."""

Remember = Callable[[str, Role, Callable[[], Measured]], Measured]
"""What was measured, of which model, and how to measure it: gives what it found before, or measures and keeps it."""


def anew(_what: str, _role: Role, work: Callable[[], Measured]) -> Measured:
    """Remembers nothing."""
    return work()
