"""What the parts ask of each other."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from stillhouse.core.batch import Batch
from stillhouse.core.signals import Signals, Wanted


@runtime_checkable
class Teacher(Protocol):
    """Anything that can be asked about a batch."""

    @property
    def vocab_size(self) -> int:
        """Tokens or classes that the teacher can predict."""

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """What the teacher says about the batch, at every position of it: all that is wanted, without gradient."""


@runtime_checkable
class DistantTeacher(Teacher, Protocol):
    """A teacher that is asked elsewhere: whoever asks can do something else until the answer is there."""

    def begin(self, batch: Batch, wanted: Wanted) -> Callable[[], Signals]:
        """Ask as by `signals`: what comes back waits for what the teacher says."""
