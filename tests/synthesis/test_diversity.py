"""How varied texts are, in numbers that do not depend on how many there are."""

import json
import math

import numpy as np
import pytest

from stillhouse.synthesis.diversity import before_and_after, character_runs, coverage, distinct, diversity, spread
from stillhouse.synthesis.records import Record


def random_texts(number, *, vocabulary, seed=0, words=20):
    random = np.random.default_rng(seed)
    return [" ".join(f"w{n}" for n in random.integers(0, vocabulary, words)) for _ in range(number)]


def test_distinct_by_hand():
    assert distinct(["a b a b"], 1) == 2 / 4
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a b", "a b"], 2) == 1 / 2  # no run goes from one text into the next
    assert distinct(["a"], 2) is None
    assert distinct([], 1) is None


def test_distinct_does_not_depend_on_how_many_texts_there_are():
    few, many = (distinct(random_texts(n, vocabulary=300), 1, words=1000) for n in (60, 600))
    assert few == pytest.approx(many, abs=0.02)
    whole_few, whole_many = (distinct(random_texts(n, vocabulary=300), 1, words=10**9) for n in (60, 600))
    assert whole_few > 4 * whole_many


@pytest.mark.parametrize("n", [1, 2, 3])
def test_more_varied_texts_have_more_distinct_runs(n):
    narrow, wide = (distinct(random_texts(100, vocabulary=size), n, words=1500) for size in (5, 500))
    assert narrow < wide <= 1


def test_spread_is_the_mean_over_pairs():
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    found = spread(["x", "y", "z"], embed=lambda texts: rows[: len(texts)])
    expected = (1 + 2 * (1 - 1 / math.sqrt(2))) / 3
    assert found["value"] == pytest.approx(expected)
    assert found["low"] <= found["value"] <= found["high"]


def test_spread_is_zero_for_the_same_and_known_only_of_two():
    assert spread(["a fox", "a fox"])["value"] == pytest.approx(0, abs=1e-12)
    assert spread(["a fox"]) is None


def test_the_interval_of_the_spread_covers_that_of_many_texts():
    everything = spread(random_texts(400, vocabulary=40, seed=1, words=6))["value"]
    hits = 0
    for seed in range(20):
        found = spread(random_texts(40, vocabulary=40, seed=seed + 10, words=6), seed=seed)
        # Rare runs weigh by the texts that are there, which moves the value a little with their number.
        hits += found["low"] - 0.03 <= everything <= found["high"] + 0.03
    assert hits >= 16


def test_runs_of_characters_tell_spellings_apart():
    rows = character_runs(["the red fox", "the red foxes", "quite another"])
    near, far = (rows[0] @ rows[n] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[n]) for n in (1, 2))
    assert near > 0.5 > far


def test_coverage_counts_values_and_how_even_they_are():
    records = [Record(lineage={"topic": ["plants", name]}) for name in ("oak", "oak", "elm", "elm")]
    assert coverage(records) == {"topic": {"different": 2, "effective": pytest.approx(2.0), "records": 4}}
    uneven = [Record(lineage={"topic": 0})] * 9 + [Record(lineage={"topic": 1})]
    assert 1 < coverage(uneven)["topic"]["effective"] < 1.5
    assert coverage([Record(text="x")]) == {}


def test_before_and_after_are_counted_over_as_many_words():
    texts = random_texts(30, vocabulary=50)
    records = [Record(lineage={"topic": n % 3}).say("user", text) for n, text in enumerate(texts)]
    found = before_and_after(records, records[:10])
    assert found["before"]["words"] == found["after"]["words"] == 200
    assert (found["before"]["texts"], found["after"]["texts"]) == (30, 10)
    assert found["after"]["coverage"]["topic"]["different"] == 3
    assert found["before"]["spread_by"] == "runs of characters"
    assert before_and_after(records, records[:10]) == found
    json.dumps(found)


def test_nothing_left_is_no_error():
    found = before_and_after([Record().say("user", "What is a fox?")], [])
    assert found["after"]["distinct"] == {"1": None, "2": None, "3": None}
    assert found["after"]["spread"] is None


def test_near_duplicates_are_told_as_a_share():
    assert diversity(["what does a fox eat", "what does a fox eat?", "birds"])["near_duplicates"] == pytest.approx(
        1 / 3
    )


def test_embeddings_go_by_their_name():
    found = diversity(["a", "b"], embed=lambda texts: np.eye(len(texts)), embed_name="tiny")
    assert (found["spread_by"], found["spread"]["value"]) == ("tiny", 1.0)
