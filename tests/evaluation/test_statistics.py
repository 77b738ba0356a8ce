"""Every statistic is its reference's, also when documents are drawn several times or not at all."""

import numpy as np
import pytest
import scipy.stats
import torch

from stillhouse.evaluation.intervals import bootstrapped, jackknifed
from stillhouse.evaluation.statistics import (
    calibration_error,
    cosine_beyond_chance,
    linear_cka,
    macro_f1,
    matthews_correlation,
    pearson,
    quotient,
    spearman,
    summed,
)
from stillhouse.objectives.features import linear_cka_similarity

DOCUMENTS = 40


@pytest.fixture
def draws():
    """Each document once; three draws with replacement; and one without the first document."""
    random = np.random.default_rng(0)
    drawn = [np.bincount(random.integers(0, DOCUMENTS, DOCUMENTS), minlength=DOCUMENTS) for _ in range(3)]
    without = np.ones(DOCUMENTS)
    without[0] = 0
    return np.array([np.ones(DOCUMENTS), *drawn, without], dtype=float)


def _repeated(values, draw):
    """The documents of one draw, written out."""
    return np.repeat(values, draw.astype(int), axis=0)


@pytest.mark.parametrize(("ours", "reference"), [(pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)])
@pytest.mark.parametrize("decimals", [8, 0])  # 0 leaves many equals
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_correlations_are_scipys_on_every_draw(draws, ours, reference, decimals, far):
    random = np.random.default_rng(1)
    x = random.normal(0, 2, DOCUMENTS).round(decimals)
    y = (x + random.normal(0, 2, DOCUMENTS)).round(decimals) + far
    expected = [reference(_repeated(x, draw), _repeated(y, draw)).statistic for draw in draws]
    np.testing.assert_allclose(ours(x, y)(draws), expected, rtol=1e-7)


@pytest.mark.parametrize("correlation", [pearson, spearman])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 / 3])
def test_a_constant_answer_correlates_with_nothing(draws, correlation, constant):
    x = np.random.default_rng(2).normal(size=DOCUMENTS)
    assert (correlation(np.full(DOCUMENTS, constant), x)(draws) == 0).all()
    nearly = np.full(DOCUMENTS, constant)
    nearly[0] += 1
    without_it = draws[:, 0] == 0
    assert without_it.any()
    assert (correlation(nearly, x)(draws)[without_it] == 0).all()


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_correlation_with_oneself_is_exactly_one(draws, correlation):
    x = np.random.default_rng(3).normal(size=DOCUMENTS)
    assert (correlation(x, x)(draws) == 1).all()


@pytest.fixture
def classified():
    """Targets and choices among five classes, of which one is never right and one never named."""
    random = np.random.default_rng(4)
    target = random.choice([0, 1, 2, 4], DOCUMENTS)
    chosen = np.where(random.random(DOCUMENTS) < 0.6, target, random.choice([0, 1, 2, 3], DOCUMENTS))
    chosen[chosen == 4] = 2
    return target, chosen


def _counts(target, chosen):
    actual, named = (np.eye(5)[values] for values in (target, chosen))
    return actual * named, named, actual


@pytest.mark.parametrize("ours", [macro_f1, matthews_correlation])
def test_class_statistics_are_scikit_learns_on_every_draw(draws, classified, ours):
    metrics = pytest.importorskip("sklearn.metrics")
    target, chosen = classified

    def reference(right, said):
        if ours is matthews_correlation:
            return metrics.matthews_corrcoef(right, said)
        return metrics.f1_score(right, said, average="macro", zero_division=0)

    expected = [reference(_repeated(target, draw), _repeated(chosen, draw)) for draw in draws]
    np.testing.assert_allclose(ours(*_counts(target, chosen))(draws), expected, rtol=1e-12)


def test_whoever_always_says_the_same_has_no_matthews_correlation(draws, classified):
    target, _ = classified
    assert (matthews_correlation(*_counts(target, np.zeros(DOCUMENTS, int)))(draws) == 0).all()


def test_the_right_answers_have_every_class_statistic_at_one(draws, classified):
    target, _ = classified
    for statistic in (macro_f1, matthews_correlation):
        np.testing.assert_allclose(statistic(*_counts(target, target))(draws), 1, rtol=1e-12)


