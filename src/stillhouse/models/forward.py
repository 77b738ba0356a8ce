"""Run a causal language model and return exactly the signal asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.signals import FactoredLogits
from stillhouse.models.anatomy import decoder_config


def factored_logits(model: nn.Module, batch: Batch) -> FactoredLogits:
    """Last hidden states and the head that would turn them into logits, at every position of the batch.

    Documents packed into one row do not see each other: positions that start again at 0 tell the model so. `model` may be
    wrapped for data parallelism: it is called as a whole, so that the wrapper's hooks run, but its head only ever sees one
    position.
    """
    bare = _unwrapped(model)
    with _last_hidden_state(bare) as seen:
        model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, **_shortest_head(bare))
    return head_of(bare, seen[-1])


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


def _shortest_head(model: PreTrainedModel) -> dict[str, int]:
    """Ask for the logits of one position only, where the family lets us."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}


@contextmanager
def _last_hidden_state(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects what the body of the model hands to its head while the block runs."""
    seen: list[Tensor] = []
    handle = model.base_model.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        handle.remove()
