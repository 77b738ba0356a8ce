"""ROUGE-L over words is that of others, and nobody who is like another gets past the pool."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.rouge import longest_common, rouge_l_of_texts, words_of
from stillhouse.synthesis.rouge import NovelTexts

WORDS = st.lists(
    st.sampled_from(["the", "a", "fox", "ran", "over", "hill", "and", "saw", "red", "house", "7"]), max_size=14
)
TEXTS = st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=60)


@given(WORDS, WORDS)
def test_the_longest_common_subsequence_is_that_of_the_table(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one):
        for j, met in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if word == met else max(table[i][j + 1], table[i + 1][j])
    assert longest_common(one, other) == table[-1][-1]


@settings(deadline=None)
@given(st.one_of(TEXTS, WORDS.map(" ".join)), st.one_of(TEXTS, WORDS.map(" ".join)))
def test_rouge_l_is_that_of_rouge_score(one, other):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    assert rouge_l_of_texts(one, other) == pytest.approx(scorer.score(one, other)["rougeL"].fmeasure, abs=1e-12)


@pytest.mark.parametrize("below", [0.3, 0.7, 1.0])
def test_a_pool_tells_the_new_as_a_comparison_with_each_does(below):
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefghij", k=draw.randint(1, 12))) for _ in range(250)]
    pool, kept = NovelTexts(below=below), []
    for text in texts:
        is_new = all(rouge_l_of_texts(text, other) < below for other in kept)
        assert pool.is_new(text) is is_new
        if is_new:
            pool.add(text)
            kept.append(text)
    assert 5 < len(kept) < 250


def test_words_are_letters_and_digits_of_any_language():
    assert words_of("It's 3.5 km, né?") == ["it", "s", "3", "5", "km", "né"]
    assert words_of("東京へ go") == ["東", "京", "へ", "go"]
    assert rouge_l_of_texts("?!", "?!") == 0
