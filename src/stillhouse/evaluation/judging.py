"""Answers beside the right ones and the teacher's, a few at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.core.signals import DenseLogits, FactoredLogits
from stillhouse.objectives import forward_kl, next_token

CHUNK_ANSWERS = 256
"""Answers whose logits are multiplied out at once: a vocabulary of 30,000 makes 30 MB of them."""

Logits = FactoredLogits | DenseLogits


@dataclass(frozen=True)
class Judged:
    """What was answered, and what it is worth."""

    target: Int[Tensor, " answers"]
    chosen: Int[Tensor, " answers"]
    loss_nats: Float[Tensor, " answers"]
    kl_nats: Float[Tensor, " answers"]
    agrees: Bool[Tensor, " answers"]
    """Whether the teacher would choose the same."""


def judged(ours: Logits, theirs: Logits, targets: Int[Tensor, " answers"]) -> Iterator[Judged]:
    """Every answer, at most CHUNK_ANSWERS at a time; of no answers, none once."""
    for start in range(0, max(1, len(targets)), CHUNK_ANSWERS):
        chunk = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        chunk[start : start + CHUNK_ANSWERS] = True
        yield _judge(ours.at(chunk), theirs.at(chunk), targets[chunk])


@torch.no_grad()
def _judge(ours: Logits, theirs: Logits, targets: Int[Tensor, " answers"]) -> Judged:
    logits, teacher_logits = ours.dense(), theirs.dense()  # [answers, classes]
    targets = targets.to(logits.device)
    chosen = logits.argmax(-1)
    return Judged(
        target=targets,
        chosen=chosen,
        loss_nats=next_token(logits, targets),
        kl_nats=forward_kl(logits, teacher_logits),
        agrees=chosen == teacher_logits.argmax(-1),
    )
