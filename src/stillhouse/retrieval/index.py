"""An index of passages: exact, or above a size approximate, kept in a folder and opened by memory map.

index/
├── manifest.json     what it was made by and from, and how well the approximate search finds what the exact one does
├── passages.jsonl    id, text, source and title of each passage, in the order of the vectors
├── vectors.npy       their embeddings, memory-mapped; `ranges.npy` beside them where a number is a byte
├── neighbours.usearch  the graph of the approximate search, only above a size
└── bm25/             the same passages by their words, where that was asked for
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.files import atomic_path, json_line, read_json, read_lines, size_on_disk, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.retrieval.bm25 import Bm25
from stillhouse.retrieval.documents import Passage
from stillhouse.retrieval.embed import Embedder, Similarity, Vectors
from stillhouse.retrieval.hits import Hit, Retriever, as_hits, best, check_queries
from stillhouse.retrieval.storage import Precision, StoredVectors, stored

FORMAT = 1
MANIFEST, PASSAGES, GRAPH, BM25 = "manifest.json", "passages.jsonl", "neighbours.usearch", "bm25"

EXACT_UP_TO = 100_000
"""Passages up to which every one is compared: at 384 numbers each, some 20 milliseconds a query on one core."""

QUERIES_AT_ONCE = 64
"""Queries whose scores over all passages are held at a time."""

RECALL_QUERIES, RECALL_AT = 200, 10
"""How many vectors, and how far down, an approximate search is checked with when it is built."""


@dataclass(frozen=True)
class Manifest:
    """What an index is."""

    format: int
    made_by: str
    """Fingerprint of the model, or its name."""
    similarity: Similarity
    precision: Precision
    width: int
    passages: int
    approximate: bool
    recall: float | None = None
    """Share of the exact search's best ten that the approximate one finds, for passages of its own; None where it is exact."""


