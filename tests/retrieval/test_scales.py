"""What is said of scores before anybody trains on them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.errors import DataError
from stillhouse.retrieval.scales import check_scales, entropies_of, looks_like_probabilities, proposed_temperature

LOGITS = np.random.default_rng(0).standard_normal((20, 8)) * 6
COSINES = LOGITS / 60


@given(st.floats(0.01, 100))
def test_the_proposed_temperature_goes_with_the_scores(factor):
    assert proposed_temperature(LOGITS * factor) == pytest.approx(factor * proposed_temperature(LOGITS), rel=0.06)


def test_at_the_proposed_temperature_a_softmax_has_half_the_entropy_it_could_have():
    entropy = entropies_of(LOGITS / proposed_temperature(LOGITS)).mean()
    assert entropy == pytest.approx(np.log(8) / 2, rel=0.05)
    expected = torch.distributions.Categorical(logits=torch.from_numpy(LOGITS)).entropy()
    np.testing.assert_allclose(entropies_of(LOGITS), expected, rtol=1e-8)


def test_a_sigmoid_is_refused_where_scores_are_matched_as_they_are():
    for name in ("margin_mse", "score_mse"):
        with pytest.raises(DataError, match=r"probabilities \(from 0.* to 1.*raw logits"):
            check_scales(1 / (1 + np.exp(-LOGITS)), COSINES, output="probability", objectives=[name])
        check_scales(LOGITS, COSINES, output="logits", objectives=[name])
    check_scales(1 / (1 + np.exp(-LOGITS)), COSINES, output="probability", objectives=["listwise_kl"])


def test_probabilities_are_known_again_and_cosines_are_not_taken_for_them():
    assert looks_like_probabilities(1 / (1 + np.exp(-LOGITS)))
    assert not looks_like_probabilities(np.abs(COSINES) + 0.2)
    assert not looks_like_probabilities(LOGITS)


def test_advice_is_given_where_scales_do_not_fit_and_none_where_they_do():
    far = check_scales(LOGITS, COSINES, output="logits", objectives=["listwise_kl", "margin_mse"])
    assert any("student_temperature is 1" in line for line in far.advice)
    assert any("scale 60" in line for line in far.advice)
    fitting = check_scales(
        LOGITS,
        COSINES,
        output="logits",
        objectives=["listwise_kl", "margin_mse"],
        teacher_temperature=far.teacher.proposed,
        student_temperature=far.student.proposed,
        scale=far.scale,
    )
    assert fitting.advice == ()


def test_a_temperature_under_which_candidates_vanish_is_named():
    found = check_scales(LOGITS, COSINES, output="logits", teacher_temperature=0.01, objectives=["listwise_kl"])
    assert found.lost > 0.5
    assert any("probability of 0" in line for line in found.advice)
