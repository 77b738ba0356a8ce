"""Layers beside layers: CKA is 1 for the same geometry and 0 for none in common, and cosines stand beside chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.packing import to_batch
from stillhouse.evaluation.layers import Inside, cka_matrix, compared_states, layer_likeness, random_pairs, states_of
from stillhouse.evaluation.outputs import embedded_by_states, output_likeness
from stillhouse.evaluation.statistics import linear_cka


def _states(seed, count=40, width=8):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_same_geometry_is_one_however_turned_scaled_or_shifted(seed, scale):
    states = _states(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(8, 8)))
    other = (scale * states @ turn + 3).astype(np.float32)
    assert cka_matrix([states], [other])[0, 0] == pytest.approx(1, abs=1e-4)


def test_what_has_nothing_in_common_is_nought_where_the_plain_cka_is_not():
    """Wide and few: the biased estimate would say 0.9 of pure noise."""
    pairs = [(_states(seed, 30, 300), _states(seed + 99, 30, 300)) for seed in range(40)]
    assert abs(np.mean([cka_matrix([one], [other])[0, 0] for one, other in pairs])) < 0.02
    plain = [linear_cka(*(side.astype(float) for side in pair))(np.ones((1, 30)))[0] for pair in pairs]
    assert np.mean(plain) == pytest.approx(0.9, abs=0.03)


def test_it_is_the_unbiased_hsic_by_its_formula():
    """Song et al., equation 5, with sums written out."""
    one, other = _states(0, 12, 5), _states(1, 12, 7) + np.pad(_states(0, 12, 5), ((0, 0), (0, 2)))

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0), np.fill_diagonal(m, 0)
        n, ones = len(k), np.ones(len(k))
        middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3))

    expected = hsic(one, other) / np.sqrt(hsic(one, one) * hsic(other, other))
    assert cka_matrix([one], [other])[0, 0] == pytest.approx(expected, abs=1e-5)


def test_each_layer_finds_itself_and_a_random_layer_finds_nothing():
    layers = [_states(seed, 60) for seed in range(4)]
    document = np.repeat(np.arange(12), 5)
    found = layer_likeness("student", Inside(document, [layers[2], layers[0]]), Inside(document, layers))
    assert [pair.teacher_layer for pair in found.nearest] == [2, 0]
    assert np.array(found.cka).shape == (4, 2)
    for pair in found.nearest:
        assert pair.cka.value == pytest.approx(1, abs=1e-4)
        assert pair.cka.low <= pair.cka.value <= pair.cka.high
        assert pair.cosine.value == pytest.approx(1, abs=1e-6)
        assert abs(pair.random_cosine.value) < 0.15


def test_a_common_direction_is_seen_as_chance():
    """States that all point one way have a high cosine with any other, and the baseline says so."""
    one, other = (_states(seed, 60) + 20 for seed in (0, 1))
    document = np.repeat(np.arange(12), 5)
    (pair,) = layer_likeness("student", Inside(document, [one]), Inside(document, [other])).nearest
    assert pair.cosine.value > 0.9 and pair.random_cosine.value > 0.9
    assert pair.cka.value < 0.2


def test_random_pairs_are_all_pairs_of_different_documents():
    one, other, document = _states(0, 7).astype(float), _states(1, 7).astype(float), np.array([0, 0, 1, 1, 1, 2, 2])
    pairs = [one[a] @ other[b] for a in range(7) for b in range(7) if document[a] != document[b]]
    assert random_pairs(one, other, document)(np.ones((1, 3)))[0] == pytest.approx(np.mean(pairs))


def test_a_model_beside_itself_is_one_in_every_layer(build_model, build_example):
    teacher = build_model(layers=3)
    batches = [to_batch([[build_example(seed, 20)]]) for seed in range(5)]
    (found,) = compared_states(
        {"teacher": teacher, "student": teacher}, {"teacher": batches, "student": batches}, by_document=False
    )
    assert np.diag(np.array(found.cka)) == pytest.approx(np.ones(4), abs=1e-4)
    assert all(pair.cosine.low == pytest.approx(1, abs=1e-6) for pair in found.nearest)


def test_models_that_share_no_token_are_compared_document_by_document(build_model, build_example):
    teacher, student = build_model(layers=3), build_model(layers=2, hidden=16, seed=1)
    ours, theirs = ([to_batch([[build_example(seed, size)]]) for seed in range(8)] for size in (12, 17))
    (found,) = compared_states(
        {"teacher": teacher, "student": student}, {"teacher": theirs, "student": ours}, by_document=True
    )
    assert found.states == 8 and np.array(found.cka).shape == (4, 3)
    assert found.nearest[0].cosine is None


def test_places_are_spread_and_never_the_first(build_model, build_example):
    found = states_of(build_model(layers=1), [to_batch([[build_example(0, 20)]])], per_document=4)
    assert found.layers[0].shape[0] == 4 and found.document.tolist() == [0] * 4


def test_the_same_answers_have_cosine_one_and_others_less(build_model, tokenizer):
    texts = ["the fox ran over the hill", "a girl found a key", "", "the old man went out to sea"]
    written = {"teacher": texts, "student": texts, "control_hard_labels": texts[1:] + texts[:1]}
    student, control = output_likeness(written, embedded_by_states(build_model(vocab=len(tokenizer)), tokenizer))
    assert student.cosine.value == pytest.approx(1)
    assert student.beyond.value > 0 > control.beyond.value
    assert student.random_cosine.value < 1
