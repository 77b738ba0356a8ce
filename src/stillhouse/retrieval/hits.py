"""What a search finds: the one thing that all retrievers have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Hit:
    """One passage that was found for a query."""

    id: str
    """The passage's."""
    score: float
    """In the retriever's own unit: only scores of the same retriever can be compared."""
    rank: int
    """From 1."""


@runtime_checkable
class Retriever(Protocol):
    """Finds passages: a dense index, BM25, or several of them together."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` passages for each query, the best first; fewer where there are fewer to find."""
        ...


def check_queries(queries: Sequence[str], k: int) -> None:
    """Refuse what no retriever can answer.

    Raises:
        ValueError: naming the query that has nothing in it, or k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}. Ask for at least 1 passage.")
    empty = [number for number, query in enumerate(queries, start=1) if not query.strip()]
    if empty:
        raise ValueError(f"query {empty[0]} is empty. Ask something, or leave it out.")


def as_hits(ids: Sequence[str], scores: Sequence[float]) -> list[Hit]:
    """Passages in the order in which they were found."""
    return [Hit(one, float(score), rank) for rank, (one, score) in enumerate(zip(ids, scores, strict=True), start=1)]


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The places of the `k` highest scores, the highest first; of equal ones, the earlier place comes first whatever k is."""
    if k < len(scores):
        lowest = np.partition(scores, -k)[-k]
        above = np.flatnonzero(scores > lowest)
        places = np.concatenate([above, np.flatnonzero(scores == lowest)[: k - len(above)]])
    else:
        places = np.arange(len(scores))
    return places[np.lexsort((places, -scores[places]))]
