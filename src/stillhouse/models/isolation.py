"""Documents that share a row must not see each other: which models see to that, and what is done for the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.models.anatomy import text_config

TRIAL_TOKENS = 6
"""Tokens of a trial document: a few more than the widest short convolution of the families we know."""

LastHidden = Callable[[Tensor, Tensor | None], Tensor]
"""(ids [batch, seq], positions [batch, seq]) -> last hidden states [batch, seq, hidden]."""

_ISOLATES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def isolates_documents(model: PreTrainedModel, last_hidden: LastHidden) -> bool:
    """Whether positions that start again at 0 keep the documents of a row apart, found out once by trying.

    It depends on the family, and within a family on the attention kernel and on how many rows a batch has.
    """
    if model not in _ISOLATES:
        _ISOLATES[model] = _trial(model, last_hidden)
    return _ISOLATES[model]


@torch.no_grad()
def _trial(model: PreTrainedModel, last_hidden: LastHidden) -> bool:
    """Two rows of two documents: is the second of each read as if it stood alone?"""
    ids = torch.arange(4 * TRIAL_TOKENS, device=model.device).view(2, -1) % text_config(model).vocab_size
    positions = torch.arange(TRIAL_TOKENS, device=model.device).repeat(2, 2)
    with evaluating(model):
        packed = last_hidden(ids, positions)[:, TRIAL_TOKENS:].float()
        alone = last_hidden(ids[:, TRIAL_TOKENS:], None).float()
    # Rounding differs by a millionth, in bfloat16 by a few per cent; a leak by about as much as there is.
    tolerance = 1e-2 if model.dtype.itemsize >= 4 else 0.2
    return bool(((packed - alone).norm(dim=-1) <= tolerance * alone.norm(dim=-1)).all())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout within the block; each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def padded_like(batch: Batch, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "batch seq hidden"]:
    """The states of the batch's real tokens at their places in it, and zero in padding."""
    places = batch.real.nonzero(as_tuple=True)
    return hidden.new_zeros(*batch.ids.shape, hidden.shape[-1]).index_put(places, hidden)
