"""A model acts as if some of its layers were not there, while nothing of it is copied or changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import few_ids, layers_of, understood

_NUM_EXTRAS: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


@contextmanager
def only(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """Within the block, the model acts as if it had only the layers `kept`.

    Raises:
        ModelError: if its layers hand on more than hidden states, so that none can be left out.
    """
    layers = layers_of(model)
    whole = list(layers)
    left_out = set(range(len(whole))) - set(kept)
    extras = _num_extras(model) if left_out else None
    for index in left_out:
        layers[index] = _Skipped(whole[index], extras)
    try:
        yield
    finally:
        for index, block in enumerate(whole):
            layers[index] = block


def handed_on(block: nn.Module, output: Any) -> Tensor:
    """The hidden states in what a block gives: alone, or first of a tuple that holds nothing else.

    Raises:
        ModelError: if it gives anything more.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, tuple) or any(extra is not None for extra in output[1:]):
        raise ModelError(f"{type(block).__name__} hands on more than hidden states, so it cannot be left out.")
    return output[0]


def _num_extras(model: PreTrainedModel) -> int | None:
    """How many places beside hidden states the blocks' tuples have; None if they give hidden states alone."""
    if model not in _NUM_EXTRAS:
        _NUM_EXTRAS[model] = _counted_extras(model)
    return _NUM_EXTRAS[model]


@torch.no_grad()
def _counted_extras(model: PreTrainedModel) -> int | None:
    given: list[Any] = []
    block = layers_of(model)[0]
    listening = block.register_forward_hook(lambda _block, _args, output: given.append(output))
    try:
        model(input_ids=few_ids(model), **understood(model, use_cache=False))
    finally:
        listening.remove()
    handed_on(block, given[-1])
    return None if isinstance(given[-1], Tensor) else len(given[-1]) - 1


class _Skipped(nn.Module):
    """Stands where a block was and hands its input on, in the form in which the block would."""

    def __init__(self, block: nn.Module, extras: int | None) -> None:
        super().__init__()
        self._block = [block]  # in a list: its parameters are not ours
        self._extras = extras

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `attention_type`, which the model asks its blocks for
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor | tuple[Tensor | None, ...]:
        return hidden_states if self._extras is None else (hidden_states, *[None] * self._extras)
