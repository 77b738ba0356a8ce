"""Bits per byte of held-out texts: the same unit whatever the tokenizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.results import Interval
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.intervals import bootstrapped, ratio
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import next_token

TEXTS_AT_ONCE = 8


@dataclass(frozen=True)
class TextSums:
    """Of each text the bits that a model needs for it, and its bytes."""

    bits: NDArray[np.float64]
    bytes: NDArray[np.float64]

    @property
    def each(self) -> NDArray[np.float64]:
        """Bits per byte of each text."""
        return self.bits / self.bytes


@torch.no_grad()
def predicted(model: PreTrainedModel, texts: Sequence[Sequence[Example]], *, vocab_size: int) -> TextSums:
    """What a model needs for each text, which may be in several pieces."""
    flat = [(number, example) for number, pieces in enumerate(texts) for example in pieces]
    flat.sort(key=lambda pair: len(pair[1].ids))  # a batch is as wide as its longest
    bits = np.zeros(len(texts))
    for start in range(0, len(flat), TEXTS_AT_ONCE):
        some = flat[start : start + TEXTS_AT_ONCE]
        batch = to_batch([[example] for _, example in some])
        logits = factored_logits(model, batch).at(batch.predicts).first(vocab_size).dense()
        nats = next_token(logits, batch.targets).double().cpu().numpy()
        lengths = [sum(weight > 0 for weight in example.weights[1:]) for _, example in some]
        for (number, _), own in zip(some, np.split(nats, np.cumsum(lengths)[:-1]), strict=True):
            bits[number] += own.sum() / math.log(2)
    sizes = np.array([sum(example.num_bytes for example in pieces) for pieces in texts], dtype=np.float64)
    return TextSums(bits, sizes)


def bits_per_byte(sums: TextSums) -> Interval:
    """Over all texts, with a 95 % interval over texts."""
    statistics = {"bits": ratio(sums.bits, sums.bytes)}
    return bootstrapped(statistics, set_sizes=[len(sums.bits)])["bits"].interval()


def gain(before: TextSums, after: TextSums) -> Interval:
    """By how many bits per byte the later one needs less, over the same draws of texts."""
    statistics = {"before": ratio(before.bits, before.bytes), "after": ratio(after.bits, after.bytes)}
    found = bootstrapped(statistics, set_sizes=[len(before.bits)])
    return found["before"].minus(found["after"]).interval()
