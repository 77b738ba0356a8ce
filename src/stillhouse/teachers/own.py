"""A teacher that is the student itself, without what it learns: no second copy is held."""

from typing import Literal

import torch
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.config import Config
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Signals, Wanted
from stillhouse.models.adapters import adapter_config, adapter_off
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import read_signals
from stillhouse.teachers.local import head_rows


class SelfTeacherConfig(Config):
    """The student with its adapter off."""

    kind: Literal["self"] = "self"
    model: str = ""
    """Filled in: the student's own."""

    @property
    def reference(self) -> None:
        """A teacher that is the student itself was nothing else before."""
        return None


class SelfTeacher:
    """A student's frozen weights, answering without its adapter and without dropout.

    Raises:
        ModelError: if the student carries no adapter: it would be compared with what it becomes.
    """

    def __init__(self, student: PreTrainedModel) -> None:
        if adapter_config(student) is None:
            raise ModelError(
                "a student can be its own teacher only if it carries an adapter. Give it one: student.lora."
            )
        self.model = student

    @property
    def vocab_size(self) -> int:
        """Rows of the head: tokens or classes."""
        return head_rows(self.model)

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """All that is wanted, at every position of the batch; no gradient, and the student is left as it was."""
        with torch.no_grad(), evaluating(self.model), adapter_off(self.model):
            return read_signals(self.model, batch, wanted)
