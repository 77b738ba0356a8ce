"""Measures of small models' own texts, against brute force and closed forms."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.rouge import words_of
from stillhouse.data.text import Row, to_examples
from stillhouse.evaluation.stories import (
    Learnt,
    TextSums,
    Written,
    bits_per_byte,
    gain,
    grammar_bounds,
    measures_of,
    predicted,
    self_bleu,
)
from stillhouse.evaluation.stories.grading import graded, read_grades
from stillhouse.teachers.writer import Reply

TEXT = st.lists(st.sampled_from("abc"), max_size=14).map(" ".join)


def longest_by_brute_force(text, learnt):
    words = words_of(text)
    runs = {tuple(words_of(one)[a:b]) for one in learnt for a in range(20) for b in range(a + 1, 20)}
    lengths = [b - a for a in range(len(words)) for b in range(a + 1, len(words) + 1) if tuple(words[a:b]) in runs]
    return max(lengths, default=0)


@given(text=TEXT, learnt=st.lists(TEXT, max_size=3))
def test_the_longest_copied_run_is_the_longest_there_is(text, learnt):
    found = Learnt(learnt).longest(text)
    assert found.words == longest_by_brute_force(text, learnt)
    if found.run:
        assert any(f" {found.run} " in f" {' '.join(words_of(one))} " for one in learnt)


def test_a_copy_is_found_whatever_its_capitals_and_marks():
    found = Learnt(["Once there was a dog. It ran!"]).longest('He said: "THERE was a dog it ran" away.')
    assert (found.words, found.run) == (6, "there was a dog it ran")


def test_bits_per_byte_are_the_models_own_loss_whatever_the_batch_and_the_pieces(build_model, tokenizer):
    model = build_model("llama", layers=1, vocab=len(tokenizer))
    texts = ["the fox ran to the hill", "é!", "the girl sang in the garden by the sea and the fox ran"]
    whole = [to_examples([Row(text)], tokenizer, max_tokens=200) for text in texts]
    sums = predicted(model, whole, vocab_size=len(tokenizer))
    assert sums.bytes.tolist() == [len(text.encode()) for text in texts]
    for bits, (example,) in zip(sums.bits, whole, strict=True):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        assert bits == pytest.approx(float(loss) * (len(example.ids) - 1) / math.log(2), rel=1e-4)
    pieces = predicted(model, [to_examples([Row(texts[2])], tokenizer, max_tokens=9)], vocab_size=len(tokenizer))
    assert pieces.bytes.tolist() == [len(texts[2].encode())]


def test_a_gain_is_paired_by_text():
    random = np.random.default_rng(0)
    before = TextSums(random.uniform(50, 500, 40), np.full(40, 100.0))
    after = TextSums(before.bits - 5, before.bytes)
    won = gain(before, after)
    assert won.value == pytest.approx(0.05) and won.high - won.low < 1e-9  # all differ alike
    whole = bits_per_byte(before)
    assert whole.low < whole.value < whole.high and whole.value == pytest.approx(before.bits.sum() / 4000)


def told(words, *, bits=1.0, lacking=(), asked=0):
    return Written("once", " ".join(words), teacher_bits=bits, lacking=lacking, asked=asked)


WORDS = [f"w{n}" for n in range(60)]


def test_grammatical_is_what_nearly_all_originals_would_pass():
    originals = [told(WORDS, bits=1 + n / 100) for n in range(100)]
    bounds = grammar_bounds(originals, words=50)
    assert sum(map(bounds.holds, originals)) == 95
    assert not bounds.holds(told(WORDS, bits=3.0))  # ungrammatical
    assert not bounds.holds(told(WORDS[:20]))  # too short
    assert not bounds.holds(told(WORDS[:10] * 6))  # a loop, which is likely to any teacher
    assert bounds.holds(told(WORDS))


def test_where_a_parser_tells_grammar_a_likely_text_does_not_pass_by_that_alone():
    originals = [replace(told(WORDS), unparsed=n / 200) for n in range(100)]
    bounds = grammar_bounds(originals, words=50)
    assert bounds.measure == "unparsed" and sum(map(bounds.holds, originals)) == 95
    likely, parsed = replace(told(WORDS, bits=0.1), unparsed=0.9), replace(told(WORDS, bits=9.0), unparsed=0.0)
    assert bounds.holds(parsed) and not bounds.holds(likely)
    found = measures_of([likely, parsed], [0, 0], bounds=bounds)
    assert found["unparsed"].value == pytest.approx(0.45) and found["grammatical"].value == 0.5
    assert "teacher_bits" in found
    assert grammar_bounds([Written("a", "b")], words=1) is None


def test_measures_are_means_and_words_asked_for_are_counted_over_all():
    some = [told(WORDS, asked=3), told(WORDS[:5] * 4, asked=3, lacking=("dog", "run")), told(WORDS, bits=2.0)]
    found = measures_of(some, [4, 8, 15], bounds=grammar_bounds(some[:1], words=50))
    assert found["words"].value == pytest.approx(140 / 3) and found["copied_words"].value == 9
    assert found["required_words"].value == pytest.approx(4 / 6)
    assert found["grammatical"].value == pytest.approx(1 / 3) and found["teacher_bits"].value == pytest.approx(4 / 3)
    without = measures_of([Written("a", "b c"), Written("a", "d")], [0, 0], bounds=None)
    assert "grammatical" not in without and "required_words" not in without


def test_self_bleu_is_one_for_equal_texts_and_falls_as_they_differ():
    pytest.importorskip("sacrebleu")
    alike, apart = ["the dog ran to the hill today"] * 3, [" ".join(WORDS[n : n + 8]) for n in range(0, 40, 8)]
    scores = [self_bleu([*alike[:n], *apart[n:3]]) for n in (0, 2, 3)]
    assert scores[-1] == pytest.approx(1) and all(one < other for one, other in pairwise(scores))
    assert self_bleu(["one"]) is None


GRADES = "It is fine.\nGrammar: 8\n**Creativity: 7/10**\nConsistency: 6\nInstructions: 10"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GRADES, {"grammar": 8, "creativity": 7, "consistency": 6, "instructions": 10}),
        (GRADES.replace("Consistency: 6\n", ""), None),
        (GRADES.replace("10\n", "").replace("Grammar: 8", "Grammar: 11"), None),
        (f"{GRADES}\nGrammar: 3", None),
        ("Grammar 8, Creativity 7", None),
        ("", None),
    ],
)
def test_grades_are_read_by_a_strict_rule(text, expected):
    assert read_grades(text) == expected


def test_a_judge_grades_each_and_what_cannot_be_read_is_counted():
    def ask(requests, *, title):
        texts = [GRADES, "no idea", GRADES.replace("8", "4")]
        assert "a dog" in requests[0].messages[0]["content"] and title
        return [Reply(text=text, finished=True, tokens=1, prompt_tokens=1) for text in texts]

    grades, unread = graded(ask, "student", [("once", "a dog")] * 3, text="story", max_new_tokens=20)
    assert unread == 1 and grades["grammar"].value == 6 and grades["creativity"].value == 7
