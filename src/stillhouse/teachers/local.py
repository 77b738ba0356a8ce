"""A teacher that runs here, in this process."""

from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.config import Config
from stillhouse.core.signals import Signals, Wanted
from stillhouse.models.precision import Precision
from stillhouse.models.signals import read_signals


class LocalTeacherConfig(Config):
    """A model that runs in this process."""

    kind: Literal["local"] = "local"
    model: str
    """A hub id, a folder, or a GGUF file."""
    reference: str | None = None
    """What the model was before it was tuned to preferences, with the same tokenizer: how far it has moved from there on an
    answer is what it thinks of that. For data of kind preferences."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Who runs it while it writes and labels, before a student learns: vLLM has to be installed. What is measured of it, and
    made of its weights, is by transformers."""
    precision: Precision = "float32"
    """Of weights and sums where vLLM runs it. In bfloat16 a log-probability near -10 is good to 0.03 nats, in half the room."""
    tensor_parallel: PositiveInt = 1
    """GPUs that share its weights where vLLM runs it; of a cluster each actor takes so many."""

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> "LocalTeacherConfig":
        for name, usual in {"precision": "float32", "tensor_parallel": 1}.items():
            if self.engine != "vllm" and getattr(self, name) != usual:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, which says how vLLM runs the teacher, but engine is {self.engine}. "
                    f"Leave {name} out, or use engine: vllm."
                )
        return self


class LocalTeacher:
    """A Hugging Face model in evaluation mode, frozen."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @property
    def vocab_size(self) -> int:
        """Rows of the teacher's head: tokens or classes."""
        return head_rows(self.model)

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """All that is wanted, at every position of the batch; no gradient."""
        with torch.no_grad():
            return read_signals(self.model, batch, wanted)


def head_rows(model: PreTrainedModel) -> int:
    """Tokens or classes that a model's head can predict."""
    head: Any = model.get_output_embeddings()
    rows: Any = model.config.num_labels if head is None else head.weight.shape[0]
    return int(rows)
