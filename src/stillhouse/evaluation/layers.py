"""States layer by layer: how alike two models' are, whatever their widths, and however they are turned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.likeness import LayerLikeness, LayerPair
from stillhouse.core.results import Interval, Role
from stillhouse.core.signals import Wanted
from stillhouse.evaluation.intervals import DEVIATIONS, Draws, Statistic, Sums, bootstrapped
from stillhouse.evaluation.statistics import Embeddings, normalised, quotient, summed
from stillhouse.models.anatomy import num_layers
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import read_signals

MOST_STATES = 512
"""States that layers are compared on: every product of two of them is taken."""
FOLDS = 10
"""Parts of the documents that are left out, one after another, for the interval of a CKA."""

FEWEST_STATES = 4
"""Fewer have no unbiased HSIC."""

States = NDArray[np.float32]
"""[states, width]."""


@dataclass(frozen=True)
class Inside:
    """What one model has inside at the same places as the others: the states of every layer, the embeddings first."""

    document: NDArray[np.int64]
    layers: Sequence[States]


@torch.no_grad()
def states_of(model: PreTrainedModel, batches: Sequence[Batch], *, per_document: int | None) -> Inside:
    """Token states evenly spread over each document, at most so many; or with None the mean state of a document, which models
    with other tokenizers have, too."""
    wanted = Wanted(hidden_states=frozenset(range(num_layers(model) + 1)))
    document: list[int] = []
    pieces: list[list[torch.Tensor]] = []
    for batch in batches:
        with evaluating(model):
            hidden = read_signals(model, batch, wanted).hidden_states
        for row in range(len(batch.ids)):
            places = batch.real[row].nonzero()[:, 0]
            states = [hidden[layer][row].cpu().float() for layer in sorted(hidden)]
            if per_document is None:
                chosen = [layer[places.cpu()].mean(0, keepdim=True) for layer in states]
            else:
                picked = places.cpu()[_spread(len(places), per_document)]
                chosen = [layer[picked] for layer in states]
            document += [len(pieces)] * len(chosen[0])
            pieces.append(chosen)
    layers = [torch.cat([piece[layer] for piece in pieces]).numpy() for layer in range(len(pieces[0]))]
    return Inside(np.array(document, dtype=np.int64), layers)


def _spread(count: int, most: int) -> torch.Tensor:
    """At most so many places, evenly spread, and never the first of several: a text begins alike everywhere."""
    first = min(1, count - 1)
    return torch.linspace(first, count - 1, min(most, count - first)).round().long()


def layer_likeness(role: Role, ours: Inside, theirs: Inside) -> LayerLikeness:
    """Each layer of a model beside each of the teacher's."""
    our_grams, their_grams = ([_gram(layer) for layer in side.layers] for side in (ours, theirs))
    matrix = _matrix(their_grams, our_grams)
    nearest: list[tuple[int, int]] = [(layer, int(best)) for layer, best in enumerate(matrix.argmax(0))]
    parts = _folds(ours.document)
    pairs = []
    for layer, best in nearest:
        folds = [_one(their_grams[best][np.ix_(keep, keep)], our_grams[layer][np.ix_(keep, keep)]) for keep in parts]
        cka = _jackknifed(float(matrix[best, layer]), np.array(folds))
        pairs.append(LayerPair(layer, best, cka, *_cosines(ours.layers[layer], theirs.layers[best], ours.document)))
    return LayerLikeness(role, len(ours.document), matrix.round(6).tolist(), pairs)


