"""Calibration: the library's error, Brier's score by hand, and bins that hold every answer once."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from stillhouse.evaluation.calibration import of_choices, reliability
from stillhouse.evaluation.statistics import BINS


def _choices(seed, count=200, classes=4):
    random = np.random.default_rng(seed)
    scores = np.exp(random.normal(0, 2, (count, classes)))
    return scores / scores.sum(-1, keepdims=True), random.integers(0, classes, count)


def test_the_error_is_the_librarys_and_brier_the_squared_distance():
    probabilities, right = _choices(0)
    found = reliability("student", "set", of_choices(probabilities, right))
    expected = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(right), 4, n_bins=BINS)
    assert found.error.value == pytest.approx(float(expected), abs=1e-6)
    assert found.brier.value == pytest.approx(((probabilities - np.eye(4)[right]) ** 2).sum(-1).mean())
    assert found.error.low <= found.error.high


def test_every_answer_is_in_one_bin_and_none_is_empty():
    found = reliability("student", "set", of_choices(*_choices(1)))
    assert sum(one.answers for one in found.bins) == 200
    assert all(one.answers > 0 and 0 <= one.accuracy.low <= one.accuracy.high <= 1 for one in found.bins)
    assert [one.confidence for one in found.bins] == sorted(one.confidence for one in found.bins)


def test_the_error_is_the_mean_gap_of_the_bins():
    found = reliability("student", "set", of_choices(*_choices(2)))
    gaps = [one.answers * abs(one.confidence - one.accuracy.value) for one in found.bins]
    assert found.error.value == pytest.approx(sum(gaps) / 200)
