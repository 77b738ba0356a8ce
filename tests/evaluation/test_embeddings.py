"""Sentence embeddings: the order of pairs, and the teacher's geometry."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from stillhouse.core.errors import DataError
from stillhouse.evaluation.compare import drawn_from, evaluate_embeddings, judgement
from stillhouse.evaluation.embeddings import ScoredBatches, pair_statistics, similarities


def evaluate_sentences(contestants, first, second, scores, *, pooling):
    """On one set of scored pairs."""
    pairs = [ScoredBatches("pairs", first, second, scores)]
    return evaluate_embeddings(contestants, first, pooling=pooling, pairs=pairs)


@pytest.fixture(autouse=True)
def _quick_timing(monkeypatch):
    monkeypatch.setattr("stillhouse.evaluation.cost.DOCUMENT_REPEATS", 1)


@pytest.fixture
def pairs(build_batches):
    """First sentences, second sentences, in batches of other sizes; and scores."""
    first, second = (build_batches("sentence_embedding", sizes=s, seed=n) for n, s in enumerate(((8, 8), (11, 5))))
    return first, second, np.random.default_rng(0).normal(size=16).tolist()


@torch.no_grad()
def _means(model, batches):
    rows = [batch.ids[row][batch.real[row]][None] for batch in batches for row in range(len(batch.ids))]
    return np.array([model(input_ids=ids).last_hidden_state[0].double().mean(0).numpy() for ids in rows])


def _cosines(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_similarities_are_cosines_of_the_models_own_mean_states(build_encoder, pairs):
    model, (first, second, scores) = build_encoder("sentence_embedding"), pairs
    (found,) = similarities(model, [ScoredBatches("a", first, second, scores)], pooling="mean")
    expected = _cosines(_means(model, first), _means(model, second))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_metrics_are_scipys_of_those_similarities(encoders, pairs):
    contestants, (first, second, scores) = encoders("sentence_embedding"), pairs
    result = evaluate_sentences(contestants, first, second, scores, pooling="mean")
    own = {c.role: _cosines(_means(c.model, first), _means(c.model, second)) for c in contestants}
    for model in result.models:
        cosines = own[model.role]
        expected = {
            "spearman": scipy.stats.spearmanr(cosines, scores).statistic,
            "pearson": scipy.stats.pearsonr(cosines, scores).statistic,
            "teacher_spearman": scipy.stats.spearmanr(cosines, own["teacher"]).statistic,
        }
        for name, value in expected.items():
            assert model.metrics[name].value == pytest.approx(value, abs=1e-6)
    assert (result.held_out.documents, result.task) == (16, "sentence_embedding")


def test_a_teacher_has_its_own_order_and_geometry(encoders, pairs):
    first, second, scores = pairs
    teacher = evaluate_sentences(encoders("sentence_embedding"), first, second, scores, pooling="cls").model("teacher")
    for name in ("teacher_spearman", "teacher_cka"):
        own = teacher.metrics[name]
        assert (own.value, own.low, own.high) == (1, 1, 1)
    assert 0 < teacher.metrics["teacher_cosine"].value < 1  # 1 less what two sentences have in common


def test_widths_that_differ_leave_the_geometry_to_compare(encoders, pairs):
    first, second, scores = pairs
    contestants = encoders("sentence_embedding", hidden=8)
    result = evaluate_sentences(contestants, first, second, scores, pooling="mean")
    student = result.model("student").metrics
    assert "teacher_cosine" not in student
    assert "teacher_cosine" in result.model("teacher").metrics
    assert student["teacher_cka"].low <= student["teacher_cka"].value < 1
    assert {row.metric for row in result.comparisons if row.other == "teacher"} == {
        *("spearman", "pearson", "teacher_spearman", "teacher_cka")
    }


def test_gold_scores_that_are_the_teachers_own_are_kept_in_part(encoders, pairs):
    contestants, (first, second, scores) = encoders("sentence_embedding"), pairs
    found = similarities(contestants[0].model, [ScoredBatches("a", first, second, scores)], pooling="mean")
    gold = found[0].tolist()
    result = evaluate_sentences(contestants, first, second, gold, pooling="mean")
    assert result.model("teacher").metrics["spearman"].value == 1
    kept = result.retention("student")
    assert kept.share == result.model("student").metrics["teacher_spearman"]
    same = [contestants[0], replace(contestants[2], model=contestants[0].model)]
    assert evaluate_sentences(same, first, second, gold, pooling="mean").retention("student").share.low == 1


def test_a_missing_score_is_said(encoders, pairs):
    first, second, scores = pairs
    with pytest.raises(DataError, match="16 first sentences, 16 second ones and 15 scores"):
        evaluate_sentences(encoders("sentence_embedding"), first, second, scores[1:], pooling="mean")


def test_several_sets_of_pairs_count_alike_and_are_shown_one_by_one(encoders, build_batches, pairs):
    contestants, (first, second, scores) = encoders("sentence_embedding"), pairs
    few = [build_batches("sentence_embedding", sizes=(6,), seed=seed) for seed in (5, 6)]
    sets = [ScoredBatches("many", first, second, scores), ScoredBatches("few", *few, list(range(6)))]
    result = evaluate_embeddings(contestants, first, pooling="mean", pairs=sets)
    alone = [
        evaluate_embeddings(contestants, first, pooling="mean", pairs=[chosen]).model("student").metrics
        for chosen in sets
    ]
    student = result.model("student").metrics
    for name in ("spearman", "pearson", "teacher_spearman"):
        assert student[name].value == pytest.approx(np.mean([metrics[name].value for metrics in alone]))
    assert student["spearman_few"].value == pytest.approx(alone[1]["spearman"].value)
    assert result.held_out.answers == 22


def test_a_small_set_is_drawn_in_every_draw_beside_a_large_one():
    """Drawn from all pairs together, none of three would be drawn 1 time in 20, and its correlation be called 0."""
    random = np.random.default_rng(1)
    gold = [np.arange(size, dtype=float) for size in (3, 300)]
    ours = [gold[0], gold[1] + random.normal(0, 20, 300)]
    sets = [ScoredBatches(name, [], [], scores.tolist()) for name, scores in zip("ab", gold, strict=True)]
    statistics = {"student": pair_statistics(ours, ours, sets)}
    drawn = judgement(statistics, drawn_from(3, 300)).sampled["student"]["spearman_a"].drawn
    # A set in its right order has the correlation 1, but where one pair is drawn three times: 1 draw in 9.
    assert set(drawn) == {0.0, 1.0}
    assert np.mean(drawn == 0) == pytest.approx(1 / 9, abs=0.02)


def test_without_pairs_the_teachers_geometry_is_left_to_compare(encoders, pairs):
    first, _, _ = pairs
    result = evaluate_embeddings(encoders("sentence_embedding"), first, pooling="mean")
    assert result.model("student").metrics.keys() == {"teacher_cosine", "teacher_cka"}
    assert (result.retentions, result.held_out.documents, result.held_out.answers) == ([], 16, None)
