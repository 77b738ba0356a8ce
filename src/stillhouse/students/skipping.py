"""A model acts as if some of its layers were not there, while nothing of it is copied or changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def only(layers: nn.ModuleList, kept: Sequence[int]) -> Iterator[None]:
    """Within the block, the stack acts as if it had only the layers `kept`."""
    whole = list(layers)
    for index in set(range(len(whole))) - set(kept):
        layers[index] = _Skipped(whole[index])
    try:
        yield
    finally:
        for index, block in enumerate(whole):
            layers[index] = block


class _Skipped(nn.Module):
    """Stands where a block was and hands its input on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = [block]  # in a list: its parameters are not ours

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `attention_type`, which the model asks its blocks for
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states
