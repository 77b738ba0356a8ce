"""Sentence embeddings: do they order pairs of sentences as people do, and do they lie as the teacher's do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import MOST_COMPARED
from stillhouse.core.signals import Pooling, Wanted
from stillhouse.evaluation.intervals import Statistic, Sums
from stillhouse.evaluation.statistics import (
    Embeddings,
    cosine_beyond_chance,
    linear_cka,
    normalised,
    pearson,
    spearman,
)
from stillhouse.models.signals import read_signals


@dataclass(frozen=True)
class ScoredBatches:
    """A set of pairs of sentences: the rows of `first`, of `second`, and `scores` belong together in their order."""

    name: str
    first: Sequence[Batch]
    second: Sequence[Batch]
    scores: Sequence[float]


@torch.no_grad()
def embed(
    model: PreTrainedModel, batches: Sequence[Batch], *, pooling: Pooling, progress: Progress = SILENT
) -> Embeddings:
    """What a model makes of each row."""
    pieces = []
    for batch in batches:
        embeddings = read_signals(model, batch, Wanted(pooling=pooling)).embeddings
        assert embeddings is not None
        pieces.append(embeddings.cpu().double().numpy())
        progress.advance(len(batch.ids))
    return np.concatenate(pieces)


def similarities(
    model: PreTrainedModel, pairs: Sequence[ScoredBatches], *, pooling: Pooling, progress: Progress = SILENT
) -> list[Sums]:
    """The cosine of the two sentences of every pair, set by set."""
    found = []
    for chosen in pairs:
        sides = [embed(model, side, pooling=pooling, progress=progress) for side in (chosen.first, chosen.second)]
        found.append((normalised(sides[0]) * normalised(sides[1])).sum(-1))
    return found


def pair_statistics(
    ours: Sequence[Sums], teacher: Sequence[Sums], pairs: Sequence[ScoredBatches]
) -> dict[str, Statistic]:
    """How pairs are ordered, beside people and beside the teacher: averaged over the sets, and for each of several.

    Nothing without a set.
    """
    if not pairs:
        return {}
    gold = [np.asarray(chosen.scores, dtype=np.float64) for chosen in pairs]
    found = {
        "spearman": _mean_over_sets(spearman, ours, gold),
        "pearson": _mean_over_sets(pearson, ours, gold),
        "teacher_spearman": _mean_over_sets(spearman, ours, teacher),
    }
    for number, chosen in enumerate(pairs if len(pairs) > 1 else ()):
        alone = [values if place == number else values[:0] for place, values in enumerate(ours)]
        found[f"spearman_{chosen.name}"] = _mean_over_sets(spearman, alone, gold)
    return found


def _mean_over_sets(
    correlation: Callable[[Sums, Sums], Statistic], ours: Sequence[Sums], theirs: Sequence[Sums]
) -> Statistic:
    """The mean of the sets' correlations, over draws within each of them; sets that ours leaves empty do not count."""
    ends = np.cumsum([len(values) for values in theirs])
    starts = ends - [len(values) for values in theirs]
    parts = [
        (slice(start, end), correlation(one, other))
        for start, end, one, other in zip(starts, ends, ours, theirs, strict=True)
        if len(one) > 0
    ]
    return lambda draws: np.mean([statistic(draws[:, place]) for place, statistic in parts], axis=0)


def cosine_statistics(ours: Embeddings, teacher: Embeddings) -> dict[str, Statistic]:
    """How near the embeddings are to the teacher's, where widths agree."""
    return {"teacher_cosine": cosine_beyond_chance(ours, teacher)} if ours.shape == teacher.shape else {}


def geometry_statistics(ours: Embeddings, teacher: Embeddings) -> dict[str, Statistic]:
    """What is compared over the first MOST_COMPARED only, and needs the jackknife."""
    return {"teacher_cka": linear_cka(ours[:MOST_COMPARED], teacher[:MOST_COMPARED])}
