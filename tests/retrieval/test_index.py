"""An index finds what a comparison with every passage finds, or says how much of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError, StaleError
from stillhouse.retrieval import Passage
from stillhouse.retrieval.bm25 import Bm25
from stillhouse.retrieval.hits import best
from stillhouse.retrieval.index import Hybrid, ann_recall, build_index, open_bm25, open_index, read_manifest
from stillhouse.retrieval.storage import stored

from .cases import PASSAGES, WordEmbedder


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 50))
def test_the_best_are_those_of_a_whole_sort_with_ties_in_order(values, k):
    scores = np.array(values, dtype=np.float32)
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert best(scores, k).tolist() == expected


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_exact_search_is_the_similarity_sorted(similarity):
    embedder = WordEmbedder(similarity)
    index = build_index(embedder, PASSAGES)
    query, documents = embedder.queries(["red fox"]), embedder.documents([passage.text for passage in PASSAGES])
    scores = (query @ documents.T)[0]
    hits = index.search(["red fox"], 3)[0]
    assert [hit.id for hit in hits] == [f"p{place}" for place in np.argsort(-scores)[:3]]
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:3], rel=1e-5)
    assert [hit.rank for hit in hits] == [1, 2, 3]


def test_there_are_no_more_hits_than_passages_and_no_index_of_none():
    assert len(build_index(WordEmbedder(), PASSAGES).search(["fox"], 100)[0]) == len(PASSAGES)
    with pytest.raises(DataError, match="no passage to index"):
        build_index(WordEmbedder(), [])


def many(number: int) -> tuple[list[Passage], np.ndarray]:
    vectors = np.random.default_rng(0).standard_normal((number, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Passage(str(n), f"text {n}") for n in range(number)], vectors


def test_above_a_size_the_search_is_approximate_and_its_recall_is_stated(tmp_path):
    passages, vectors = many(2_000)
    index = build_index(WordEmbedder(), passages, vectors=vectors, exact_up_to=1_000)
    queries = many(2_050)[1][2_000:]
    assert index.is_approximate and index.recall is not None and index.recall > 0.9
    assert ann_recall(index, queries, k=10) > 0.9
    index.save(tmp_path / "index", made_by="m")
    again = open_index(tmp_path / "index", WordEmbedder(), made_by="m")
    assert again.is_approximate and again.recall == index.recall
    assert again.search_vectors(queries, 5) == index.search_vectors(queries, 5)
    assert not build_index(WordEmbedder(), passages, vectors=vectors).is_approximate


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_what_is_saved_is_opened_by_memory_map_and_answers_alike(tmp_path, precision):
    index = build_index(WordEmbedder(), PASSAGES, precision=precision)
    index.save(tmp_path / "index", made_by="model", bm25=Bm25.build(PASSAGES))
    again = open_index(tmp_path / "index", WordEmbedder(), made_by="model")
    assert isinstance(again.vectors.codes, np.memmap)
    assert again.search(["red fox", "sea"], 4) == index.search(["red fox", "sea"], 4)
    assert again.passages == PASSAGES
    assert open_bm25(tmp_path / "index").search(["fox"], 1)[0][0].id in ("p0", "p4")


def test_an_index_of_another_model_kind_or_place_is_refused(tmp_path):
    index = build_index(WordEmbedder(), PASSAGES)
    index.save(tmp_path / "index", made_by="one")
    with pytest.raises(StaleError, match="another model"):
        open_index(tmp_path / "index", WordEmbedder(), made_by="other")
    with pytest.raises(StaleError, match="compares by cosine, and the model by dot"):
        open_index(tmp_path / "index", WordEmbedder("dot"))
    with pytest.raises(DataError, match="holds no index"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="made without BM25"):
        open_bm25(tmp_path / "index")


def test_coarser_vectors_take_less_room_and_keep_most_of_the_order():
    _, vectors = many(500)
    whole = vectors[:20] @ vectors.T
    sizes, agreement = {}, {}
    for precision in ("float32", "int8", "binary"):
        kept = stored(vectors, precision)
        sizes[precision] = kept.codes.nbytes
        scores = kept.scores(vectors[:20])
        agreement[precision] = float(
            np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(whole, scores, strict=True)])
        )
    assert sizes["float32"] == 4 * sizes["int8"] == 32 * sizes["binary"]
    assert agreement["float32"] > 0.999999 and agreement["int8"] > 0.999 and agreement["binary"] > 0.7
    # A byte's middle is within half a step of the number that it stands for.
    kept = stored(vectors, "int8")
    step = (kept.ranges[1] - kept.ranges[0]) / 255
    assert (np.abs(kept.vectors(0, 500) - vectors) <= step * 0.51 + 1e-6).all()


def test_a_hybrid_adds_reciprocal_ranks():
    class Fixed:
        def __init__(self, *ids):
            self.ids = ids

        def search(self, queries, k):
            from stillhouse.retrieval.hits import as_hits

            return [as_hits(self.ids[:k], [0.0] * len(self.ids[:k])) for _ in queries]

    hits = Hybrid((Fixed("a", "b"), Fixed("b", "c"))).search(["q"], 2)[0]
    assert [hit.id for hit in hits] == ["b", "a"]
    assert [hit.score for hit in hits] == pytest.approx([1 / 61 + 1 / 62, 1 / 61])


def test_a_hybrid_of_words_and_vectors_finds_what_either_finds():
    hybrid = Hybrid((build_index(WordEmbedder(), PASSAGES), Bm25.build(PASSAGES)))
    assert hybrid.search(["birds"], 1)[0][0].id in ("p2", "p5")
