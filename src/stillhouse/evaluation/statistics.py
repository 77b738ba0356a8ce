"""What answers are worth, each statistic over documents that may occur any number of times.

By convention a correlation with something that never varies is 0, and so is the F1 of a class that nobody names.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluation.intervals import Draws, Statistic, Sums

BINS = 15

Embeddings = NDArray[np.float64]
"""[docs, width]."""


def quotient(numerator: Sums, denominator: Sums) -> Sums:
    """The quotient, and 0 where the denominator is."""
    is_defined = np.abs(denominator) > 0
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=is_defined)


def summed(values: NDArray[np.float64], documents: NDArray[np.int64], num_documents: int) -> NDArray[np.float64]:
    """Sums over the answers of each document: [answers, ...] in, [docs, ...] out."""
    totals = np.zeros((num_documents, *values.shape[1:]))
    np.add.at(totals, documents, values)
    return totals


def macro_f1(right: NDArray[np.float64], named: NDArray[np.float64], actual: NDArray[np.float64]) -> Statistic:
    """F1 of each class, averaged over the classes that occur or are named; each argument is [docs, classes]."""

    def statistic(draws: Draws) -> Sums:
        total = draws @ named + draws @ actual  # [draws, classes]
        return quotient(quotient(2 * (draws @ right), total).sum(-1), (total > 0).sum(-1).astype(np.float64))

    return statistic


def matthews_correlation(
    right: NDArray[np.float64], named: NDArray[np.float64], actual: NDArray[np.float64]
) -> Statistic:
    """Gorodkin's R_K, the Matthews correlation for any number of classes; each argument is [docs, classes].

    Source: Gorodkin, 2004, Computational Biology and Chemistry 28, 367-374.
    """

    def statistic(draws: Draws) -> Sums:
        says, is_so = draws @ named, draws @ actual  # [draws, classes]
        count, hits = says.sum(-1), (draws @ right).sum(-1)
        spread_said, spread_so = count**2 - (says**2).sum(-1), count**2 - (is_so**2).sum(-1)
        return quotient(hits * count - (says * is_so).sum(-1), np.sqrt(spread_said * spread_so))

    return statistic


def calibration_error(confidences: Sums, hits: Sums, documents: NDArray[np.int64], *, num_documents: int) -> Statistic:
    """Expected calibration error: the gap between confidence and accuracy, averaged over bins of equal width.

    Source: Guo et al., 2017, arXiv:1706.04599, section 2.
    """
    bins = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.eye(BINS)[bins] * (confidences - hits)[:, None]  # [answers, bins]
    by_document = summed(gaps, documents, num_documents)
    counts = summed(np.ones_like(hits), documents, num_documents)
    return lambda draws: np.abs(draws @ by_document).sum(-1) / (draws @ counts)


def pearson(ours: Sums, theirs: Sums) -> Statistic:
    """Linear correlation of two numbers a document."""
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()  # sums of squares would cancel badly otherwise
    return lambda draws: _correlation(ours, theirs, draws)


def spearman(ours: Sums, theirs: Sums) -> Statistic:
    """Rank correlation of two numbers a document; equals share their mean rank."""
    rank_ours, rank_theirs = _ranking(ours), _ranking(theirs)
    return lambda draws: _correlation(rank_ours(draws), rank_theirs(draws), draws)


def _correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64], draws: Draws) -> Sums:
    """Pearson's correlation under these multiplicities."""
    ours, theirs = _varying(ours, draws), _varying(theirs, draws)
    spread_ours, spread_theirs = (draws * ours**2).sum(-1), (draws * theirs**2).sum(-1)
    return quotient((draws * (ours * theirs)).sum(-1), np.sqrt(spread_ours * spread_theirs))


def _varying(values: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """Values less their mean in each draw, and exactly 0 where nothing but rounding is left of them."""
    rest = values - (draws * values).sum(-1, keepdims=True) / draws.sum(-1, keepdims=True)
    left, whole = ((draws * part**2).sum(-1, keepdims=True) for part in (rest, values))
    return np.where(left > 1e-24 * whole, rest, 0.0)


def _ranking(values: Sums) -> Callable[[Draws], NDArray[np.float64]]:
    """[draws, docs]: the rank of each document among those drawn; equals share their mean rank."""
    _, groups = np.unique(values, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))

    def ranks(draws: Draws) -> NDArray[np.float64]:
        sizes = np.add.reduceat(draws[:, order], starts, axis=-1)  # [draws, groups]: of each set of equals
        return (np.cumsum(sizes, axis=-1) - (sizes - 1) / 2)[:, groups]

    return ranks


def cosine_beyond_chance(ours: Embeddings, theirs: Embeddings) -> Statistic:
    """Mean cosine of two models' embeddings of one document, minus that of two different documents."""
    ours, theirs = normalised(ours), normalised(theirs)
    same = (ours * theirs).sum(-1)

    def statistic(draws: Draws) -> Sums:
        count, squares = draws.sum(-1), draws**2
        all_pairs = ((draws @ ours) * (draws @ theirs)).sum(-1)
        # A document drawn twice is no pair of different documents.
        return draws @ same / count - quotient(all_pairs - squares @ same, count**2 - squares.sum(-1))

    return statistic


def linear_cka(ours: Embeddings, theirs: Embeddings) -> Statistic:
    """Linear CKA of two models' embeddings of the same documents.

    Source: Kornblith et al., 2019, arXiv:1905.00414, section 3.
    """
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    gram_ours, gram_theirs = ours @ ours.T, theirs @ theirs.T

    def statistic(draws: Draws) -> Sums:
        weights = draws / draws.sum(-1, keepdims=True)
        means_ours, means_theirs = weights @ gram_ours, weights @ gram_theirs  # [draws, docs]

        def alignment(products: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64]) -> Sums:
            """Mean of the products of two Gram matrices, each centred under these weights."""
            whole = (one * weights).sum(-1) * (other * weights).sum(-1)
            return ((weights @ products) * weights).sum(-1) - 2 * (weights * (one * other)).sum(-1) + whole

        cross = alignment(gram_ours * gram_theirs, means_ours, means_theirs)
        own_ours = alignment(gram_ours**2, means_ours, means_ours)
        own_theirs = alignment(gram_theirs**2, means_theirs, means_theirs)
        return quotient(cross, np.sqrt(own_ours * own_theirs))

    return statistic


def normalised(embeddings: Embeddings) -> Embeddings:
    """Each embedding at length 1; one that is 0 stays so."""
    return quotient(embeddings, np.broadcast_to(np.linalg.norm(embeddings, axis=-1, keepdims=True), embeddings.shape))
