"""Gradient checkpointing: a layer keeps its input alone, and is computed once more when its gradient is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.attention import computed_again
from stillhouse.models.signals import unwrapped


@contextmanager
def recomputing(model: nn.Module, *, wanted: bool = True) -> Iterator[None]:
    """Within the block, whatever trains the model holds one layer's activations at a time, for a second forward pass of each.

    Loss and gradients are the same: dropout falls as it fell before, and who listens to layers hears them once. A model that
    does not train, as while it writes, is left as it is.

    Raises:
        ModelError: if the family cannot.
    """
    if not wanted:
        yield
        return
    bare = unwrapped(model)
    _begin(bare)
    try:
        yield
    finally:
        _renamed(bare, "disable")()


def _begin(model: PreTrainedModel) -> None:
    try:
        _renamed(model, "enable")({"use_reentrant": False, "context_fn": partial(computed_again, model)})
    except ValueError:
        raise ModelError(
            f"training.gradient_checkpointing is true, but {type(model).__name__} cannot compute its layers again. Leave it "
            "out, and lower training.rows_per_micro_batch, which saves memory, too."
        ) from None


def _renamed(model: PreTrainedModel, what: str) -> Any:
    """transformers gave it another name on the way through 5."""
    return getattr(model, f"activation_checkpointing_{what}", None) or getattr(model, f"gradient_checkpointing_{what}")