def _folds(document: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The states that are left without each part of the documents, where enough are."""
    documents = np.unique(document)
    parts = np.array_split(documents, min(FOLDS, len(documents))) if len(documents) > 1 else []
    kept = [np.flatnonzero(~np.isin(document, part)) for part in parts]
    return [keep for keep in kept if len(keep) > FEWEST_STATES]


def _jackknifed(value: float, without: Sums) -> Interval:
    """With each part of the documents left out once. Nothing is known of a single part."""
    if len(without) < 2:
        return Interval(value, float("-inf"), float("inf"))
    error = float(np.sqrt((len(without) - 1) * np.mean((without - without.mean()) ** 2)))
    return Interval(value, value - DEVIATIONS * error, value + DEVIATIONS * error)


def _cosines(ours: States, theirs: States, document: NDArray[np.int64]) -> tuple[Interval | None, Interval | None]:
    """The cosine of the same state in both, and of two from different documents; nothing where widths differ."""
    if ours.shape[1] != theirs.shape[1]:
        return None, None
    one, other = (normalised(states.astype(np.float64)) for states in (ours, theirs))
    found = bootstrapped(
        {"same": _same(one, other, document), "random": random_pairs(one, other, document)},
        set_sizes=[int(document.max()) + 1],
    )
    return found["same"].interval(), found["random"].interval()


def _same(one: Embeddings, other: Embeddings, document: NDArray[np.int64]) -> Statistic:
    count = int(document.max()) + 1
    total, number = (summed(part, document, count) for part in ((one * other).sum(-1), np.ones(len(document))))
    return lambda draws: quotient(draws @ total, draws @ number)


def random_pairs(one: Embeddings, other: Embeddings, document: NDArray[np.int64]) -> Statistic:
    """Mean cosine of two models' states of different documents: what all states have in common."""
    count = int(document.max()) + 1
    ours, theirs, number = (summed(part, document, count) for part in (one, other, np.ones(len(document))))
    own = (ours * theirs).sum(-1)

    def statistic(draws: Draws) -> Sums:
        squares = draws**2
        # A document drawn twice is no pair of different documents.
        total = ((draws @ ours) * (draws @ theirs)).sum(-1) - squares @ own
        return quotient(total, (draws @ number) ** 2 - squares @ number**2)

    return statistic


def cka_matrix(theirs: Sequence[States], ours: Sequence[States]) -> NDArray[np.float64]:
    """Debiased linear CKA of every layer of one model with every layer of another: [theirs, ours], over the same states.

    The plain CKA of few states is high for any two layers that are wide; without bias it is 0 for two that have nothing in
    common, and may fall below.

    Source: Kornblith et al., 2019, arXiv:1905.00414, with the unbiased HSIC of Song et al., 2012, JMLR 13, as in Nguyen et al.,
    2021, arXiv:2010.15327, section 2.2.
    """
    return _matrix(*([_gram(layer) for layer in side] for side in (theirs, ours)))


def _matrix(theirs: Sequence[NDArray[np.float32]], ours: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    one, other = (np.stack([_centred(gram).ravel() for gram in side]) for side in (theirs, ours))
    return np.asarray((one @ other.T).astype(np.float64))


def _one(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> float:
    return float((_centred(theirs) * _centred(ours)).sum())


def _gram(states: States) -> NDArray[np.float32]:
    """Products of every two states, less their mean: which only keeps numbers small."""
    centred = states - states.mean(0)
    return np.asarray(centred @ centred.T)


def _centred(gram: NDArray[np.float32]) -> NDArray[np.float32]:
    """A table of products, U-centred and at length 1: the product of two such tables is the debiased CKA.

    Source: Szekely and Rizzo, 2014, Annals of Statistics 42, 2382-2412, definition 2.
    """
    count, table = len(gram), gram.astype(np.float64)
    np.fill_diagonal(table, 0)
    rows = table.sum(0) / (count - 2)
    table = table - rows[None] - rows[:, None] + table.sum() / ((count - 1) * (count - 2))
    np.fill_diagonal(table, 0)
    length = np.sqrt((table**2).sum())
    return (table / (length if length > 0 else 1.0)).astype(np.float32)


def compared_states(
    models: Mapping[Role, PreTrainedModel], batches: Mapping[Role, Sequence[Batch]], *, by_document: bool
) -> list[LayerLikeness]:
    """Every model but the teacher beside it, on as many states as are worth it."""
    documents = sum(len(batch.ids) for batch in batches["teacher"])
    each = None if by_document else max(1, MOST_STATES // documents)
    chosen = {role: _first(own, MOST_STATES) for role, own in batches.items()}
    theirs = states_of(models["teacher"], chosen["teacher"], per_document=each)
    return [
        layer_likeness(role, states_of(model, chosen[role], per_document=each), theirs)
        for role, model in models.items()
        if role != "teacher"
    ]


def _first(batches: Sequence[Batch], most: int) -> list[Batch]:
    """The first batches that together have at most so many rows, and one at least."""
    found: list[Batch] = []
    for batch in batches:
        if found and sum(len(one.ids) for one in found) + len(batch.ids) > most:
            break
        found.append(batch)
    return found
