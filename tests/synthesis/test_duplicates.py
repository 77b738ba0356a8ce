"""MinHash beside the exact Jaccard similarity that it estimates, and what deduplication leaves."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.synthesis.filters import run_filters
from stillhouse.synthesis.filters.duplicates import (
    RECALL,
    DuplicatesConfig,
    NearDuplicatesConfig,
    jaccard,
    minhash,
    near_duplicates,
    rows_in_a_band,
    shingles_of,
)
from stillhouse.synthesis.records import Record

WORDS = [f"word{n}" for n in range(60)]


def variants(number, *, seed=0):
    """Texts that share more or less with each other."""
    random = np.random.default_rng(seed)
    base = [[WORDS[n] for n in random.integers(0, 60, 30)] for _ in range(6)]
    texts = []
    for _ in range(number):
        words = list(base[random.integers(6)])
        for place in random.integers(0, 30, random.integers(0, 6)):
            words[place] = WORDS[random.integers(60)]
        texts.append(" ".join(words))
    return texts


def asked(text, **lineage):
    return Record(lineage=lineage).say("user", text)


def test_signatures_agree_as_often_as_jaccard_says():
    texts = [shingles_of(text, 3) for text in variants(30)]
    signatures = [minhash(one, 1024) for one in texts]
    errors = [
        np.mean(signatures[a] == signatures[b]) - jaccard(texts[a], texts[b])
        for a, b in itertools.combinations(range(30), 2)
    ]
    # A signature of k hashes has a standard error of sqrt(J (1 - J) / k), 0.016 at most.
    assert np.max(np.abs(errors)) < 5 * 0.5 / np.sqrt(1024)
    assert abs(np.mean(errors)) < 0.005


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_bands_are_as_sure_as_they_say(threshold):
    rows = rows_in_a_band(threshold, 128)

    def recall(size):
        return 1 - (1 - threshold**size) ** (128 // size)

    assert recall(rows) >= RECALL
    assert rows == 128 or recall(rows + 1) < RECALL


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_near_duplicates_are_those_of_the_exact_comparison(threshold):
    texts = variants(120, seed=3)
    exact: list[int | None] = []
    shingles = [shingles_of(text, 3) for text in texts]
    for place in range(len(texts)):
        kept = [other for other in range(place) if exact[other] is None]
        alike = [other for other in kept if jaccard(shingles[place], shingles[other]) >= threshold]
        exact.append(max(alike, key=lambda other: jaccard(shingles[place], shingles[other]), default=None))
    found = near_duplicates(texts, threshold=threshold)
    assert [None if one is None else one[0] for one in found] == exact
    assert sum(one is None for one in exact) not in (0, len(texts))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS[:5]), max_size=8).map(" ".join), max_size=12))
def test_deduplication_is_idempotent_and_keeps_the_first(texts):
    found = near_duplicates(texts, threshold=0.5, shingle_words=2)
    kept = [text for text, one in zip(texts, found, strict=True) if one is None]
    assert near_duplicates(kept, threshold=0.5, shingle_words=2) == [None] * len(kept)
    assert all(found[one[0]] is None and one[0] < place for place, one in enumerate(found) if one is not None)
    assert found[:1] in ([], [None])
    assert near_duplicates(texts, threshold=0.5, shingle_words=2) == found


def test_equal_texts_are_near_duplicates_at_any_threshold():
    assert near_duplicates(["a b c d e", "x", "A, b: c d e!"], threshold=1.0)[2] == (0, 1.0)


def test_texts_without_words_are_left_alone():
    assert near_duplicates(["", "?", "?"]) == [None, None, None]


def test_the_reason_names_similarity_and_text():
    records = [asked("What does a red fox eat in the winter?"), asked("What does a red fox eat in the summer?")]
    found = run_filters(records, [NearDuplicatesConfig(threshold=0.6).build()])
    expected = (
        'near_duplicates: near-duplicate (Jaccard 0.75, from 0.6 on, of "What does a red fox eat in the winter?")'
    )
    assert [record.dropped for record in found] == ["", expected]


@pytest.mark.parametrize("config", [DuplicatesConfig(), NearDuplicatesConfig()])
def test_answers_to_one_question_are_no_duplicates_of_each_other(config):
    def answers(seed, number):
        return [
            asked("What does a fox eat?", seed=seed, answer={"sample": n}).say("assistant", f"{n}")
            for n in range(number)
        ]

    found = run_filters([*answers("1", 3), *answers("2", 2)], [config.build()])
    assert [bool(record.dropped) for record in found] == [False] * 3 + [True] * 2


def test_answers_can_be_compared_in_the_place_of_questions():
    records = [asked(f"What is {n}?").say("assistant", "It is a number, and a small one.") for n in "abc"]
    assert sum(bool(r.dropped) for r in run_filters(records, [NearDuplicatesConfig(of="answer").build()])) == 2
    assert sum(bool(r.dropped) for r in run_filters(records, [DuplicatesConfig(of="all").build()])) == 0
