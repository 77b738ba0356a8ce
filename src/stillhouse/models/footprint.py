"""What a model keeps of a batch until its gradient is known, by its shapes alone: no weight is read and nothing is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.models.anatomy import num_layers, text_config, understood

TENSORS_OF_HIDDEN, TENSORS_OF_INTERMEDIATE = 16, 3
"""Of a layer, a token: what a usual decoder keeps, in widths of its two kinds. For families that cannot run without weights."""


def saved_bytes(model: PreTrainedModel, *, rows: int, row_tokens: int, recomputes: bool = False) -> int:
    """Bytes that the forward pass of a model on the meta device keeps for the backward pass, weights left out.

    Attention is counted as one kernel: queries, keys, values, result and a number a query; no weight of attention, save where a
    CPU must keep it. The head is left out, as losses never hold all logits. Of layers that are computed again, the input of
    each is kept, and of one at a time the rest.
    """
    kept = _kept_bytes(model, rows=rows, row_tokens=row_tokens)
    if not recomputes:
        return kept
    inputs = num_layers(model) * rows * row_tokens * text_config(model).hidden_size * model.dtype.itemsize
    return min(kept, inputs + kept // num_layers(model))


def _kept_bytes(model: PreTrainedModel, *, rows: int, row_tokens: int) -> int:
    kept: dict[int, tuple[Tensor, int]] = {}
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (tensor, storage.nbytes())  # held, so that no other storage takes its place
        return tensor

    body: Any = model.base_model.train()
    ids = torch.zeros(rows, row_tokens, dtype=torch.long, device="meta")
    mask = torch.ones(rows, 1, row_tokens, row_tokens, dtype=torch.bool, device="meta")
    inputs = understood(body, attention_mask=mask, use_cache=False)
    try:
        with torch.device("meta"), _attention_in_one(), torch.autograd.graph.saved_tensors_hooks(keep, lambda it: it):
            body(input_ids=ids, **inputs)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):  # a family that asks for numbers on its way
        return _by_formula(model, tokens=rows * row_tokens)
    return sum(size for _, size in kept.values())


def _by_formula(model: PreTrainedModel, *, tokens: int) -> int:
    settings = text_config(model)
    wide = int(getattr(settings, "intermediate_size", None) or 4 * settings.hidden_size)
    per_layer = TENSORS_OF_HIDDEN * settings.hidden_size + TENSORS_OF_INTERMEDIATE * wide
    return tokens * num_layers(model) * per_layer * model.dtype.itemsize


class _Attention(torch.autograd.Function):
    """Keeps what fused attention keeps."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, num_weights: int) -> Tensor:
        """Nothing is computed: there are no numbers."""
        out = queries.new_empty(*queries.shape[:-1], values.shape[-1])
        weights = [queries.new_empty(*queries.shape[:-1], keys.shape[-2]) for _ in range(num_weights)]
        ctx.save_for_backward(queries, keys, values, out, queries.new_empty(queries.shape[:-1]), *weights)
        return out


def _fused(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **_options: Any
) -> Tensor:
    # On a CPU there is no fused attention with dropout: its weights, what is left of them, and what was dropped are kept.
    apart = dropout_p > 0 and not torch.cuda.is_available()
    return _Attention.apply(query, key, value, 3 if apart else 0)


@contextmanager
def _attention_in_one() -> Iterator[None]:
    """On the meta device torch would take attention apart, and keep what no real device keeps."""
    with patch.object(nn.functional, "scaled_dot_product_attention", _fused):
        yield