class DenseIndex:
    """Passages by their embeddings."""

    def __init__(
        self,
        embedder: Embedder,
        passages: Sequence[Passage],
        vectors: StoredVectors,
        *,
        graph: Any = None,
        recall: float | None = None,
        folder: Path | None = None,
    ) -> None:
        self.embedder, self.passages, self.vectors = embedder, list(passages), vectors
        self._graph, self.recall, self._folder = graph, recall, folder

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """Each passage by its id."""
        return {passage.id: passage for passage in self.passages}

    @property
    def is_approximate(self) -> bool:
        """Whether not every passage is compared."""
        return self._graph is not None

    @property
    def num_bytes(self) -> int:
        """What the vectors take, and the graph."""
        return self.vectors.num_bytes + (0 if self._graph is None else int(self._graph.serialized_length))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` passages for each query."""
        check_queries(queries, k)
        return self.search_vectors(self.embedder.queries(queries), k)

    def search_vectors(self, queries: Vectors, k: int) -> list[list[Hit]]:
        """The best `k` passages for each query's vector: from the graph, where there is one."""
        return self._from_graph(queries, k) if self.is_approximate else self.search_exactly(queries, k)

    def search_exactly(self, queries: Vectors, k: int) -> list[list[Hit]]:
        """The best `k` of all passages, each compared; equals stand in the order of the passages."""
        return [hits for start in range(0, len(queries), QUERIES_AT_ONCE) for hits in self._exactly(queries, k, start)]

    def _exactly(self, queries: Vectors, k: int, start: int) -> Iterable[list[Hit]]:
        for scores in self.vectors.scores(queries[start : start + QUERIES_AT_ONCE]):
            places = best(scores, k)
            yield as_hits([self.passages[place].id for place in places], scores[places].tolist())

    def pair_scores(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """The score of each of these passages, as many a query: [queries, passages]."""
        places = {passage.id: place for place, passage in enumerate(self.passages)}
        found = []
        for query, wanted in zip(self.embedder.queries(queries), ids, strict=True):
            rows = [self.vectors.vectors(places[one], places[one] + 1)[0] for one in wanted]
            found.append(np.stack(rows) @ query)
        return np.asarray(found, dtype=np.float64)

    def _from_graph(self, queries: Vectors, k: int) -> list[list[Hit]]:
        found = []
        for query in queries:
            matches = self._graph.search(query, min(k, len(self.passages)), threads=1)
            places = np.asarray(matches.keys, dtype=np.int64)
            scores = 1 - np.asarray(matches.distances, dtype=np.float32)  # usearch's distance is 1 - product
            order = np.lexsort((places, -scores))
            found.append(as_hits([self.passages[place].id for place in places[order]], scores[order].tolist()))
        return found

    def save(self, folder: Path, *, made_by: str = "", bm25: Bm25 | None = None) -> None:
        """Keep all of it in a folder, which is whole or not there at all."""
        with atomic_path(folder) as part:
            part.mkdir()
            write_atomic(part / PASSAGES, "".join(json_line(asdict(passage)) for passage in self.passages))
            self.vectors.save(part)
            if self._graph is not None:
                self._graph.save(str(part / GRAPH))
            if bm25 is not None:
                bm25.save(part / BM25)
            write_atomic(part / MANIFEST, json.dumps(asdict(self._manifest(made_by)), indent=1))

    def _manifest(self, made_by: str) -> Manifest:
        kept, count = self.vectors, len(self.passages)
        similarity = self.embedder.similarity
        return Manifest(
            FORMAT, made_by, similarity, kept.precision, kept.width, count, self.is_approximate, self.recall
        )


def build_index(
    embedder: Embedder,
    passages: Iterable[Passage],
    *,
    precision: Precision = "float32",
    exact_up_to: int = EXACT_UP_TO,
    vectors: Vectors | None = None,
    progress: Progress = SILENT,
) -> DenseIndex:
    """Embed passages (or take their `vectors`) and index them; above `exact_up_to` by a graph of neighbours, whose recall
    against the exact search is measured and kept.

    Raises:
        DataError: if there is no passage.
    """
    listed = list(passages)
    if not listed:
        raise DataError("there is no passage to index. Check data.documents.")
    made = embedded(embedder, listed, progress=progress) if vectors is None else vectors
    kept = stored(made, precision)
    if len(listed) <= exact_up_to:
        return DenseIndex(embedder, listed, kept)
    index = DenseIndex(embedder, listed, kept, graph=_graph(made, precision))
    index.recall = ann_recall(index, made[:: max(1, len(made) // RECALL_QUERIES)], k=RECALL_AT)
    return index


def embedded(embedder: Embedder, passages: Sequence[Passage], *, progress: Progress = SILENT) -> Vectors:
    """The passages' vectors, in their order."""
    with working(progress, "passages are embedded", len(passages), "passages"):
        vectors = embedder.documents([passage.whole for passage in passages])
        progress.advance(len(passages))
    return vectors


def _graph(vectors: Vectors, precision: Precision) -> Any:
    from usearch.index import Index

    if precision != "float32":
        raise DataError(
            f"index.precision is {precision!r} for {len(vectors):,} passages, and the approximate search takes float32 only. "
            "Say float32, or raise index.exact_up_to."
        )
    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    graph.add(np.arange(len(vectors)), vectors, threads=1)  # one: the same graph each time
    return graph


def ann_recall(index: DenseIndex, queries: Vectors, *, k: int) -> float:
    """The share of the exact search's best `k` that the index finds, over queries."""
    exact, found = index.search_exactly(queries, k), index.search_vectors(queries, k)
    shares = [
        len({hit.id for hit in one} & {hit.id for hit in other}) / len(one)
        for one, other in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares))


def open_index(folder: Path, embedder: Embedder, *, made_by: str | None = None) -> DenseIndex:
    """An index that was saved; vectors and graph are read from disk where they are asked for.

    Raises:
        DataError: if there is none.
        StaleError: if another version wrote it, or another model than `made_by`, or one of another kind.
    """
    manifest = read_manifest(folder)
    if made_by is not None and manifest.made_by != made_by:
        raise StaleError(f"{folder} was made by another model than the one that asks. Remove it, and it is made again.")
    if manifest.similarity != embedder.similarity:
        raise StaleError(
            f"{folder} compares by {manifest.similarity}, and the model by {embedder.similarity}. Remove it, and it is made "
            "again."
        )
    vectors = StoredVectors.open(folder, precision=manifest.precision, width=manifest.width)
    return DenseIndex(
        embedder,
        read_passages(folder),
        vectors,
        graph=_opened_graph(folder / GRAPH) if manifest.approximate else None,
        recall=manifest.recall,
        folder=folder,
    )


def _opened_graph(file: Path) -> Any:
    from usearch.index import Index

    return Index.restore(str(file), view=True)


def read_manifest(folder: Path) -> Manifest:
    """What an index says of itself.

    Raises:
        DataError: if there is none.
        StaleError: if another version wrote it.
    """
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds no index. `stillhouse distill` of a retrieval recipe makes one.")
    values: Any = read_json(folder / MANIFEST, mend="Remove the folder, and it is made again.")
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise StaleError(
            f"{folder} has index format {found}, and this version reads {FORMAT}. Remove it, and make it again."
        )
    return Manifest(**values)


def read_passages(folder: Path) -> list[Passage]:
    """The passages of an index, in order."""
    return [Passage(**values) for values in read_lines(folder / PASSAGES)]


def open_bm25(folder: Path) -> Bm25:
    """The index's own BM25.

    Raises:
        DataError: if it was made without one.
    """
    if not (folder / BM25).exists():
        raise DataError(f"{folder} was made without BM25. Say `index: {{bm25: true}}` in the recipe.")
    return Bm25.open(folder / BM25)


def index_bytes(folder: Path) -> int:
    """What an index takes on disk."""
    return size_on_disk(folder)


@dataclass(frozen=True)
class Hybrid:
    """Several retrievers as one, by reciprocal ranks: a passage scores the sum of `weight / (smoothing + rank)` over them.

    Source: Cormack et al., 2009, 'Reciprocal rank fusion outperforms Condorcet and individual rank learning methods'.
    """

    retrievers: tuple[Retriever, ...]
    weights: tuple[float, ...] | None = None
    smoothing: float = 60.0
    depth: int = 100
    """How far down each is asked."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` passages for each query, by all retrievers together."""
        lists = [retriever.search(queries, max(k, self.depth)) for retriever in self.retrievers]
        weights = self.weights or (1.0,) * len(lists)
        return [self._fused(found, weights, k) for found in zip(*lists, strict=True)]

    def _fused(self, lists: Sequence[Sequence[Hit]], weights: Sequence[float], k: int) -> list[Hit]:
        scores: dict[str, float] = {}
        for hits, weight in zip(lists, weights, strict=True):
            for hit in hits:
                scores[hit.id] = scores.get(hit.id, 0.0) + weight / (self.smoothing + hit.rank)
        ordered = sorted(scores, key=lambda one: (-scores[one], one))[:k]
        return as_hits(ordered, [scores[one] for one in ordered])


@dataclass(frozen=True)
class Reranked:
    """What others find, in the order of a teacher that reads question and passage together."""

    retriever: Retriever
    score: Callable[[Sequence[tuple[str, str]]], Sequence[float] | NDArray[np.float32]]
    """From pairs of question and passage to scores."""
    texts: Mapping[str, str]
    """Each passage's text by its id."""
    depth: int = 50
    """How many candidates are read."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` of the candidates; there are no more than `depth` of them."""
        candidates = self.retriever.search(queries, self.depth)
        pairs = [(query, self.texts[hit.id]) for query, hits in zip(queries, candidates, strict=True) for hit in hits]
        scores = iter(self.score(pairs))
        return [self._ordered(hits, [float(next(scores)) for _ in hits], k) for hits in candidates]

    def _ordered(self, hits: Sequence[Hit], scores: Sequence[float], k: int) -> list[Hit]:
        order = sorted(range(len(hits)), key=lambda place: (-scores[place], hits[place].rank))[:k]
        return as_hits([hits[place].id for place in order], [scores[place] for place in order])
