"""Policy gradients chunk by chunk: the same numbers as from all logits at once, by torch's own differentiation."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.kernels.chunked import chunked_losses, chunked_values
from stillhouse.kernels.policy import Drawn, PolicyTerm, policy_losses
from stillhouse.objectives import POLICIES, Draws, reverse_kl

from .cases import HIDDEN, ON_TOKENS, TOKENS, VOCAB, make_factors, make_targets, make_term, with_gradients

TERMS = [
    PolicyTerm("sampled_reverse_kl", 0.7, {"gamma": 0.5}),
    PolicyTerm("minillm", 0.3, {"gamma": 0.9, "path_power": 0.5}),
]


def make_drawn(seed):
    random = torch.Generator().manual_seed(seed)
    ids, _ = make_targets(seed)
    drawn = torch.tensor([True, True, False, True, True, True, True])
    answers = torch.tensor([0, 0, 3, 5, 5, 5, 5])
    return Drawn(ids, answers, drawn, -3 * torch.rand(TOKENS, generator=random, dtype=torch.float64))


def plain(student, teacher, drawn, *, terms, token_weights):
    """The slow twin: all logits at once."""
    ours, theirs = student.dense(), teacher.dense()
    said = [logits.log_softmax(-1)[torch.arange(len(logits)), drawn.ids] for logits in (ours, theirs)]
    draws = Draws(*said, drawn.logprobs, drawn.answers, drawn.drawn, reverse_kl(ours, theirs))
    sums = [(term.objective(draws) * token_weights).sum() for term in terms]
    return sum(term.weight * total for term, total in zip(terms, sums, strict=True)), torch.stack(sums).detach()


@pytest.mark.parametrize("terms", [TERMS[:1], TERMS[1:], TERMS], ids=["drawn tokens", "distributions", "both"])
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    chunk_tokens=st.integers(1, TOKENS + 1),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    softcap=st.sampled_from([None, 2.0]),
)
def test_chunks_give_the_value_and_every_gradient_of_all_logits_at_once(
    terms, seed, chunk_tokens, bias, scale, softcap
):
    student = make_factors(seed, bias=bias, scale=scale, softcap=softcap)
    teacher, (_, weights) = make_factors(seed + 1, hidden=HIDDEN + 2, learns=False), make_targets(seed)
    named = {"terms": terms, "token_weights": weights.double()}
    arguments = (student, teacher, make_drawn(seed))
    found = with_gradients(
        lambda *all_of, **more: policy_losses(*all_of, chunk_tokens=chunk_tokens, **more), *arguments, **named
    )
    expected = with_gradients(plain, *arguments, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_values_are_those_of_the_objective_and_their_gradients_too(name):
    """Whatever each value then counts for, less than nothing as well."""
    term, (ids, _) = make_term(name, weight=0.3), make_targets(3)
    student, teacher = make_factors(3), make_factors(4, learns=False)
    upstream = torch.linspace(-1, 2, TOKENS, dtype=torch.float64)
    inputs = (student.hidden, student.weight, student.bias)
    (found,) = chunked_values(student, teacher, terms=[term], target_ids=ids, chunk_tokens=2)
    expected = term.values(student.dense(), teacher.dense(), ids)
    assert_close(found, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(values @ upstream, inputs) for values in (found, expected)), strict=True
    ):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_without_what_comes_after_minillm_is_reverse_kl():
    student, teacher, (_, weights) = make_factors(0), make_factors(1, learns=False), make_targets(0)
    drawn = make_drawn(0)
    found = with_gradients(
        policy_losses,
        student,
        teacher,
        drawn,
        terms=[PolicyTerm("minillm", 0.3, {"gamma": 0.0})],
        token_weights=weights,
    )
    named = {"terms": [make_term("reverse_kl", weight=0.3)], "target_ids": drawn.ids, "token_weights": weights}
    assert_close(found, with_gradients(chunked_losses, student, teacher, **named), rtol=1e-12, atol=1e-12)


def test_a_teacher_learns_nothing_and_no_logits_are_kept():
    student, teacher, (_, weights) = make_factors(0), make_factors(1, learns=True), make_targets(0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        loss, _ = policy_losses(student, teacher, make_drawn(0), terms=TERMS, token_weights=weights)
    assert (TOKENS, VOCAB) not in kept and len(kept) > 0
    loss.backward()
    assert teacher.hidden.grad is None and teacher.weight.grad is None
    assert student.hidden.grad is not None


def test_no_tokens_have_no_loss():
    student, teacher = make_factors(0, tokens=0), make_factors(1, tokens=0, learns=False)
    nothing = torch.zeros(0, dtype=torch.long)
    drawn = Drawn(nothing, nothing, nothing.bool(), torch.zeros(0))
    loss, sums, *gradients = with_gradients(
        policy_losses, student, teacher, drawn, terms=TERMS, token_weights=torch.zeros(0)
    )
    assert loss == 0 and (sums == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("name", POLICIES)
def test_half_precision_hidden_states_are_compared_in_float32(name):
    student = make_factors(0, dtype=torch.bfloat16)
    teacher = make_factors(1, dtype=torch.bfloat16, learns=False)
    drawn = replace(make_drawn(0), logprobs=torch.full((TOKENS,), -1.0))
    loss, sums, *gradients = with_gradients(
        policy_losses, student, teacher, drawn, terms=[PolicyTerm(name)], token_weights=torch.ones(TOKENS)
    )
    assert loss.dtype == sums.dtype == torch.float32
    assert all(gradient.dtype == torch.bfloat16 and gradient.isfinite().all() for gradient in gradients)
