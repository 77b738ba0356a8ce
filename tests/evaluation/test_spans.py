"""Spans of BIO tags: where they begin and end, and how many were found."""

import numpy as np
import pytest

from stillhouse.evaluation.spans import are_spans, span_f1, spans

TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", set()),
        ("B-A I-A O B-B", {("A", 0, 2), ("B", 3, 4)}),
        ("B-A B-A", {("A", 0, 1), ("A", 1, 2)}),
        ("B-A I-B I-B", {("A", 0, 1), ("B", 1, 3)}),
        ("O I-A I-A", {("A", 1, 3)}),
        ("I-A O I-A", {("A", 0, 1), ("A", 2, 3)}),
        ("", set()),
    ],
)
def test_spans_begin_at_b_and_where_i_continues_nothing(tags, found):
    assert spans(tags.split()) == found


def test_f1_of_spans_by_hand():
    target = np.array([1, 2, 0, 3, 4, 1, 2])  # A A O B B | A A
    chosen = np.array([1, 2, 0, 3, 0, 1, 2])  # A A O B O | A A
    f1 = span_f1(chosen, target, np.array([0, 0, 0, 0, 0, 1, 1]), TAGS)
    # Two spans of three are right, of both those named and those to be found.
    assert f1(np.ones((1, 2))) == pytest.approx([2 / 3])
    assert f1(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx([1 / 2, 1])


def test_a_span_does_not_reach_into_the_next_document():
    target, document = np.array([1, 2]), np.array([0, 1])
    assert span_f1(target, target, document, TAGS)(np.ones((1, 2))) == pytest.approx([1])
    joined = span_f1(np.array([1, 1]), target, document, TAGS)  # I-A at the start of a document begins a span, as B-A
    assert joined(np.ones((1, 2))) == pytest.approx([1])


def test_only_bio_tags_make_spans():
    assert are_spans(TAGS)
    assert not are_spans(["NOUN", "VERB"])
    assert not are_spans(["B-A", "VERB"])
    assert not are_spans([])
