"""Read what attention is made of, in the middle of a forward pass."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Attention

NAME = "stillhouse_recorded"
"""What this way of computing attention is called among those of transformers."""


@dataclass
class _Record:
    """Of which layers to keep what passes by, and what was kept."""

    layers: Collection[int]
    same_document: Bool[Tensor, "batch seq seq"]
    passed: int = 0
    kept: dict[int, Attention] = field(default_factory=dict)


_RECORD: ContextVar[_Record] = ContextVar("record")


@contextmanager
def recording(model: PreTrainedModel, layers: Collection[int], batch: Batch) -> Iterator[dict[int, Attention]]:
    """Within the block, the model computes attention the explicit way and what it is made of is collected, by layer.

    The batch has one document a row. Flash and SDPA kernels never build the scores, so they are exchanged for the
    family's own explicit form while the block runs: slower, and the same to rounding.

    Raises:
        ModelError: if the family computes attention in a way of its own, that nobody can listen to.
    """
    real = batch.real
    record = _Record(layers, real[:, :, None] & real[:, None, :])
    with _listening(model, record):
        yield record.kept
    if not set(layers) <= record.kept.keys():
        raise ModelError(
            f"{type(model).__name__} computed attention {record.passed} times where layers {sorted(layers)} were to be read: "
            "its attention cannot be listened to. Choose an objective on hidden states for this family."
        )


def computed_again(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around a layer's forward pass, and around the same pass when it is done once more for the gradient: attention is then
    computed in the same way, also when nobody listens any longer, and nothing is collected twice."""
    record = _RECORD.get(None)
    again = nullcontext() if record is None else _listening(model, _Record((), record.same_document))
    return nullcontext(), again


@contextmanager
def _listening(model: PreTrainedModel, record: _Record) -> Iterator[None]:
    before = model.config._attn_implementation
    token = _RECORD.set(record)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _RECORD.reset(token)


def _recorded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function as transformers calls it, which keeps its arguments."""
    record = _RECORD.get()
    record.passed += 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if record.passed in record.layers:
        allowed = record.same_document & _seen(module, query, attention_mask)
        record.kept[record.passed] = Attention(query, key, value, allowed, scaling, options.get("softcap"))
    output: tuple[Tensor, Tensor | None] = _explicit(module)(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return output


def _seen(module: nn.Module, query: Tensor, attention_mask: Tensor | None) -> Bool[Tensor, "#batch seq seq"]:
    """What the family's own mask lets each query see."""
    if attention_mask is not None:
        return (attention_mask > torch.finfo(attention_mask.dtype).min / 2)[:, 0]
    seq = query.shape[2]
    everything = torch.ones(1, seq, seq, dtype=torch.bool, device=query.device)
    return everything.tril() if getattr(module, "is_causal", False) else everything


def _explicit(module: nn.Module) -> Callable[..., Any]:
    """The family's own explicit attention: it alone knows about caps, sinks and biases."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", ALL_ATTENTION_FUNCTIONS["sdpa"])


ALL_ATTENTION_FUNCTIONS.register(NAME, _recorded_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
