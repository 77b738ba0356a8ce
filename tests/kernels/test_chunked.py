"""Chunk by chunk, with the gradient found on the way: the same numbers as building all logits and differentiating."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import DenseLogits
from stillhouse.data.packing import to_batch
from stillhouse.kernels import chunked
from stillhouse.kernels.blocks import Block
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.terms import plain_losses
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import CATALOGUE

from .cases import (
    FORMS,
    HIDDEN,
    ON_TOKENS,
    TOKENS,
    VOCAB,
    answer,
    make_factors,
    make_targets,
    make_term,
    plain,
    serves,
    with_gradients,
)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), chunk_tokens=st.integers(1, TOKENS + 1))
def test_what_a_token_counts_for_may_differ_from_term_to_term(seed, chunk_tokens):
    (ids, weights), (_, other_weights) = make_targets(seed), make_targets(seed + 1)
    rows = torch.stack([weights, other_weights * (torch.arange(TOKENS) % 2)]).double()
    named = {
        "terms": [make_term("forward_kl"), make_term("next_token", weight=0.3)],
        "target_ids": ids,
        "token_weights": rows,
    }
    student, teacher = make_factors(seed), make_factors(seed + 1, learns=False)
    expected = with_gradients(plain, student, teacher, **named)
    assert_close(with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named), expected)


def _assert_as_plain(student, teacher, *, terms, target_ids, token_weights, chunk_tokens=None):
    named = {"terms": terms, "target_ids": target_ids, "token_weights": token_weights}
    found = with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    expected = with_gradients(plain, student, teacher, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours.isnan().any()
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        assert_close(chunked_losses(student, teacher, **named), found[:2], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dense", [False, True])
def test_a_term_without_weight_changes_nothing_even_where_it_is_infinite(dense):
    student, (ids, weights) = make_factors(0), make_targets(0)
    with torch.no_grad():
        student.bias[3] = -torch.inf  # the teacher may say it
    teacher, ids = make_factors(1, learns=False), ids.where(ids != 3, 4)

    def losses(student, *, terms):
        rows = weights.double().expand(len(terms), -1)
        if not dense:
            return chunked_losses(student, teacher, terms=terms, target_ids=ids, token_weights=rows)
        sides = (DenseLogits(side.dense()) for side in (student, teacher))
        return plain_losses(*sides, terms=terms, targets=ids, token_weights=rows)

    alone = with_gradients(losses, student, terms=[make_term("next_token", weight=0.3)])
    silent = [make_term("next_token", weight=0.3), make_term("forward_kl", weight=0.0)]
    loss, sums, *gradients = with_gradients(losses, student, terms=silent)
    assert sums[1] == torch.inf
    for ours, theirs in zip((loss, *gradients), (alone[0], *alone[2:]), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ON_TOKENS)
@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**31),
    chunk_tokens=st.integers(1, TOKENS + 1),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25, 3.0]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    masked=st.sets(st.integers(0, TOKENS - 1)),
)
def test_chunks_give_the_value_and_every_gradient_of_all_logits_at_once(
    name, data, seed, chunk_tokens, temperature, bias, scale, softcap, masked
):
    term = make_term(name, weight=0.7, temperature=temperature)
    form = data.draw(st.sampled_from([form for form in FORMS if serves(term, form)]))
    ids, weights = make_targets(seed)
    weights[list(masked)] = 0
    teacher = make_factors(seed + 1, hidden=HIDDEN + 2, bias=not bias, scale=scale, learns=False)
    _assert_as_plain(
        make_factors(seed, bias=bias, scale=scale, softcap=softcap),
        answer(teacher, form, temperature=temperature, seed=seed),
        terms=[term, make_term("next_token", weight=0.2)],
        target_ids=ids,
        token_weights=weights.double(),
        chunk_tokens=chunk_tokens,
    )


@pytest.mark.parametrize("form", FORMS)
def test_many_terms_share_what_is_found_of_both_sides(form):
    ids, weights = make_targets(0)
    terms = [make_term(name, weight=0.1 + place, temperature=2.0) for place, name in enumerate(ON_TOKENS)]
    said = answer(make_factors(1, learns=False), form, temperature=2.0)
    named = {"target_ids": ids, "token_weights": weights.double(), "chunk_tokens": 4}
    _assert_as_plain(make_factors(0), said, terms=[term for term in terms if serves(term, form)], **named)


@pytest.mark.parametrize("name", [name for name in ON_TOKENS if CATALOGUE[name].compares_distributions])
def test_the_whole_vocabulary_as_likeliest_tokens_is_as_good_as_logits(name):
    (ids, weights), student, teacher = make_targets(0), make_factors(0), make_factors(1, learns=False)
    named = {"terms": [make_term(name, temperature=2.0)], "target_ids": ids, "token_weights": weights.double()}
    found = with_gradients(chunked_losses, student, answer(teacher, "all of them", temperature=2.0), **named)
    for ours, theirs in zip(found, with_gradients(chunked_losses, student, teacher, **named), strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("banned", [None, 4])
def test_a_batch_without_weight_gives_zero_and_no_nan(form, banned):
    (ids, weights), student, teacher = make_targets(0), make_factors(0), make_factors(1, learns=False)
    if banned is not None:
        student.bias.data[banned] = -torch.inf
    said = answer(teacher, form)
    named = {"terms": [make_term("forward_kl"), make_term("next_token")], "target_ids": ids}
    loss, sums, *gradients = with_gradients(chunked_losses, student, said, token_weights=0 * weights, **named)
    assert loss == 0 and sums.tolist() == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_gradient_is_asked_for_once():
    ids, weights = make_targets(0)
    named = {"terms": [make_term("next_token")], "target_ids": ids, "token_weights": weights}
    loss, _ = chunked_losses(make_factors(0), None, **named)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="asked for once"):
        loss.backward()


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("reverse_kl", "drawn", "reverse_kl is not linear in the teacher's probabilities"),
        ("logit_mse", "likeliest", "logit_mse reads the teacher's logits themselves"),
        ("decoupled_kd", "likeliest", "decoupled_kd reads the label's own probability"),
    ],
)
def test_what_an_answer_cannot_give_is_refused_by_name(name, form, message):
    (ids, weights), said = make_targets(0), answer(make_factors(1, learns=False), form)
    named = {"target_ids": ids, "token_weights": weights}
    with pytest.raises(ModelError, match=message):
        chunked_losses(make_factors(0), said, terms=[make_term("next_token"), make_term(name)], **named)


@pytest.mark.parametrize("form", ["likeliest", "drawn"])
def test_another_temperature_or_vocabulary_than_the_stored_one_is_refused(form):
    (ids, weights), said = make_targets(0), answer(make_factors(1, learns=False), form)
    named = {"target_ids": ids, "token_weights": weights}
    with pytest.raises(ModelError, match="forward_kl has a temperature of 2, but the teacher was softened by 1"):
        chunked_losses(make_factors(0), said, terms=[make_term("forward_kl", temperature=2.0)], **named)
    with pytest.raises(ModelError, match="speaks of 9 tokens, but the student of 11"):
        chunked_losses(make_factors(0), replace(said, vocab_size=9), terms=[make_term("forward_kl")], **named)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_float32_is_as_good_in_chunks_as_at_once(name):
    student, teacher = make_factors(0, dtype=torch.float32), make_factors(1, dtype=torch.float32, learns=False)
    ids, weights = make_targets(0)
    named = {"terms": [make_term(name)], "target_ids": ids, "token_weights": weights}
    found = with_gradients(chunked_losses, student, teacher, chunk_tokens=2, **named)
    expected = with_gradients(plain, student, teacher, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _doubled(factors):
    """The same factors in float64, as leaves."""
    parts = (None if t is None else t.detach().double() for t in (factors.hidden, factors.weight, factors.bias))
    hidden, weight, bias = (None if t is None else t.requires_grad_() for t in parts)
    return replace(factors, hidden=hidden, weight=weight, bias=bias)


@pytest.mark.parametrize("chunk_tokens", [1, 16, 128])
def test_bfloat16_gradients_are_near_those_of_float64_however_many_chunks_add_up(chunk_tokens):
    tokens = 128
    student = make_factors(0, tokens=tokens, dtype=torch.bfloat16)
    teacher = make_factors(1, tokens=tokens, dtype=torch.bfloat16, learns=False)
    ids, weights = make_targets(0, tokens)
    named = {"terms": [make_term("forward_kl"), make_term("next_token")], "target_ids": ids, "token_weights": weights}
    found = with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    expected = with_gradients(plain, _doubled(student), _doubled(teacher), **named)
    assert_close(found[0].double(), expected[0], rtol=2e-3, atol=0)
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 5e-3 * theirs.norm()  # a bfloat16 is good to 4e-3


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), chunk_tokens=st.integers(1, 20), tokens=st.integers(0, 12))
def test_the_size_of_a_chunk_never_matters(seed, chunk_tokens, tokens):
    student, teacher = (
        make_factors(seed, tokens=tokens, softcap=5.0),
        make_factors(seed + 1, tokens=tokens, learns=False),
    )
    ids, weights = make_targets(seed, tokens)
    named = {"terms": [make_term("jsd")], "target_ids": ids, "token_weights": weights}
    some = with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    default = with_gradients(chunked_losses, student, teacher, **named)
    for ours, theirs in zip(some, default, strict=True):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("upstream", [3.0, -0.5, 0.0])
def test_the_gradient_that_comes_from_above_scales_all_others(upstream):
    student, teacher = make_factors(0), make_factors(1, learns=False)
    ids, weights = make_targets(0)
    named = {"terms": [make_term("forward_kl")], "target_ids": ids, "token_weights": weights, "chunk_tokens": 3}
    once = with_gradients(chunked_losses, student, teacher, **named)
    scaled = with_gradients(chunked_losses, student, teacher, upstream=upstream, **named)
    for ours, theirs in zip(scaled[2:], once[2:], strict=True):
        assert_close(ours, upstream * theirs)


def test_no_token_gives_zero_everywhere_and_no_nan():
    student, teacher = make_factors(0, tokens=0), make_factors(1, tokens=0, learns=False)
    ids, weights = make_targets(0, 0)
    named = {"terms": [make_term("forward_kl"), make_term("next_token")], "target_ids": ids, "token_weights": weights}
    loss, sums, *gradients = with_gradients(chunked_losses, student, teacher, **named)
    assert loss == 0 and sums.tolist() == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients)
    assert [gradient.shape for gradient in gradients] == [(0, HIDDEN), (VOCAB, HIDDEN), (VOCAB,)]


def test_a_term_shows_its_own_sum_without_its_weight():
    student, teacher = make_factors(0), make_factors(1, learns=False)
    ids, weights = make_targets(0)
    terms = [make_term("reverse_kl", weight=0.3), make_term("next_token", weight=5.0), make_term("jsd", weight=0.0)]
    loss, sums = chunked_losses(student, teacher, terms=terms, target_ids=ids, token_weights=weights)
    for term, found in zip(terms, sums, strict=True):
        _, (alone,) = plain(student, teacher, terms=[term], target_ids=ids, token_weights=weights)
        assert_close(found, alone)
    assert_close(loss, 0.3 * sums[0] + 5.0 * sums[1])
    assert not sums.requires_grad


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_needs_no_gradient_gets_none_and_the_rest_is_the_same(frozen):
    student, teacher = make_factors(0), make_factors(1, learns=False)
    ids, weights = make_targets(0)
    named = {"terms": [make_term("forward_kl")], "target_ids": ids, "token_weights": weights}
    *_, hidden, weight, bias = with_gradients(chunked_losses, student, teacher, **named)
    partly = replace(student, **{frozen: getattr(student, frozen).detach()})
    loss, _ = chunked_losses(partly, teacher, **named)
    loss.backward()
    for name, gradient in {"hidden": hidden, "weight": weight, "bias": bias}.items():
        found = getattr(partly, name).grad
        assert found is None if name == frozen else torch.equal(found, gradient)


@pytest.mark.parametrize("learns", [True, False])
def test_without_a_use_for_a_gradient_none_is_looked_for(learns, monkeypatch):
    slopes, (ids, weights) = [], make_targets(0)
    slope = Block.slope
    monkeypatch.setattr(Block, "slope", lambda *given: slopes.append(given) or slope(*given))
    named = {"terms": [make_term("next_token")], "target_ids": ids, "token_weights": weights}
    with torch.no_grad() if learns else torch.enable_grad():
        loss, _ = chunked_losses(make_factors(0, learns=learns), None, chunk_tokens=3, **named)
    assert not loss.requires_grad
    assert not slopes
    chunked_losses(make_factors(0), None, chunk_tokens=3, **named)
    assert len(slopes) == 3


def test_never_more_than_a_chunk_of_logits_is_built(monkeypatch):
    rooms, (ids, weights) = [], make_targets(0)
    project = chunked.project
    monkeypatch.setattr(chunked, "project", lambda *given, out: rooms.append(out) or project(*given, out=out))
    named = {"terms": [make_term("forward_kl")], "target_ids": ids, "token_weights": weights}
    chunked_losses(make_factors(0), make_factors(1, learns=False), chunk_tokens=3, **named)
    assert [len(room) for room in rooms] == [3, 3, 3, 3, 1, 1]
    assert len({room.data_ptr() for room in rooms}) == 2  # a student's and a teacher's, used again and again


@pytest.mark.parametrize("banned_by", ["teacher", "student", "both"])
@pytest.mark.parametrize("name", ON_TOKENS)
def test_banned_tokens_are_worth_in_chunks_what_they_are_worth_at_once(name, banned_by):
    (ids, weights), (student, teacher) = make_targets(0), (make_factors(0), make_factors(1, learns=False))
    for side, factors in {"student": student, "teacher": teacher}.items():
        if banned_by in (side, "both"):
            factors.bias.data[4] = -torch.inf
    terms = [make_term(name, temperature=2.0), make_term("next_token", weight=0.5)]
    named = {"target_ids": torch.where(ids == 4, 0, ids), "token_weights": weights.double(), "chunk_tokens": 2}
    for form in FORMS:
        if serves(terms[0], form):
            _assert_as_plain(student, answer(teacher, form, temperature=2.0), terms=terms, **named)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_logits_far_from_zero_are_as_good_as_near_it(name):
    """A bias that is the same for all tokens changes nothing, however large."""
    found, (ids, weights) = [], make_targets(0)
    for offset in (0.0, 1e4):
        student, teacher = make_factors(0), make_factors(1, learns=False)
        student.bias.data += offset
        teacher.bias.data += offset
        named = {"terms": [make_term(name, temperature=2.0)], "target_ids": ids, "token_weights": weights.double()}
        found.append(with_gradients(chunked_losses, student, teacher, **named))
    for far, near in zip(*found, strict=True):
        assert_close(far, near, rtol=1e-7, atol=1e-9)


def test_no_gradient_reaches_the_teacher():
    student, teacher = make_factors(0), make_factors(1, learns=True)
    ids, weights = make_targets(0)
    loss, _ = chunked_losses(student, teacher, terms=[make_term("jsd")], target_ids=ids, token_weights=weights)
    loss.backward()
    assert teacher.hidden.grad is None and teacher.weight.grad is None and teacher.bias.grad is None


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "cohere", "phi"])
def test_through_a_whole_model_with_tied_or_separate_head_the_gradient_is_autograds(build_model, build_example, family):
    student, teacher = build_model(family).double(), build_model(family, seed=1).double().requires_grad_(False)
    batch = to_batch([[build_example(0, 12)], [build_example(1, 9, prompt=4)]])
    named = {
        "terms": [make_term("forward_kl", temperature=2.0), make_term("next_token", weight=0.1)],
        "target_ids": batch.targets,
        "token_weights": batch.target_weights.double(),
    }
    found = []
    for losses in (chunked_losses, plain):
        student.zero_grad()
        ours, theirs = (factored_logits(model, batch).at(batch.predicts) for model in (student, teacher))
        losses(ours, theirs, **named)[0].backward()
        found.append({name: parameter.grad.clone() for name, parameter in student.named_parameters()})
    for name, gradient in found[1].items():
        assert_close(found[0][name], gradient, rtol=1e-8, atol=1e-9, msg=name)
