"""What the parts ask of each other."""

from typing import Protocol, runtime_checkable

from stillhouse.core.batch import Batch
from stillhouse.core.signals import FactoredLogits


@runtime_checkable
class Teacher(Protocol):
    """Anything that can say how likely each next token is."""

    @property
    def vocab_size(self) -> int:
        """Tokens that the teacher can predict."""

    def signals(self, batch: Batch) -> FactoredLogits:
        """What the teacher says at every position of the batch: hidden [batch, seq, hidden] and a head."""
