"""Scores of words equal SQuAD's own where both are defined, and hand fixtures where nobody else has them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.lexical import (
    answer_words,
    best_of,
    bigram_precision,
    exact_match,
    k_precision,
    normalised,
    says,
    token_f1,
    token_recall,
    unsupported_names,
    unsupported_numbers,
)

PASSAGE = "In 1867 Alfred Nobel patented dynamite in Sweden. Sales came to 1,200 crates, 3.5 % more than in 1866."
TEXTS = st.one_of(
    st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=40),
    st.lists(st.sampled_from(["the", "a", "An", "Nobel,", "dynamite", "1867", "(Sweden)"]), max_size=8).map(" ".join),
)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_exact_match_and_f1_are_those_of_squad(answer, golds):
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    theirs = squad(
        [{"prediction_text": answer, "id": "1"}],
        [{"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "1"}],
    )
    assert best_of(exact_match, answer, golds) * 100 == pytest.approx(float(theirs["exact_match"]), abs=1e-4)
    assert best_of(token_f1, answer, golds) * 100 == pytest.approx(float(theirs["f1"]), abs=1e-4)


def test_answers_are_compared_without_case_articles_and_punctuation():
    assert normalised("  The “Nobel” Prize,\n a\u00a0PRIZE! ") == "nobel prize prize"
    assert answer_words("東京は tower") == ["東", "京", "は", "tower"]


@pytest.mark.parametrize(
    ("answer", "gold", "f1", "recall"),
    [
        ("Alfred Nobel", "alfred nobel", 1, 1),
        ("It was Alfred Nobel who did it", "Alfred Nobel", 2 * 2 / (7 + 2), 1),
        ("Nobel", "Alfred Nobel", 2 / 3, 1 / 2),
        ("Nobel Nobel", "Alfred Nobel", 1 / 2, 1 / 2),
        ("", "Alfred Nobel", 0, 0),
        ("the", "", 1, 1),
    ],
)
def test_f1_and_recall_by_hand(answer, gold, f1, recall):
    assert token_f1(answer, gold) == pytest.approx(f1)
    assert token_recall(answer, gold) == pytest.approx(recall)


def test_without_a_right_answer_nothing_scores():
    assert best_of(token_f1, "Nobel", []) == 0


@pytest.mark.parametrize(
    ("answer", "unigrams", "bigrams"),
    [
        ("Alfred Nobel patented dynamite", 1, 1),
        ("Nobel Alfred", 1, 0),  # words are known, their order is not
        ("Sweden", 1, 1),
        ("Norway", 0, 0),
        ("Nobel sold dynamite", 2 / 3, 0),
        ("dynamite dynamite", 1 / 2, 0),  # said once there
        ("", 1, 1),
    ],
)
def test_the_share_of_an_answer_that_stands_in_the_context_by_hand(answer, unigrams, bigrams):
    assert k_precision(answer, PASSAGE) == pytest.approx(unigrams)
    assert bigram_precision(answer, PASSAGE) == pytest.approx(bigrams)


def test_k_precision_is_blind_to_another_name_of_the_same_context():
    assert k_precision("Sweden patented dynamite", PASSAGE) == 1


@given(TEXTS, TEXTS)
def test_support_is_a_share_and_a_context_supports_itself(answer, context):
    assert 0 <= bigram_precision(answer, context) <= 1
    assert 0 <= k_precision(answer, context) <= 1
    assert k_precision(context, context) == bigram_precision(context, context) == 1


@pytest.mark.parametrize(
    ("answer", "unsupported"),
    [
        ("1200 crates in 1867.", []),
        ("It was 1,200, or 3.5 % more.", []),
        ("1868, and 35 of 3.5", ["1868", "35"]),
        ("12 of 12", ["12"]),
        ("twelve", []),
    ],
)
def test_numbers_that_the_context_lacks_by_hand(answer, unsupported):
    assert unsupported_numbers(answer, PASSAGE) == unsupported


@pytest.mark.parametrize(
    ("answer", "unsupported"),
    [
        ("Alfred Nobel's dynamite", []),
        ("It was Emil Nobel in Norway.", ["Emil", "Norway"]),
        ("Norway", ["Norway"]),
        ("Emil Nobel did.", ["Emil"]),
        ("Crates were sold. Nitroglycerin exploded.", []),  # a sentence begins with a capital, whatever it names
        ("The answer is Sweden, I think.", []),
        ("In Sweden", []),
        ("Sweden-Norway", ["Sweden-Norway"]),
        ("From NORWAY to Norway's", ["NORWAY", "Norway's"]),
    ],
)
def test_names_that_the_context_lacks_by_hand(answer, unsupported):
    assert unsupported_names(answer, PASSAGE) == unsupported


@pytest.mark.parametrize(
    ("answer", "is_said"),
    [("alfred nobel", True), ("The Nobel", True), ("Nobel Alfred", False), ("bel", False), ("", False)],
)
def test_a_text_says_an_answer_whose_words_follow_each_other(answer, is_said):
    assert says(PASSAGE, answer) is is_said
