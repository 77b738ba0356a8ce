"""BM25 finds what shares words, in any script, and says so when nothing does."""

import math

import pytest

from stillhouse.retrieval import Passage
from stillhouse.retrieval.bm25 import Bm25

from .cases import PASSAGES


def test_scores_are_the_formula():
    """Lucene's BM25 by hand: idf · tf / (tf + k1 (1 − b + b · length / mean length))."""
    texts = ["red fox", "fox fox hill", "sea"]
    index = Bm25.build([Passage(str(n), text) for n, text in enumerate(texts)], language="none")
    found = {hit.id: hit.score for hit in index.search(["fox"], 3)[0]}
    idf, mean = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), 2.0
    expected = {
        str(n): idf * tf / (tf + 1.5 * (0.25 + 0.75 * length / mean)) for n, tf, length in [(0, 1, 2), (1, 2, 3)]
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_english_endings_are_the_same_word_unless_told_otherwise():
    assert [hit.id for hit in Bm25.build(PASSAGES).search(["the singing birds"], 10)[0]] == ["p2", "p5"]
    assert [hit.id for hit in Bm25.build(PASSAGES, language="none").search(["singing"], 10)[0]] == []


def test_a_query_without_a_known_word_finds_nothing_and_an_empty_one_is_refused():
    index = Bm25.build(PASSAGES)
    assert index.search(["zebra"], 3) == [[]]
    with pytest.raises(ValueError, match="query 2 is empty"):
        index.search(["fox", " "], 3)
    with pytest.raises(ValueError, match="k is 0"):
        index.search(["fox"], 0)


def test_scripts_without_spaces_are_searched_by_character():
    index = Bm25.build([Passage("a", "狐狸跑过山坡"), Passage("b", "女孩找到一把钥匙"), Passage("c", "лиса бежит")])
    assert [hit.id for hit in index.search(["钥匙在哪里", "где лиса"], 1)[0]] == ["b"]
    assert index.search(["где лиса"], 1)[0][0].id == "c"


def test_a_query_of_ten_thousand_words_is_answered():
    assert Bm25.build(PASSAGES).search(["fox hill " * 5_000], 1)[0][0].id in ("p0", "p4")


def test_what_is_saved_answers_alike(tmp_path):
    index = Bm25.build(PASSAGES)
    index.save(tmp_path / "bm25")
    assert Bm25.open(tmp_path / "bm25").search(["red fox", "sea"], 4) == index.search(["red fox", "sea"], 4)
