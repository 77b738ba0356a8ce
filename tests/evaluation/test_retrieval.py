"""Rankings are measured as a hand would, and as the reference library does."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.evaluation.retrieval import (
    Entrant,
    evaluate_retrievers,
    margin_errors,
    overlap,
    rank_biased_overlap,
    rank_correlation,
    ranking_quality,
    reciprocal_rank,
    without_same_id,
)
from stillhouse.retrieval.hits import as_hits
from stillhouse.retrieval.questions import Question


def hits(*ids: str):
    return as_hits(ids, [float(-place) for place in range(len(ids))])


def test_a_hand_fixture():
    asked = [Question("a", "?", {"x": 3, "y": 1}), Question("b", "?", {"z": 1}), Question("c", "?", {"w": 1})]
    found = [hits("y", "n", "x"), hits(*(f"n{n}" for n in range(10)), "z"), hits()]
    quality = ranking_quality(asked, found)
    gain = (1 + 3 / math.log2(4)) / (3 + 1 / math.log2(3))
    assert quality["ndcg@10"] == pytest.approx([gain, 0, 0])
    assert quality["mrr@10"] == pytest.approx([1, 0, 0])  # z stands at 11
    assert quality["map"] == pytest.approx([(1 + 2 / 3) / 2, 1 / 11, 0])
    assert quality["recall@10"] == pytest.approx([1, 0, 0])
    assert quality["recall@100"] == pytest.approx([1, 1, 0])


def test_a_grade_counts_where_a_binary_measure_would_not_see_it():
    asked = [Question("a", "?", {"x": 3, "y": 1})]
    better, worse = (ranking_quality(asked, [found])["ndcg@10"][0] for found in (hits("x", "y"), hits("y", "x")))
    assert better == pytest.approx(1) and worse < 0.9


@given(st.integers(0, 2**31))
def test_it_is_what_trec_eval_says(seed):
    random = np.random.default_rng(seed)
    ids = [f"d{n}" for n in range(30)]
    asked = [
        Question(str(n), "?", {str(one): int(random.integers(1, 4)) for one in random.choice(ids, 4, replace=False)})
        for n in range(3)
    ]
    found = [hits(*map(str, random.permutation(ids)[:20])) for _ in asked]
    quality = ranking_quality(asked, found)
    evaluator = pytrec_eval.RelevanceEvaluator(
        {one.id: dict(one.relevant) for one in asked}, {"ndcg_cut.10", "map", "recip_rank", "recall.10"}
    )
    theirs = evaluator.evaluate(
        {one.id: {hit.id: hit.score for hit in list_} for one, list_ in zip(asked, found, strict=True)}
    )
    for number, one in enumerate(asked):
        assert quality["ndcg@10"][number] == pytest.approx(theirs[one.id]["ndcg_cut_10"])
        assert quality["map"][number] == pytest.approx(theirs[one.id]["map"])
        assert quality["recall@10"][number] == pytest.approx(theirs[one.id]["recall_10"])
        first = theirs[one.id]["recip_rank"]
        assert quality["mrr@10"][number] == pytest.approx(first if first >= 0.1 else 0)
        assert reciprocal_rank(one, found[number], cut_off=100) == pytest.approx(first)


def test_a_passage_with_the_questions_own_id_goes_only_where_that_is_said():
    """A set in which ids are shared would score 0 if it went unasked, as it does in BEIR's own evaluation."""
    asked = [Question("x", "?", {"x": 1})]
    found = [hits("x", "y")]
    assert ranking_quality(asked, found)["ndcg@10"] == pytest.approx([1])
    left = without_same_id(found, asked)
    assert [(hit.id, hit.rank) for hit in left[0]] == [("y", 1)]
    assert ranking_quality(asked, left)["ndcg@10"] == pytest.approx([0])


def test_overlap_and_rank_biased_overlap_are_1_at_the_teacher_and_0_where_nothing_is_shared():
    same, other = hits(*"abcdefghij"), hits(*"klmnopqrst")
    assert (overlap(same, same), rank_biased_overlap(same, same)) == pytest.approx((1, 1))
    assert (overlap(other, same), rank_biased_overlap(other, same)) == (0, 0)
    assert rank_biased_overlap(hits("a", "b"), hits("b", "a"), persistence=0.5) == pytest.approx(
        0.5
    )  # 0/1·.5 + 1·.25 + 1·.25
    early, late = hits(*"bacdefghij"), hits(*"abcdefghji")
    assert rank_biased_overlap(early, same) < rank_biased_overlap(late, same) < 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_scipys(pairs):
    ours, theirs = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    if np.ptp(ours) and np.ptp(theirs):
        assert rank_correlation(ours, theirs) == pytest.approx(spearmanr(ours, theirs).statistic)
    else:
        assert rank_correlation(ours, theirs) == 0


def test_margins_are_compared_whatever_the_unit():
    teacher = np.random.default_rng(0).standard_normal((5, 8)) * 6
    assert margin_errors(teacher / 60 + 3, teacher) == pytest.approx(np.zeros(5), abs=1e-9)
    assert margin_errors(np.zeros((5, 8)), teacher).mean() == pytest.approx(1, rel=0.4)
    assert margin_errors(teacher + np.random.default_rng(1).standard_normal((5, 8)), teacher).max() < 0.6


def test_every_retriever_is_beside_the_student_over_the_same_draws():
    asked = [Question(str(n), f"q{n}", {f"p{n}": 1}) for n in range(12)]

    class Fixed:
        def __init__(self, misses: int) -> None:
            self.misses = misses

        def search(self, queries, k):
            return [hits("p99" if int(one[1:]) < self.misses else f"p{one[1:]}", "p98") for one in queries]

    entrants = [
        Entrant(name, name, "", Fixed(misses)) for name, misses in (("teacher", 0), ("student", 3), ("bm25", 9))
    ]
    result = evaluate_retrievers(entrants, asked, num_passages=100)
    assert result.of("student").metrics["mrr@10"].value == pytest.approx(9 / 12)
    assert result.of("student").agreement["overlap@10"].value == pytest.approx((9 * 2 + 3) / 24)
    assert result.shares["mrr@10"].value == pytest.approx(0.75)
    (over_bm25,) = (one for one in result.differences if (one.other, one.metric) == ("bm25", "mrr@10"))
    assert over_bm25.difference.value == pytest.approx(0.5) and over_bm25.difference.low > 0
    assert result.of("student").queries_per_second is not None
    assert RetrievalResult.from_json(result.to_json()) == result
