"""How well a language model predicts text that none was trained on, and how near it is to its teacher there."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.intervals import Statistic, ratio
from stillhouse.evaluation.judging import judged
from stillhouse.models.signals import factored_logits


@dataclass(frozen=True)
class DocumentSums:
    """Sums over the judged tokens of each document: every metric is a ratio of two of these."""

    tokens: NDArray[np.float64]
    bytes: NDArray[np.float64]
    loss_nats: NDArray[np.float64]
    kl_nats: NDArray[np.float64]
    agreements: NDArray[np.float64]
    hits: NDArray[np.float64]
    """How often the likeliest token was the right one."""


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    examples: Sequence[Example],
    teacher_says: Sequence[FactoredLogits] | None,
    *,
    vocab_size: int,
    progress: Progress = SILENT,
) -> DocumentSums:
    """Run the model over each example and compare with what the teacher says there; pieces of one document are one row.

    A teacher that says it in other tokens is None: the model is then beside itself.
    """
    rows: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(6))
    for number, example in enumerate(examples):
        batch = to_batch([[example]])
        student = factored_logits(model, batch).at(batch.predicts).first(vocab_size)
        teacher = student if teacher_says is None else teacher_says[number]
        rows[example.document] += [len(batch.targets), example.num_bytes, *_sums(student, teacher, batch.targets)]
        progress.advance(1)
    return DocumentSums(*np.array(list(rows.values())).T)


@torch.no_grad()
def say(teacher: PreTrainedModel, examples: Sequence[Example], *, vocab_size: int) -> list[FactoredLogits]:
    """What the teacher says about the judged tokens of each example; small, as the head is not applied yet."""
    batches = (to_batch([[example]]) for example in examples)
    return [factored_logits(teacher, batch).at(batch.predicts).first(vocab_size) for batch in batches]


def _sums(student: FactoredLogits, teacher: FactoredLogits, targets: Tensor) -> list[float]:
    """Summed loss, KL, agreements and hits over one document's tokens."""
    totals = torch.zeros(4, dtype=torch.float64)
    for found in judged(student, teacher, targets):
        parts = [found.loss_nats, found.kl_nats, found.agrees, found.chosen == found.target]
        totals += torch.stack([part.cpu().double().sum() for part in parts])
    return [float(total) for total in totals]


def language_statistics(sums: DocumentSums) -> dict[str, Statistic]:
    """The metrics of `core.results.METRICS` that language modelling gives."""
    return {
        "bits_per_byte": ratio(sums.loss_nats / math.log(2), sums.bytes),
        "perplexity": ratio(sums.loss_nats, sums.tokens, finish=np.exp),
        "forward_kl": ratio(sums.kl_nats, sums.tokens),
        "top1_agreement": ratio(sums.agreements, sums.tokens),
        "accuracy": ratio(sums.hits, sums.tokens),
    }
