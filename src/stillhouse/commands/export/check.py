"""An export beside what it was made from: how far apart their answers are, how large they are, and how fast."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.commands.export.formats import Ask
from stillhouse.core.task import Task

MOST_KL_NATS = {
    **{"float32": 1e-4, "float16": 0.01, "bfloat16": 0.02, "int8": 0.1, "int4": 0.5},
    **{"f32": 1e-4, "f16": 0.01, "bf16": 0.02, "q8_0": 0.1, "q5_1": 0.3, "q5_0": 0.3, "q4_1": 0.5, "q4_0": 0.5},
}
"""Mean KL from the original above which an export is refused, by what its weights became."""
MOST_DIFFERENCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05, "int8": 0.1, "int4": 0.3}
"""The same for numbers that are no distribution, as a share of how far the original's spread."""
REPEATS = 3


@dataclass(frozen=True)
class Checked:
    """What the comparison gave."""

    texts: int
    answers: int
    """Positions of language models, texts of classifiers."""
    measure: str
    distance: float
    """Mean KL in nats, or a difference as a share of the spread."""
    most: float
    """The distance above which an export is refused."""
    agreement: float | None
    """How often both find the same answer likeliest; None for numbers."""
    seconds_before: float
    seconds_after: float
    """To read all texts, one by one; the fastest of a few rounds that took turns."""
    notes: tuple[str, ...] = ()
    """What one should know of what was written."""

    @property
    def passes(self) -> bool:
        """Whether the export says what the original says; not a number never does."""
        return self.distance <= self.most


def compare(
    before: Ask, after: Ask, texts: Sequence[Sequence[int]], *, task: Task, quantise: str, most: float | None
) -> Checked:
    """Ask both the same."""
    pairs = [(_rows(before(ids)), _rows(after(ids))) for ids in texts]
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    if ours.shape != theirs.shape:
        raise ValueError(f"the export answers {theirs.shape}, the original {ours.shape}")
    numbers = task in ("regression", "reward")
    distance = _share_of_spread(ours, theirs) if numbers else float(kl_of_rows(ours, theirs).mean())
    limits = MOST_DIFFERENCE if numbers else MOST_KL_NATS
    seconds = [
        min(times)
        for times in zip(*([_seconds(ask, texts) for ask in (before, after)] for _ in range(REPEATS)), strict=True)
    ]
    return Checked(
        texts=len(texts),
        answers=len(ours),
        measure="difference, share of the spread" if numbers else "KL from the original, nats",
        distance=distance,
        most=limits[quantise] if most is None else most,
        agreement=None if numbers else float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        seconds_before=seconds[0],
        seconds_after=seconds[1],
    )


def _rows(answered: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.atleast_2d(answered).astype(np.float64)


def kl_of_rows(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(original || export) of each row of logits."""
    one, other = _logprobs(ours), _logprobs(theirs)
    return np.asarray((np.exp(one) * (one - other)).sum(-1))


def _logprobs(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _share_of_spread(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    spread = float(ours.std()) or 1.0
    return float(np.abs(ours - theirs).mean()) / spread


def _seconds(ask: Ask, texts: Sequence[Sequence[int]]) -> float:
    started = time.perf_counter()
    for ids in texts:
        ask(ids)
    return time.perf_counter() - started
