"""A teacher that runs here, in this process."""

from typing import Literal

import torch
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.config import Config
from stillhouse.core.signals import FactoredLogits
from stillhouse.models.forward import factored_logits


class LocalTeacherConfig(Config):
    """A causal language model that runs in this process."""

    kind: Literal["local"] = "local"
    model: str
    """A hub id, a folder, or a GGUF file."""


class LocalTeacher:
    """A Hugging Face model in evaluation mode, frozen."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @property
    def vocab_size(self) -> int:
        """Rows of the teacher's head."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def signals(self, batch: Batch) -> FactoredLogits:
        """Last hidden states [batch, seq, hidden] and the teacher's head; no gradient."""
        with torch.no_grad():
            return factored_logits(self.model, batch)
