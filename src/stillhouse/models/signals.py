"""Run a model once and return exactly the signals asked for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch, LabelledBatch, RankedBatch, one_document_a_row
from stillhouse.core.errors import ModelError
from stillhouse.core.signals import Attention, DenseLogits, FactoredLogits, Pooling, Signals, Wanted
from stillhouse.models.adapters import weight_in_use
from stillhouse.models.anatomy import text_config, understood
from stillhouse.models.attention import recording
from stillhouse.models.compiled import compiled_layers
from stillhouse.models.isolation import evaluating, isolates_documents, padded_like
from stillhouse.models.precision import forward_pass

CHECKED_TOKENS = 8
"""Tokens on which a model's own head is held against what we take it for: few, as logits are large."""

_HEAD_KNOWN: WeakSet[nn.Module] = WeakSet()
"""Models whose own logits were once found to be what `head_of` says."""


def read_signals(model: nn.Module, batch: Batch, wanted: Wanted) -> Signals:
    """All that is wanted, at every position of the batch, from one forward pass, on the model's device.

    Documents packed into one row do not see each other: positions that start again at 0 tell the model so. A family that
    does not heed them, as one with recurrent layers, is found out by a trial and given one document a row: slower, and as
    right. `model` may be wrapped for data parallelism: it is called as a whole, so that the wrapper's hooks run, but its
    head is never multiplied out. Attention is read only where each row holds one document.

    Raises:
        ModelError: if the model does more between its head and its logits than scale and cap them, or if its attention
            cannot be read.
    """
    bare = unwrapped(model)
    # Asked at the first call even if nothing is packed: of several ranks, all must run the trial together, or none.
    packs = bare.can_generate() and isolates_documents(bare, lambda ids, at: _head_input(model, ids, at))
    laid_out = batch if packs else one_document_a_row(batch)
    read = laid_out.to(bare.device)
    heard = _hear(model, read, wanted, _inputs(bare, read, positions=packs))

    def in_place(states: Tensor) -> Tensor:
        return states if laid_out is batch else padded_like(batch, states[read.real])

    logits = _logits(bare, heard, in_place) if wanted.logits else None
    if isinstance(batch, RankedBatch) and isinstance(logits, DenseLogits):
        logits = DenseLogits(batch.ranked(logits.values))
    return Signals(
        logits=logits,
        hidden_states={layer: in_place(heard.hidden_state(layer)) for layer in sorted(wanted.hidden_states)},
        attentions={layer: attention.to(heard.dtype) for layer, attention in heard.attentions.items()},
        embeddings=None if wanted.pooling is None else pooled(heard.last_hidden, read, wanted.pooling),
    )


def factored_logits(model: nn.Module, batch: Batch) -> FactoredLogits:
    """A language model's last hidden states and the head that would turn them into logits.

    Raises:
        ModelError: as `read_signals`.
    """
    logits = read_signals(model, batch, Wanted(logits=True)).logits
    assert isinstance(logits, FactoredLogits), f"{type(model).__name__} has no language modelling head"
    return logits


def pooled(hidden: Float[Tensor, "batch seq hidden"], batch: Batch, pooling: Pooling) -> Float[Tensor, "batch hidden"]:
    """One embedding a row, of its real tokens alone; not normalised."""
    lengths = batch.real.sum(-1)
    match pooling:
        case "mean":
            return (hidden * batch.real[..., None]).sum(1) / lengths[:, None]
        case "cls":
            return hidden[:, 0]
        case "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


def head_of(model: PreTrainedModel, hidden: Float[Tensor, "*positions hidden"]) -> FactoredLogits:
    """The model's head applied, in thought, to what it is given: with its bias, scale and softcap, and its adapter."""
    head, config = model.get_output_embeddings(), text_config(model)
    # Granite divides its logits, Cohere multiplies them, Gemma 2 caps them.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return FactoredLogits(hidden, weight_in_use(head), getattr(head, "bias", None), scale, softcap)


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model itself, whatever was put around it: for data parallelism, by peft, or to carry projections."""
    while not isinstance(model, PreTrainedModel):
        inner = model.get_base_model() if isinstance(model, PeftModel) else getattr(model, "module", None)
        assert isinstance(inner, nn.Module), f"there is no model inside {type(model).__name__}"
        model = inner
    return model


@dataclass
class _Heard:
    """What came by during one forward pass, to be handed on in the type of the model's weights."""

    dtype: torch.dtype
    output: Any = None
    head_inputs: list[Tensor] = field(default_factory=list)
    attentions: Mapping[int, Attention] = field(default_factory=dict)

    def hidden_state(self, layer: int) -> Tensor:
        state: Tensor = self.output.hidden_states[layer]
        return state.to(self.dtype)

    @property
    def last_hidden(self) -> Tensor:
        last: Tensor | None = getattr(self.output, "last_hidden_state", None)
        return self.hidden_state(-1) if last is None else last.to(self.dtype)


