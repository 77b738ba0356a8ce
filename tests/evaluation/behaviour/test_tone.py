"""How answers sound, and whether two models' can be told apart."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from stillhouse.core.behaviour_results import FEATURES
from stillhouse.evaluation.behaviour.tone import compared, features, js_distance
from stillhouse.evaluation.behaviour.two_sample import auc, auc_interval, by_length, told_apart

PROMPTS = [
    f"{noun} {verb}" for noun in ("river", "kettle", "fox", "lamp", "boat") for verb in ("falls", "sings", "waits")
]


def plain(prompt):
    return f"The {prompt} near the old house. It has done so for years, and nobody minds."


def chatty(prompt):
    return f"Hey! I'm sure that the {prompt}, you know... It's awesome, isn't it? I'm sorry, I just love it!"


def test_every_feature_is_counted_by_hand():
    found = features("Sorry, I don't know. Perhaps you could ask?\n\n- **One**\n- two\nThanks!")
    assert list(found) == list(FEATURES)
    assert found["words"] == 11
    assert found["apologies"] == pytest.approx(100 / 11)
    assert found["informal"] == pytest.approx(100 / 11)  # don't
    assert found["hedges"] == pytest.approx(200 / 11)  # perhaps, could
    assert found["first_person"] == found["second_person"] == pytest.approx(100 / 11)
    assert found["polite"] == pytest.approx(100 / 11)  # thanks
    assert found["list_lines"] == pytest.approx(2 / 4)
    assert found["marks"] == pytest.approx(1 / 4)
    assert found["exclamations"] == pytest.approx(1 / 5)
    assert found["questions"] == pytest.approx(1 / 5)


def test_nothing_said_has_no_feature():
    assert set(features("").values()) == {0.0}


def test_sentiment_is_vaders():
    assert features("What a wonderful, lovely day!")["sentiment"] > 0.5
    assert features("This is a horrible, cruel mistake.")["sentiment"] < -0.5


def test_distance_is_scipys_over_the_same_bins():
    one, other = [0.0] * 6 + [1.0] * 4, [0.0] * 2 + [1.0] * 8
    assert js_distance(one, other) == pytest.approx(jensenshannon([0.6, 0.4], [0.2, 0.8], base=2))
    assert js_distance(one, one) == 0
    assert js_distance([0.0] * 5, [1.0] * 5) == pytest.approx(1)
    assert js_distance([0.0] * 10, [0.0] * 9 + [3.0]) > 0  # what is rare is seen, too


def test_one_tone_is_not_told_from_itself():
    answers = [plain(prompt) for prompt in PROMPTS]
    found, _, _ = told_apart(answers, answers)
    assert found.value == 0.5
    assert by_length(answers, answers).value == 0.5
    assert all(one.distance == 0 and one.change.value == 0 for one in compared(answers, answers))


def test_two_tones_are_told_apart_by_what_tells_them():
    theirs, ours = [plain(prompt) for prompt in PROMPTS], [chatty(prompt) for prompt in PROMPTS]
    found, of_teacher, of_other = told_apart(theirs, ours)
    assert found.value == 1.0
    assert any(piece.strip() in chatty("x") for piece in of_other)
    assert any(piece.strip() in plain("x") for piece in of_teacher)
    first = compared(theirs, ours)[0]
    assert first.distance > first.by_chance and first.change.low * first.change.high > 0


def test_random_halves_of_one_tone_are_near_a_coin():
    random = np.random.default_rng(3)
    words = ["the", "old", "fox", "and", "a", "small", "lamp", "near", "that", "river", "went", "home", "to", "sleep"]
    said = [[" ".join(random.choice(words, 12)) for _ in range(60)] for _ in range(2)]
    found, _, _ = told_apart(*said)
    assert found.low <= 0.5 <= found.high


def test_length_alone_is_a_baseline():
    theirs, ours = ["no"] * 15, ["no no no no no no"] * 15
    assert by_length(theirs, ours).value == 1.0


def test_two_sides_without_a_text_between_them_are_not_surely_so():
    """A bootstrap of 12 prompts that are all told apart finds 1 in every draw."""
    scores, groups = np.arange(24.0), np.tile(np.arange(12), 2)
    few = auc(scores, np.repeat([0, 1], 12), groups)
    assert (few.value, few.high) == (1, 1) and 0.8 < few.low < 0.9
    assert auc(-scores, np.repeat([0, 1], 12), groups).high == pytest.approx(1 - few.low)
    assert few.low < auc_interval(1.0, 120, 120).low < 1


@pytest.mark.parametrize("distance", [0.0, 1.5, 3.0])
def test_an_auc_is_covered_at_its_rate_and_at_the_edge_too(distance):
    random, number, truth = np.random.default_rng(1), 15, norm.cdf(distance / math.sqrt(2))
    held = 0
    for _ in range(400):
        theirs, ours = random.normal(0, 1, number), random.normal(distance, 1, number)
        found = auc_interval(float(np.mean(ours[:, None] > theirs)), number, number)
        held += found.low <= truth <= found.high
    assert held / 400 > 0.93


def test_auc_is_scikit_learns():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 50), random.integers(0, 9, 50).astype(float)
    found = auc(scores, labels, np.arange(50))
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.low < found.value < found.high