def test_the_calibration_error_is_torchmetrics(draws):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    random = np.random.default_rng(5)
    document = np.sort(random.integers(0, DOCUMENTS, 300))
    logits = torch.tensor(random.normal(0, 2, (300, 4)))
    target = torch.tensor(random.integers(0, 4, 300))
    confidence, chosen = logits.softmax(-1).max(-1)
    ours = calibration_error(
        confidence.numpy(), (chosen == target).double().numpy(), document, num_documents=DOCUMENTS
    )(draws)
    for draw, found in zip(draws, ours, strict=True):
        times = torch.tensor(draw.astype(int)[document])
        args = (logits.softmax(-1).repeat_interleave(times, 0), target.repeat_interleave(times))
        expected = functional.multiclass_calibration_error(*args, num_classes=4, n_bins=15, norm="l1")
        assert found == pytest.approx(float(expected), abs=1e-6)


def _cka_by_features(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def test_cka_over_products_of_documents_is_cka_over_features_on_every_draw(draws):
    random = np.random.default_rng(6)
    x = random.normal(size=(DOCUMENTS, 6)) + 3
    y = np.concatenate([x[:, :3], random.normal(size=(DOCUMENTS, 8))], axis=1)
    expected = [_cka_by_features(_repeated(x, draw), _repeated(y, draw)) for draw in draws]
    np.testing.assert_allclose(linear_cka(x, y)(draws), expected, rtol=1e-9)


def test_cka_is_the_objectives_one_minus_none():
    random = np.random.default_rng(7)
    x, y = random.normal(size=(DOCUMENTS, 6)), random.normal(size=(DOCUMENTS, 9))
    similarity = linear_cka_similarity(torch.tensor(x), torch.tensor(y))
    assert linear_cka(x, y)(np.ones((1, DOCUMENTS)))[0] == pytest.approx(float(similarity), rel=1e-9)


def test_cka_sees_neither_rotation_nor_scale_and_its_interval_no_width(draws):
    random = np.random.default_rng(8)
    x = random.normal(size=(DOCUMENTS, 6))
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    np.testing.assert_allclose(linear_cka(x, 3 * x @ rotation)(draws), 1, rtol=1e-9)
    own = jackknifed({"": linear_cka(x, x)}, num_documents=DOCUMENTS)[""].interval()
    assert (own.value, own.low, own.high) == (1, 1, 1)


def test_the_jackknife_of_a_cka_holds_its_value_and_drawing_with_replacement_would_not():
    """Wide and unrelated: documents that occur twice are like each other in both models."""
    random = np.random.default_rng(9)
    statistics = {"cka": linear_cka(random.normal(size=(60, 200)), random.normal(size=(60, 200)))}
    drawn = bootstrapped(statistics, set_sizes=[60])["cka"].interval()
    left_out = jackknifed(statistics, num_documents=60)["cka"].interval()
    assert left_out.low <= left_out.value <= left_out.high
    assert drawn.low > drawn.value


def test_cosine_beyond_chance_is_that_of_a_double_loop_over_every_draw(draws):
    random = np.random.default_rng(10)
    x, y = random.normal(size=(2, DOCUMENTS, 5)) + 0.7
    cosine = (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    expected = []
    for draw in draws:
        chosen = _repeated(np.arange(DOCUMENTS), draw)
        same = [cosine[i, i] for i in chosen]
        different = [cosine[i, j] for i in chosen for j in chosen if i != j]
        expected.append(np.mean(same) - np.mean(different))
    np.testing.assert_allclose(cosine_beyond_chance(x, y)(draws), expected, rtol=1e-9)


def test_embeddings_that_do_not_depend_on_the_text_are_at_chance(draws):
    x = np.random.default_rng(11).normal(size=(DOCUMENTS, 5))
    once = draws[draws.max(-1) == 1]
    np.testing.assert_allclose(cosine_beyond_chance(np.ones((DOCUMENTS, 5)), x)(once), 0, atol=1e-12)


def test_sums_go_to_the_document_that_they_are_of():
    values, documents = np.arange(6.0), np.array([0, 0, 2, 2, 2, 3])
    assert summed(values, documents, 4).tolist() == [1, 0, 9, 5]
    assert summed(values[:, None] * [1, 2], documents, 4).tolist() == [[1, 2], [0, 0], [9, 18], [5, 10]]


def test_a_quotient_by_zero_is_zero():
    assert quotient(np.array([1.0, 0.0, 3.0]), np.array([0.0, 0.0, 2.0])).tolist() == [0, 0, 1.5]
