"""Pairs of answers chunk by chunk: the same numbers as from all logits at once, by torch's own differentiation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.kernels.preference import Known, PreferenceTerm, answer_logprobs, preference_losses
from stillhouse.objectives import PREFERENCES, AnswerPairs

from .cases import HIDDEN, TOKENS, VOCAB, make_factors, make_targets, with_gradients

TERMS = [
    PreferenceTerm("dpo", 0.7, {"beta": 0.3, "label_smoothing": 0.1}),
    PreferenceTerm("reward_mse", 0.2, {"beta": 0.2}),
    PreferenceTerm("reward_kl", 0.5),
]
ANSWERS = torch.tensor([0, 0, 1, 2, 2, 2, 3])
assert len(ANSWERS) == TOKENS


def make_known(seed):
    random = torch.Generator().manual_seed(seed)
    return Known(*(-5 * torch.rand(4, generator=random, dtype=torch.float64) for _ in range(3)))


def plain(student, ids, answers, known, *, terms):
    """The slow twin: all logits at once."""
    logprobs = student.dense().log_softmax(-1)[torch.arange(len(ids)), ids]
    sums = torch.stack([logprobs[answers == number].sum() for number in range(4)]).view(2, 2)
    pairs = AnswerPairs(
        sums, known.reference_logprobs.view(2, 2), known.teacher_ratios.view(2, 2), known.scores.view(2, 2)
    )
    totals = [term.objective(pairs).sum() for term in terms]
    return sum(term.weight * total for term, total in zip(terms, totals, strict=True)), torch.stack(totals).detach()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    chunk_tokens=st.integers(1, TOKENS + 1),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
)
def test_chunks_give_the_value_and_every_gradient_of_all_logits_at_once(seed, chunk_tokens, bias, softcap):
    student, (ids, _) = make_factors(seed, bias=bias, softcap=softcap), make_targets(seed)
    arguments = (student, ids, ANSWERS, make_known(seed))

    def chunked(*all_of, **more):
        return preference_losses(*all_of, chunk_tokens=chunk_tokens, **more)

    found = with_gradients(chunked, *arguments, terms=TERMS)
    expected = with_gradients(plain, *arguments, terms=TERMS)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_an_answers_number_is_the_sum_over_its_tokens_and_0_where_it_has_none():
    student, (ids, _) = make_factors(3), make_targets(3)
    found = answer_logprobs(student, ids, ANSWERS, num_answers=5)
    logprobs = student.dense().log_softmax(-1)[torch.arange(TOKENS), ids]
    assert_close(found[:4], torch.stack([logprobs[number == ANSWERS].sum() for number in range(4)]))
    assert found[4] == 0


def test_no_logits_are_kept():
    student, (ids, _), kept = make_factors(0), make_targets(0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.shape) or one, lambda one: one):
        loss, _ = preference_losses(student, ids, ANSWERS, make_known(0), terms=TERMS)
    assert (TOKENS, VOCAB) not in kept and (TOKENS, HIDDEN) in kept
    loss.backward()
    assert student.hidden.grad is not None


@pytest.mark.parametrize("name", PREFERENCES)
def test_half_precision_hidden_states_are_compared_in_float32(name):
    student, (ids, _) = make_factors(0, dtype=torch.bfloat16), make_targets(0)
    loss, sums, *gradients = with_gradients(
        preference_losses, student, ids, ANSWERS, make_known(0), terms=[PreferenceTerm(name)]
    )
    assert loss.dtype == sums.dtype == torch.float32
    assert all(gradient.dtype == torch.bfloat16 and gradient.isfinite().all() for gradient in gradients)
