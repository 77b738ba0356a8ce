"""Sentence embeddings: do they order pairs of sentences as people do, and do they lie as the teacher's do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.progress import SILENT, Progress
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

MOST_COMPARED = 1000
"""Sentences whose geometry is compared: CKA takes every product of two of them, once for each that is left out."""


@dataclass(frozen=True)
class PairEmbeddings:
    """What a model makes of the first and the second sentence of every pair."""

    first: Embeddings
    second: Embeddings

    @property
    def cosines(self) -> Sums:
        """How similar the model finds the two sentences of each pair."""
        return (normalised(self.first) * normalised(self.second)).sum(-1)


def embed_pairs(
    model: PreTrainedModel,
    first: Sequence[Batch],
    second: Sequence[Batch],
    *,
    pooling: Pooling,
    progress: Progress = SILENT,
) -> PairEmbeddings:
    """Run a model over both sentences of every pair."""
    return PairEmbeddings(*(_embed(model, batches, pooling, progress) for batches in (first, second)))


@torch.no_grad()
def _embed(model: PreTrainedModel, batches: Sequence[Batch], pooling: Pooling, progress: Progress) -> Embeddings:
    pieces = []
    for batch in batches:
        embeddings = read_signals(model, batch, Wanted(pooling=pooling)).embeddings
        assert embeddings is not None
        pieces.append(embeddings.double().cpu().numpy())
        progress.advance(len(batch.ids))
    return np.concatenate(pieces)


def embedding_statistics(ours: PairEmbeddings, teacher: PairEmbeddings, scores: Sums) -> dict[str, Statistic]:
    """The metrics of sentence embeddings, over pairs. Those that compare two models read the first sentences alone."""
    cosines = ours.cosines
    found = {
        "spearman": spearman(cosines, scores),
        "pearson": pearson(cosines, scores),
        "teacher_spearman": spearman(cosines, teacher.cosines),
    }
    if ours.first.shape[1] == teacher.first.shape[1]:
        found["teacher_cosine"] = cosine_beyond_chance(ours.first, teacher.first)
    return found


def geometry_statistics(ours: PairEmbeddings, teacher: PairEmbeddings) -> dict[str, Statistic]:
    """What is compared over the first MOST_COMPARED sentences only, and needs the jackknife."""
    return {"teacher_cka": linear_cka(ours.first[:MOST_COMPARED], teacher.first[:MOST_COMPARED])}
