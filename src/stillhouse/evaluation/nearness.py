"""What a model says comes next beside what its teacher says there, token by token, in every way that people ask for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.calibration import Confident
from stillhouse.evaluation.intervals import Statistic, Sums, ratio
from stillhouse.evaluation.statistics import summed
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import factored_logits
from stillhouse.objectives.logprobs import kl, to_logprobs

CHUNK_TOKENS = 128
"""Positions whose logits are multiplied out at once: several tables of them are alive together."""
TOP = 5


@dataclass(frozen=True)
class TokenNumbers:
    """One number a token that is judged: see `core.likeness.CURVES`, and what calibration is told by."""

    forward_kl: Sums
    reverse_kl: Sums
    jsd: Sums
    cross_entropy: Sums
    teacher_entropy: Sums
    top1_agreement: Sums
    top5_agreement: Sums
    acceptance: Sums
    confidence: Sums
    """Of the likeliest token."""
    hits: Sums
    """Whether it is the text's own."""
    brier: Sums
    teacher_brier: Sums
    """With what the teacher finds likeliest in the place of the text's own token."""


@dataclass(frozen=True)
class Nearness:
    """One model beside the teacher, over all documents."""

    document: NDArray[np.int64]
    tokens: TokenNumbers

    def means(self, names: Sequence[str]) -> dict[str, float]:
        """Means over all tokens."""
        return {name: float(getattr(self.tokens, name).mean()) for name in names}

    def statistics(self, names: Sequence[str]) -> dict[str, Statistic]:
        """Means over the tokens, over any draw of the documents."""
        count = int(self.document.max()) + 1
        ones = summed(np.ones(len(self.document)), self.document, count)
        return {name: ratio(summed(getattr(self.tokens, name), self.document, count), ones) for name in names}

    def of_the_text(self) -> Confident:
        """How sure the model is of the text's own tokens."""
        return Confident(self.document, self.tokens.confidence, self.tokens.hits, self.tokens.brier)

    def of_the_teacher(self) -> Confident:
        """How sure it is of what the teacher finds likeliest."""
        return Confident(self.document, self.tokens.confidence, self.tokens.top1_agreement, self.tokens.teacher_brier)


@torch.no_grad()
def nearness(
    model: PreTrainedModel,
    examples: Sequence[Example],
    teacher_says: Sequence[FactoredLogits],
    *,
    vocab_size: int,
    progress: Progress = SILENT,
) -> Nearness:
    """Run a model over each example and compare with what the teacher says at the same tokens, as `language.say` has it."""
    documents: dict[str, int] = {}
    numbers, owners = [], []
    for example, taught in zip(examples, teacher_says, strict=True):
        targets = to_batch([[example]]).targets
        numbers.append(_numbers(_said(model, example, vocab_size), taught, targets))
        owners += [documents.setdefault(example.document, len(documents))] * len(targets)
        progress.advance(1)
    whole = np.concatenate(numbers, axis=-1)
    return Nearness(np.array(owners, dtype=np.int64), TokenNumbers(*whole))


def _said(model: PreTrainedModel, example: Example, vocab_size: int) -> FactoredLogits:
    batch = to_batch([[example]])
    with evaluating(model):
        return factored_logits(model, batch).at(batch.predicts).first(vocab_size)


def _numbers(ours: FactoredLogits, theirs: FactoredLogits, targets: Int[Tensor, " tokens"]) -> NDArray[np.float64]:
    """[numbers, tokens] of one example, a few tokens at a time."""
    found = [np.zeros((len(fields(TokenNumbers)), 0))]
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = torch.zeros(len(targets), dtype=torch.bool, device=ours.hidden.device)
        chunk[start : start + CHUNK_TOKENS] = True
        q, p = (to_logprobs(said.at(chunk.to(said.hidden.device)).dense()) for said in (ours, theirs))
        found.append(compared(q, p.to(q.device), targets.to(q.device)[chunk]).double().cpu().numpy())
    return np.concatenate(found, axis=-1)


def compared(
    q: Float[Tensor, "tokens vocab"], p: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, "numbers tokens"]:
    """The numbers of TokenNumbers, of the model's log-probabilities beside the teacher's."""
    middle = torch.logaddexp(q, p) - math.log(2)
    q_probs, p_probs = q.exp(), p.exp()
    likeliest, squares = q_probs.max(-1), (q_probs**2).sum(-1)
    taught = p.argmax(-1)
    top = min(TOP, q.shape[-1])
    shared = (q.topk(top).indices[:, :, None] == p.topk(top).indices[:, None, :]).sum((1, 2))

    def brier(right: Tensor) -> Tensor:
        return squares - 2 * q_probs.gather(-1, right[:, None])[:, 0] + 1

    rows = [
        kl(p, q),
        kl(q, p),
        (kl(p, middle) + kl(q, middle)) / 2,
        -q.gather(-1, targets[:, None])[:, 0],
        -(p_probs * p.clamp(min=torch.finfo(p.dtype).min)).sum(-1),
        (likeliest.indices == taught).float(),
        shared / top,
        torch.minimum(q_probs, p_probs).sum(-1),
        likeliest.values,
        (likeliest.indices == targets).float(),
        brier(targets),
        brier(taught),
    ]
    return torch.stack([row.to(q.dtype) for row in rows])
