"""Span by span, with the gradient found on the way: the same numbers as building all logits and differentiating."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.alignment import CommonOutcomes, SharedOutcomes
from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.spans import Side, SpanTerm, span_losses
from stillhouse.objectives import SPANS

OURS, THEIRS, HIDDEN, NUM_SPANS, OUTCOMES = 11, 7, 5, 6, 4
SEEDS = st.integers(0, 2**31)


def make_side(seed, vocab, *, dtype=torch.float64, bias=True, learns=False, **head):
    """One side of a text of six spans, of one to three tokens each."""
    random = torch.Generator().manual_seed(seed)
    spans = torch.arange(NUM_SPANS).repeat_interleave(torch.randint(1, 4, (NUM_SPANS,), generator=random))

    def drawn(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_(learns)

    said = FactoredLogits(drawn(len(spans), HIDDEN), drawn(vocab, HIDDEN), drawn(vocab) if bias else None, **head)
    return Side(said, torch.randint(vocab, spans.shape, generator=random), spans)


def make_outcomes(seed, *, lowest):
    """Maps in which every outcome has a token of each side."""
    random = torch.Generator().manual_seed(seed)
    sides = (
        torch.cat([torch.arange(OUTCOMES), torch.randint(lowest, OUTCOMES, (size - OUTCOMES,), generator=random)])
        for size in (OURS, THEIRS)
    )
    return SharedOutcomes(*sides, OUTCOMES)


def make_case(seed, **options):
    common = CommonOutcomes(make_outcomes(seed, lowest=-1), make_outcomes(seed + 1, lowest=0))
    weights = 0.1 + torch.rand(NUM_SPANS, generator=torch.Generator().manual_seed(seed))
    return make_side(seed, OURS, learns=True, **options), make_side(seed + 1, THEIRS), common, weights


def plain(student, teacher, *, terms, common, span_weights):
    """The slow twin: all logits at once, torch's own differentiation."""
    logits = student.said.dense(), teacher.said.dense()
    sums = [(term.values(student, teacher, logits, common) * span_weights).sum() for term in terms]
    return sum(term.weight * value for term, value in zip(terms, sums, strict=True)), torch.stack(sums).detach()


def with_gradients(losses, student, *arguments, **named):
    inputs = [tensor for tensor in (student.said.hidden, student.said.weight, student.said.bias) if tensor is not None]
    loss, sums = losses(student, *arguments, **named)
    return loss.detach(), sums, *torch.autograd.grad(loss * 3, inputs)


EVERY = [SpanTerm(name, weight=0.3 + number, temperature=1 + number) for number, name in enumerate(SPANS)]


@pytest.mark.parametrize("terms", [*([term] for term in EVERY), EVERY], ids=[*SPANS, "all"])
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, chunk_elements=st.integers(1, 300))
def test_any_number_of_spans_at_once_gives_the_value_and_the_gradient_of_all_at_once(terms, seed, chunk_elements):
    student, teacher, common, weights = make_case(seed)
    named = {"terms": terms, "common": common, "span_weights": weights}
    wanted = with_gradients(plain, student, teacher, **named)
    found = with_gradients(span_losses, student, teacher, chunk_elements=chunk_elements, **named)
    assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", [{"bias": False}, {"scale": 0.25}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 1.5}])
def test_every_kind_of_head_is_heeded(head):
    student, teacher, common, weights = make_case(3, **head)
    named = {"terms": EVERY, "common": common, "span_weights": weights}
    wanted = with_gradients(plain, student, teacher, **named)
    assert_close(with_gradients(span_losses, student, teacher, chunk_elements=40, **named), wanted)


def test_a_term_is_the_objective_at_its_temperature_with_its_parameters():
    student, teacher, common, _ = make_case(5)
    logits = student.said.dense(), teacher.said.dense()
    half, other = (
        SpanTerm("span_hybrid", parameters=parameters).values(student, teacher, logits, common)
        for parameters in ({}, {"beta": 0.1})
    )
    assert not torch.allclose(half, other)
    warm = SpanTerm("span_forward_kl", temperature=2.0).values(student, teacher, logits, common)
    cool = SpanTerm("span_forward_kl").values(student, teacher, tuple(side / 2 for side in logits), common)
    assert_close(warm, 4 * cool)


def test_a_span_without_weight_counts_nothing_even_if_it_is_infinitely_wrong():
    student, teacher, common, weights = make_case(7)
    banned = torch.full_like(student.said.bias, -torch.inf).index_fill(0, student.ids[:1], 0.0).requires_grad_()
    student = replace(student, said=replace(student.said, bias=banned))
    term = SpanTerm("span_forward_kl")
    assert term.values(student, teacher, (student.said.dense(), teacher.said.dense()), common).isinf().any()
    named = {"terms": [term], "common": common, "span_weights": torch.zeros_like(weights)}
    loss, sums, *gradients = with_gradients(span_losses, student, teacher, **named)
    assert loss == sums == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_in_bfloat16_arithmetic_is_that_of_float32():
    student, teacher, common, weights = make_case(9, dtype=torch.bfloat16)
    named = {"terms": EVERY, "common": common, "span_weights": weights}
    wide = replace(student.said, **{n: getattr(student.said, n).float().detach() for n in ("hidden", "weight", "bias")})
    _, wanted = span_losses(replace(student, said=wide), teacher, **named)
    _, found = span_losses(student, teacher, **named)
    assert found.dtype == torch.float64  # the teacher's
    assert_close(found.float(), wanted.float())


def test_nobody_asks_for_a_gradient_under_no_grad():
    student, teacher, common, weights = make_case(11)
    named = {"terms": EVERY, "common": common, "span_weights": weights}
    with torch.no_grad():
        loss, _ = span_losses(student, teacher, **named)
    assert not loss.requires_grad
    assert_close(loss, plain(student, teacher, **named)[0].detach())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("span_forward_kl", {"parameters": {"beta": 0.1}}, "no parameter 'beta'"),
        ("span_hybrid", {"parameters": {"beta": 1.5}}, "beta"),
        ("span_hybrid", {"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_what_a_term_cannot_have_is_refused_at_once(name, options, said):
    with pytest.raises(ValueError, match=said):
        SpanTerm(name, **options)