def _inputs(bare: PreTrainedModel, batch: Batch, *, positions: bool) -> dict[str, Any]:
    """The batch as this model's arguments."""
    if bare.can_generate():  # a causal model never sees the padding on its right
        return understood(bare, input_ids=batch.ids, position_ids=batch.positions if positions else None)
    segments = batch.segments if isinstance(batch, LabelledBatch) else None
    return understood(bare, input_ids=batch.ids, attention_mask=batch.real.long(), token_type_ids=segments)


def _hear(model: nn.Module, batch: Batch, wanted: Wanted, inputs: Mapping[str, Any]) -> _Heard:
    bare = unwrapped(model)
    heard = _Heard(bare.dtype)
    if wanted.logits and bare.get_output_embeddings() is not None and bare not in _HEAD_KNOWN:
        _check_head(model, inputs)
        _HEAD_KNOWN.add(bare)
    needs_states = bool(wanted.hidden_states or wanted.pooling)
    with ExitStack() as stack:
        heard.head_inputs = stack.enter_context(_head_at_rest(bare))
        if wanted.attentions:
            assert not (batch.documents > 0).any(), "attention is read with one document a row"
            heard.attentions = stack.enter_context(recording(bare, wanted.attentions, batch))
        else:
            stack.enter_context(compiled_layers(bare))
        stack.enter_context(forward_pass(bare.device))
        heard.output = model(**inputs, **understood(bare, use_cache=False), output_hidden_states=needs_states)
    return heard


def _head_input(model: nn.Module, ids: Tensor, positions: Tensor | None) -> Float[Tensor, "batch seq hidden"]:
    """What a causal model hands to its head."""
    bare = unwrapped(model)
    with _head_at_rest(bare) as inputs:
        model(input_ids=ids, **understood(bare, position_ids=positions, use_cache=False))
    return inputs[-1]


@contextmanager
def _head_at_rest(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects what the head is given while the block runs; the head itself multiplies nothing."""
    head = model.get_output_embeddings()
    given: list[Tensor] = []
    if head is None:
        yield given
        return

    def keep(hidden: Tensor, *_args: Any, **_options: Any) -> Tensor:
        given.append(hidden)
        return hidden[..., :1].clone()  # a view would not tell FSDP's hooks when its gradient comes

    head.forward = keep  # on the instance, where hooks and wrappers still find it
    try:
        yield given
    finally:
        del head.forward


def _logits(bare: PreTrainedModel, heard: _Heard, in_place: Callable[[Tensor], Tensor]) -> FactoredLogits | DenseLogits:
    """The model's answer: in factors where it has a head over a vocabulary, as it is for a classifier."""
    if bare.get_output_embeddings() is None:
        return DenseLogits(heard.output.logits.to(heard.dtype))
    return head_of(bare, in_place(heard.head_inputs[-1].to(heard.dtype)))


@torch.no_grad()
def _check_head(wrapped: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse a model whose own logits are not what `head_of` would make of what its head is given."""
    given: list[Tensor] = []
    model = unwrapped(wrapped)
    few = {name: value[:1, :CHECKED_TOKENS] for name, value in inputs.items()}
    listening = model.get_output_embeddings().register_forward_pre_hook(lambda _head, args: given.append(args[0]))
    try:
        with evaluating(model):
            own = wrapped(**few, **understood(model, use_cache=False)).logits.float()
    finally:
        listening.remove()
    name = type(model).__name__
    if not given:
        raise ModelError(f"{name} makes its logits without its own head, so what the head is given cannot be read.")
    ours = head_of(model, given[-1]).dense()
    tolerance = 1e-4 if model.dtype.itemsize >= 4 else 3e-2  # of the largest logit: a bfloat16 has 8 bits
    if own.shape != ours.shape or (own - ours).abs().max() > tolerance * own.abs().max():
        raise ModelError(
            f"{name} makes its logits from its hidden states in a way that stillhouse does not know: beyond a linear "
            "head with bias, scale and softcap. It can be neither teacher nor student yet."
        )
