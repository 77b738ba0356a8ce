"""Masked language modelling: which tokens of a text are hidden, by what, and anew in each epoch."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.label_store import key_of
from stillhouse.core.numbers import Counting, Numbers
from stillhouse.data.kept import Ids, Keeping
from stillhouse.data.rowset import PaddedRows, pad, refuse_slow, some_at_once

HIDDEN, REPLACED = 0.8, 0.1
"""Of the tokens to be guessed, 8 in 10 are hidden, 1 is another token, 1 stays as it is (BERT, arXiv:1810.04805, 3.1)."""


@dataclass(frozen=True)
class Masking:
    """How one text is masked. A token is chosen with a probability in proportion to its weight.

    Source: DistilBERT's own training, `prepare_batch_mlm` in `distiller.py` (Sanh et al., 2019, arXiv:1910.01108); there the
    share is taken over a batch, here over each text, so that its mask depends on nothing else in the batch.
    """

    share: float
    token_weights: Float[Tensor, " vocab"]
    """0 for a special token, which is never chosen."""
    mask_id: int

    def hide(
        self, ids: Int[Tensor, " seq"], generator: torch.Generator
    ) -> tuple[Int[Tensor, " seq"], Bool[Tensor, " seq"]]:
        """The text with some tokens hidden, and which of them are to be guessed."""
        weights = self.token_weights[ids]
        chosen = torch.multinomial(weights, self._number(weights, generator), generator=generator)
        fate = torch.rand(len(chosen), generator=generator)
        replacements = self._ordinary[torch.randint(len(self._ordinary), chosen.shape, generator=generator)]
        hidden = ids.clone()
        hidden[chosen[fate < HIDDEN]] = self.mask_id
        replaced = (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
        hidden[chosen[replaced]] = replacements[replaced]
        judged = torch.zeros(len(ids), dtype=torch.bool)
        judged[chosen] = True
        return hidden, judged

    def _number(self, weights: Tensor, generator: torch.Generator) -> int:
        """Tokens to guess: the share of those that may be hidden, rounded up or down so that it is right on average."""
        expected = self.share * float((weights > 0).sum())
        rounded = int(expected + float(torch.rand((), generator=generator)))
        return max(1, rounded)  # a text with nothing to guess would teach nothing

    @cached_property
    def _ordinary(self) -> Int[Tensor, " ordinary"]:
        """All tokens that are not special."""
        return self.token_weights.nonzero()[:, 0]


def masking_for(
    tokenizer: PreTrainedTokenizerBase, ids: Iterable[Sequence[int]], *, share: float, rarity_smoothing: float
) -> Masking:
    """Masking that prefers rare tokens, as counted in these texts: weights are count ** -rarity_smoothing.

    Raises:
        ModelError: if the tokenizer has no token to hide others by.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "data.kind masked_text hides tokens, but this tokenizer has no mask token. Use a teacher of BERT's kind, or "
            "kind text."
        )
    counts = torch.zeros(len(tokenizer), dtype=torch.long)
    for some in some_at_once(ids):
        counts += torch.bincount(torch.tensor(list(chain.from_iterable(some))), minlength=len(tokenizer))
    token_weights = counts.clamp(min=1).double() ** -rarity_smoothing
    token_weights[tokenizer.all_special_ids] = 0
    return Masking(share, token_weights, int(tokenizer.mask_token_id))


class MaskedRows(PaddedRows):
    """Texts under a mask that is another in each epoch: it depends on the seed, the text and the epoch alone, so a run that
    was killed and goes on sees the masks that it would have seen.
    """

    def __init__(self, ids: Sequence[Sequence[int]], *, pad_id: int, masking: Masking, seed: int) -> None:
        super().__init__(ids, pad_id=pad_id)
        self.masking, self.seed, self.epoch = masking, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Put on the masks of this epoch. `TellEpoch` does it where a Trainer trains."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[list[int], list[int], list[bool]]:
        """The text, the text under its mask, and which tokens are to be guessed."""
        ids = self.ids[index]
        generator = torch.Generator().manual_seed(_seed_of(self.seed, self.epoch, key_of(ids)))
        hidden, judged = self.masking.hide(torch.tensor(ids), generator)
        return list(ids), hidden.tolist(), judged.tolist()

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Rows as tensors [batch, seq]; the labels are the texts."""
        texts, hidden, judged = zip(*items, strict=True)
        weights = pad(judged, value=0).float()
        return {**self.frame(hidden), "weights": weights, "labels": pad(texts, value=self.pad_id)}


class FixedMaskRows(MaskedRows):
    """Texts that are judged by: their masks are the same in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Nothing: an epoch is no reason to judge by anything else."""


def _seed_of(*parts: int | str) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


def masked_pieces(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int
) -> tuple[Sequence[tuple[int, ...]], Numbers]:
    """Token ids of each text between the tokenizer's special tokens, long ones in pieces of at most `max_tokens` of which
    each stands between them; a piece without any token to guess is left out. And the number of the text that each piece
    is of.

    Raises:
        DataError: if nothing is left.
        ModelError: if the tokenizer cannot cut texts in pieces.
    """
    refuse_slow(tokenizer, kind="masked_text")
    special = set(tokenizer.all_special_ids)
    pieces, documents, first, told = Keeping[tuple[int, ...]](Ids), Counting(np.int64), "", 0
    for some in some_at_once(texts):
        first = first or some[0]
        encoded = tokenizer(some, truncation=True, max_length=max_tokens, return_overflowing_tokens=True)
        for ids, number in zip(encoded["input_ids"], encoded["overflow_to_sample_mapping"], strict=True):
            if not special.issuperset(ids):
                pieces.add(tuple(ids))
                documents.add(told + number)
        told += len(some)
    if not len(documents):
        raise DataError(f"the texts, such as {first[:20]!r}, hold no token that could be hidden. Give other ones.")
    return pieces.kept(), documents.numbers()
