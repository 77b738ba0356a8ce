"""Triton's closed forms against torch's, through its interpreter: what a GPU would run, on the processor, number by number."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.kernels import blocks, slopes
from stillhouse.kernels.blocks import value_and_slope
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.slopes import Softened
from stillhouse.kernels.terms import Term

from .cases import make_factors, make_targets, with_gradients

pytest.importorskip("triton", reason="triton is not installed")

NAMES = ["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl", "total_variation"]
PARAMETERS = [
    *((name, {}) for name in NAMES),
    ("jsd", {"beta": 0.9}),
    ("skewed_forward_kl", {"alpha": 0}),
    ("skewed_forward_kl", {"alpha": 0.7}),
    ("skewed_reverse_kl", {"alpha": 0}),
    ("skewed_reverse_kl", {"alpha": 0.7}),
]


@pytest.fixture(scope="module")
def interpreted():
    """The module as Triton's interpreter runs it; blocks of 4 tokens, so that a small vocabulary needs several."""
    with pytest.MonkeyPatch.context() as patch:
        from stillhouse.kernels import triton_divergences

        patch.setattr(triton_divergences, "BLOCK_TOKENS", 4)
        yield triton_divergences


def _logits(seed, *, scale=2.0, vocab=11):
    random = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(3, vocab, generator=random) for _ in range(2)]


def test_triton_has_the_names_that_torch_has(interpreted):
    assert set(interpreted.CLOSED_FORMS) == set(NAMES)
    assert set(NAMES) < set(slopes.CLOSED_FORMS)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS, ids=str)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 3.0]), vocab=st.sampled_from([3, 4, 11]))
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_triton_gives_the_numbers_of_torch(interpreted, name, parameters, seed, temperature, vocab):
    sides = [Softened(logits, temperature) for logits in _logits(seed, vocab=vocab)]
    exact = [Softened(side.given.double(), temperature) for side in sides]
    found = interpreted.CLOSED_FORMS[name](*sides, None, **parameters)
    expected = slopes.CLOSED_FORMS[name](*exact, None, **parameters)
    assert_close([part.double() for part in found], list(expected), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_huge_logits_are_finite_in_triton_too(interpreted, name):
    student, teacher = _logits(0, scale=1e4)
    value, slope = interpreted.CLOSED_FORMS[name](Softened(student), Softened(teacher), None)
    expected = slopes.CLOSED_FORMS[name](Softened(student.double()), Softened(teacher.double()), None)
    assert_close(value.double(), expected[0], rtol=1e-5, atol=1e-5)
    assert_close(slope.double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # of NumPy, which interprets; a GPU says nothing
@pytest.mark.parametrize("name", NAMES)
def test_where_a_token_is_banned_triton_stands_aside(interpreted, name, monkeypatch):
    monkeypatch.setattr(blocks, "closed_forms", lambda *_: interpreted.CLOSED_FORMS)
    student, teacher = _logits(0)
    student[1, 4] = teacher[1, 4] = -torch.inf
    value, slope = value_and_slope(Term(name), Softened(student), Softened(teacher), torch.zeros(3, dtype=torch.long))
    monkeypatch.undo()
    expected = value_and_slope(Term(name), Softened(student), Softened(teacher), torch.zeros(3, dtype=torch.long))
    assert_close((value, slope), expected)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_the_same_with_triton(interpreted, name, monkeypatch):
    """With softcap, scale, bias, temperature, a second term and a position of no weight."""
    student = make_factors(0, dtype=torch.float32, softcap=3.0, scale=0.5)
    teacher = make_factors(1, dtype=torch.float32, hidden=4, learns=False)
    ids, weights = make_targets(0)
    weights[2] = 0
    named = {"terms": [Term(name, 0.7, 2.0), Term("next_token", 0.2)], "target_ids": ids, "token_weights": weights}
    expected = with_gradients(chunked_losses, student, teacher, **named)
    monkeypatch.setattr(blocks, "closed_forms", lambda *_: slopes.CLOSED_FORMS | interpreted.CLOSED_FORMS)
    found = with_gradients(chunked_losses, student, teacher, chunk_tokens=4, **named)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_position_at_all_launches_nothing(interpreted):
    value, slope = interpreted.forward_kl(Softened(torch.zeros(0, 5)), Softened(torch.zeros(0, 5)), None)
    assert value.shape == (0,) and slope.shape == (0, 5)
