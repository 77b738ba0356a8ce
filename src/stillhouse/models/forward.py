"""Run a causal language model and return exactly the signal asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import FactoredLogits
from stillhouse.models.anatomy import decoder_config, understood
from stillhouse.models.isolation import isolates_documents, one_document_a_row, padded_like

_HEAD_KNOWN: WeakSet[nn.Module] = WeakSet()
"""Models whose own logits were once found to be what `head_of` says."""


def factored_logits(model: nn.Module, batch: Batch) -> FactoredLogits:
    """Last hidden states and the head that would turn them into logits, at every position of the batch.

    Documents packed into one row do not see each other: positions that start again at 0 tell the model so. A family that
    does not heed them, as one with recurrent layers, is found out by a trial and given one document a row: slower, and as
    right. `model` may be wrapped for data parallelism: it is called as a whole, so that the wrapper's hooks run, but its
    head only ever sees one position.

    Raises:
        ModelError: if the model does more between hidden states and logits than a head, its scale and its cap.
    """
    bare = _unwrapped(model)
    # Asked at the first call even if nothing is packed: of several ranks, all must run the trial together, or none.
    isolates = isolates_documents(bare, lambda ids, positions: _last_hidden(model, ids, positions))
    if not isolates and (batch.documents > 0).any():
        ids, places = one_document_a_row(batch)
        return head_of(bare, padded_like(batch, _last_hidden(model, ids, None)[places]))
    return head_of(bare, _last_hidden(model, batch.ids, batch.positions))


def head_of(model: PreTrainedModel, hidden: Float[Tensor, "*positions hidden"]) -> FactoredLogits:
    """The model's head applied, in thought, to these hidden states: with its bias, scale and softcap."""
    head, config = model.get_output_embeddings(), decoder_config(model)
    # Granite divides its logits, Cohere multiplies them, Gemma 2 caps them.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return FactoredLogits(hidden, head.weight, getattr(head, "bias", None), scale, softcap)


def _unwrapped(model: nn.Module) -> PreTrainedModel:
    inner = getattr(model, "module", model)
    assert isinstance(inner, PreTrainedModel)
    return inner


def _last_hidden(
    model: nn.Module, ids: Int[Tensor, "batch seq"], positions: Int[Tensor, "batch seq"] | None
) -> Float[Tensor, "batch seq hidden"]:
    """What the model's body hands to its head."""
    bare = _unwrapped(model)
    with _hearing_the_body(bare) as heard:
        output = model(input_ids=ids, use_cache=False, **understood(bare, position_ids=positions, logits_to_keep=1))
    if bare not in _HEAD_KNOWN:
        _check_head(bare, heard, output.logits)
        _HEAD_KNOWN.add(bare)
    return heard[-1]


@contextmanager
def _hearing_the_body(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects what the body of the model hands to its head while the block runs; the last is the outermost."""
    heard: list[Tensor] = []
    body: Any = model.base_model
    bodies = {body, body.get_decoder()} - {model}  # most models call their body whole, OPT only the decoder inside it
    handles = [body.register_forward_hook(lambda _body, _inputs, output: heard.append(output[0])) for body in bodies]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _check_head(model: PreTrainedModel, heard: list[Tensor], logits: Float[Tensor, "batch some vocab"]) -> None:
    """Refuse a model whose own logits at the last position are not what `head_of` would make of its hidden states."""
    name = type(model).__name__
    if not heard:
        raise ModelError(f"{name} runs without calling its own body, so its hidden states cannot be read.")
    own, ours = logits[:, -1].float(), head_of(model, heard[-1][:, -1]).dense()
    tolerance = 1e-4 if logits.itemsize >= 4 else 3e-2  # of the largest logit: a bfloat16 has 8 bits
    if own.shape != ours.shape or (own - ours).abs().max() > tolerance * own.abs().max():
        raise ModelError(
            f"{name} makes its logits from its hidden states in a way that stillhouse does not know: beyond a linear "
            "head with bias, scale and softcap. It can be neither teacher nor student yet."
        )
