"""Errors that a user can mend. Each message says what was expected, what came, and what to do."""

from collections.abc import Sequence


class StillhouseError(ValueError):
    """The user's mistake or the machine's: shown as one line, exit code 2, never as a traceback."""


class RecipeError(StillhouseError):
    """One or more faults in a recipe, all reported at once."""

    def __init__(self, faults: Sequence[str], *, source: str) -> None:
        self.faults = list(faults)
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  {fault}" for fault in self.faults)]))


class DataError(StillhouseError):
    """A data file that is missing, empty or not what it claims to be."""


class ModelError(StillhouseError):
    """A model that cannot be found, read, or used for what was asked."""


class StaleError(StillhouseError):
    """An output that was made from something other than what is asked for now."""


class RunError(StillhouseError):
    """A run folder that cannot be used: another run's, or in use."""
