"""Forward passes in bfloat16 over weights that stay as they are: torch's autocast, around a model and nothing else."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
"""What a model computes in."""

_PRECISION: ContextVar[Precision] = ContextVar("precision", default="float32")


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Within the block, models whose signals are read compute in this. What they say is handed on in the type of their weights,
    so that heads, divergences and features are computed as ever."""
    token = _PRECISION.set(precision)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def precision_now() -> Precision:
    """What models compute in at this place."""
    return _PRECISION.get()


def forward_pass(device: torch.device) -> AbstractContextManager[object]:
    """Around one forward pass of a model."""
    if _PRECISION.get() == "float32":
        return nullcontext()
    # Without its cache: a weight that was cast while no gradient was wanted would later have none.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
