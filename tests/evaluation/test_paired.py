"""Two models on the same questions: what changed, how surely, and what a share is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from stillhouse.evaluation.intervals import ratio
from stillhouse.evaluation.paired import cohens_kappa, flips, mcnemar, scored


@given(lost=st.integers(0, 60), won=st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test_of_what_changed(lost, won):
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost=lost, won=won) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_does_not_overflow():
    assert mcnemar(lost=2000, won=2000) == 1
    assert 0 < mcnemar(lost=2100, won=1900) < 0.01


def test_flips_are_counted_where_an_equal_accuracy_hides_them():
    found = flips(teacher=np.array([1.0, 1, 0, 0, 1]), model=np.array([1.0, 0, 1, 0, 1]))
    assert (found.both_right, found.lost, found.won, found.both_wrong, found.changed) == (2, 1, 1, 1, 2)
    assert found.p_value == 1


@given(seed=st.integers(0, 1000), classes=st.integers(1, 4))
def test_kappa_is_the_librarys(seed, classes):
    random = np.random.default_rng(seed)
    ours, theirs = random.integers(0, classes, (2, 30)).astype(float)
    expected = 0.0 if len({*ours, *theirs}) == 1 else cohen_kappa_score(ours, theirs)
    assert cohens_kappa(ours, theirs) == pytest.approx(expected)


def _statistics(hits):
    return {role: {"accuracy": ratio(own, np.ones_like(own))} for role, own in hits.items()}


def test_a_teacher_beside_itself_keeps_exactly_everything():
    hits = {"teacher": np.random.default_rng(0).integers(0, 2, 50).astype(float)}
    hits["student"] = hits["teacher"].copy()
    teacher, student = scored(_statistics(hits), num_examples=50, hits=hits)
    assert not teacher.change and not teacher.retained and teacher.flips is None
    kept, change = student.retained["accuracy"], student.change["accuracy"]
    assert (kept.value, kept.low, kept.high) == (1, 1, 1)
    assert (change.value, change.low, change.high) == (0, 0, 0)
    assert student.flips is not None and student.flips.changed == 0


def test_few_questions_of_one_outcome_do_not_make_a_share_sure():
    hits = {"teacher": np.ones(20), "student": np.array([1.0] * 15 + [0] * 5)}
    teacher, student = scored(_statistics(hits), num_examples=20, shares={"accuracy": 20})
    reference = binomtest(20, 20).proportion_ci(method="wilson")
    assert (teacher.metrics["accuracy"].low, teacher.metrics["accuracy"].high) == pytest.approx(
        (reference.low, 1.0), abs=1e-4
    )
    assert student.metrics["accuracy"] == scored(_statistics(hits), num_examples=20)[1].metrics["accuracy"]


def test_no_share_is_told_where_the_teacher_may_have_nothing():
    hits = {"teacher": np.array([0.0] * 19 + [1]), "student": np.ones(20)}
    assert scored(_statistics(hits), num_examples=20)[1].retained == {}


def test_no_share_is_told_of_a_teacher_that_may_be_guessing():
    hits = {"teacher": np.array([1.0] * 18 + [0] * 14), "student": np.array([1.0] * 20 + [0] * 12)}
    (_, student) = scored(_statistics(hits), num_examples=32, chance={"accuracy": 0.5})
    assert student.retained == {}
    assert scored(_statistics(hits), num_examples=32)[1].retained["accuracy"].value > 1


def test_no_share_is_told_of_what_is_not_kept():
    hits = {"teacher": np.ones(9), "student": np.ones(9)}
    assert scored(_statistics(hits), num_examples=9, kept=())[1].retained == {}


def test_without_a_teacher_every_model_stands_alone():
    (alone,) = scored(_statistics({"student": np.ones(4)}), num_examples=4)
    assert alone.metrics["accuracy"].value == 1 and not alone.change


def test_the_share_kept_covers_the_truth_at_its_rate():
    """Teacher right on 80 %, and the student on three quarters of these and of no other."""
    random, held, tries = np.random.default_rng(1), 0, 300
    for _ in range(tries):
        teacher = (random.random(120) < 0.8).astype(float)
        hits = {"teacher": teacher, "student": teacher * (random.random(120) < 0.75)}
        kept = scored(_statistics(hits), num_examples=120)[1].retained["accuracy"]
        held += kept.low <= 0.75 <= kept.high
    assert abs(held / tries - 0.95) < 3 * math.sqrt(0.05 * 0.95 / tries)
