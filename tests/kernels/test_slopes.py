"""Closed forms: the value of the objective, and the gradient that autograd finds of it."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.kernels import blocks
from stillhouse.kernels.blocks import value_and_slope
from stillhouse.kernels.slopes import CLOSED_FORMS, Softened
from stillhouse.kernels.terms import Term

from .cases import ON_TOKENS, VOCAB

ALPHA_BETAS = [(0.5, 0.5), (1.2, 0.3), (1, 0), (0, 1), (0.4, 0), (0, 0.6), (0, 0), (0.5, -0.5), (-0.3, 0.6)]
TERMS = [
    *(Term(name) for name in CLOSED_FORMS),
    *(Term("jsd", parameters={"beta": beta}) for beta in (0.1, 0.9)),
    *(Term(f"skewed_{side}_kl", parameters={"alpha": alpha}) for side in ("forward", "reverse") for alpha in (0, 0.7)),
    *(Term("alpha_beta", parameters={"alpha": alpha, "beta": beta}) for alpha, beta in ALPHA_BETAS),
    *(Term("taid", parameters={"t": t}) for t in (0, 1)),
    *(Term("adaptive_kl", parameters={"mu": mu}) for mu in (0.1, 0.95)),
    *(Term("decoupled_kd", parameters={"alpha": alpha, "beta": beta}) for alpha, beta in ((1, 0), (0, 1))),
]


def _named(term):
    return "_".join(map(str, [term.name, *term.parameters.values()]))


every_term = pytest.mark.parametrize("term", TERMS, ids=_named)


def _logits(seed, *, tokens=4, scale=2.0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(tokens, VOCAB, generator=random, dtype=torch.float64)).to(dtype) for _ in range(2)]


def _targets(tokens=4):
    return torch.arange(tokens) * 3 % VOCAB


def _expected(term, student, teacher, targets):
    leaf = student.detach().requires_grad_()
    value = term.objective(leaf, teacher, targets)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def _closed(term, student, teacher, targets, temperature=1.0):
    sides = (Softened(student, temperature), Softened(teacher, temperature))
    return CLOSED_FORMS[term.name](*sides, targets, **term.parameters)


def test_every_objective_of_tokens_has_a_closed_form():
    assert set(CLOSED_FORMS) == set(ON_TOKENS)


@every_term
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=5, deadline=None)
def test_a_closed_form_is_the_objective_and_its_gradient(term, seed, temperature):
    student, teacher = _logits(seed)
    given_before = student.clone(), teacher.clone()
    found = _closed(term, student, teacher, _targets(), temperature)
    expected = _expected(term, student / temperature, teacher / temperature, _targets())
    assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert_close((student, teacher), given_before, rtol=0, atol=0)


@every_term
def test_a_closed_form_is_as_good_in_float32(term):
    student, teacher = _logits(0, dtype=torch.float32)
    value, slope = _closed(term, student, teacher, _targets())
    exact = _expected(term, student.double(), teacher.double(), _targets())
    assert value.dtype == slope.dtype == torch.float32
    assert_close((value.double(), slope.double()), exact, rtol=2e-6, atol=2e-6)


# A negative power of almost nothing is infinite by right; of tokens that are equally likely, rounding says which one is
# in the head of adaptive_kl.
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize(
    "term",
    [term for term in TERMS if term.name != "adaptive_kl" and min([0.0, *term.parameters.values()]) == 0],
    ids=_named,
)
def test_a_closed_form_stays_finite_at_huge_logits_or_stands_aside(term, size):
    student, teacher = ((size * logits.sign()).float() for logits in _logits(0))
    value, slope = value_and_slope(term, Softened(student), Softened(teacher), _targets())
    expected_value, expected = _expected(term, student.double(), teacher.double(), _targets())
    assert value.isfinite().all() and slope.isfinite().all()
    assert_close(value.double(), expected_value, rtol=1e-5, atol=1e-5)
    assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6 * max(1.0, float(value.abs().max())))


@every_term
def test_finite_logits_are_never_left_to_autograd(term, monkeypatch):
    monkeypatch.setattr(blocks, "_by_autograd", lambda *_: pytest.fail("autograd was asked"))
    value_and_slope(term, *map(Softened, _logits(0)), _targets())


@every_term
def test_a_closed_form_stands_aside_where_a_token_is_banned(term):
    student, teacher = _logits(0)
    student[1, 4] = teacher[1, 4] = -torch.inf
    value, slope = value_and_slope(term, Softened(student), Softened(teacher), _targets())
    assert_close((value, slope), _expected(term, student, teacher, _targets()))
    assert slope.isfinite().all()
    assert slope[1, 4] == 0


def test_the_head_of_a_large_vocabulary_is_found_without_sorting_it_where_it_is_small(monkeypatch):
    sizes, topk = [], torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k: sizes.append(k) or topk(self, k))
    for scale, num_likely in ((5.0, [256]), (0.01, [256, 1000])):
        random = torch.Generator().manual_seed(0)
        student, teacher = (scale * torch.randn(3, 1000, generator=random, dtype=torch.float64) for _ in range(2))
        sizes.clear()
        found = _closed(Term("adaptive_kl"), student, teacher, _targets(3))
        assert sizes == num_likely
        assert_close(found, _expected(Term("adaptive_kl"), student, teacher, _targets(3)))


def test_probabilities_are_found_once_for_all_terms(monkeypatch):
    terms = [Term(name, temperature=2.0) for name in ("forward_kl", "reverse_kl", "jsd")]
    exponentials, exp = [], torch.Tensor.exp
    monkeypatch.setattr(torch.Tensor, "exp", lambda self: exponentials.append(1) or exp(self))
    student, teacher = _logits(0)
    block = blocks.Block(student, teacher, _targets())
    block.slope(terms, torch.ones(3, 4, dtype=torch.float64))
    assert len(exponentials) == 2


@pytest.mark.parametrize(
    ("device", "dtype", "calls"), [("cuda", torch.float32, 1), ("cuda", torch.float64, 0), ("cpu", torch.float32, 0)]
)
def test_triton_is_asked_for_where_float32_logits_are_on_a_gpu(device, dtype, calls, monkeypatch):
    asked = []
    monkeypatch.setattr(blocks, "_triton_forms", lambda: asked.append(1) or {})
    assert blocks.closed_forms(torch.device(device), dtype) == CLOSED_FORMS
    assert len(asked) == calls


def test_a_gpu_without_triton_takes_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # an import of it fails
    monkeypatch.delitem(sys.modules, "stillhouse.kernels.triton_divergences", raising=False)
    blocks._triton_forms.cache_clear()
    assert blocks._triton_forms() == {}
    blocks._triton_forms.cache_clear()
