"""Chunk by chunk, with the gradient found on the way: the same numbers as building all logits and differentiating."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.core.signals import DenseLogits, FactoredLogits
from stillhouse.data.packing import to_batch
from stillhouse.kernels import chunked
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.slopes import CLOSED_FORMS
from stillhouse.kernels.terms import Term, plain_losses
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import CATALOGUE, objective

TOKENS, HIDDEN, VOCAB = 7, 5, 11
ON_TOKENS = [name for name, entry in CATALOGUE.items() if "target_values" not in entry.reads]


def _term(name, *, weight=1.0, temperature=1.0):
    chosen = objective(name)
    softness = temperature if chosen.takes_temperature else 1.0
    return Term(name, weight, softness)


def _factors(seed, *, tokens=TOKENS, dtype=torch.float64, bias=True, scale=1.0, softcap=None, learns=True):
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_(learns)

    return FactoredLogits(drawn(tokens, HIDDEN), drawn(VOCAB, HIDDEN), drawn(VOCAB) if bias else None, scale, softcap)


def _targets(seed, tokens=TOKENS):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (tokens,), generator=random), 0.1 + torch.rand(tokens, generator=random)


def _dense(student, teacher, *, terms, target_ids, token_weights):
    """The slow twin: all logits at once, torch's own differentiation."""
    said = None if teacher is None else teacher.dense()
    rows = token_weights.expand(len(terms), -1)
    values = [term.objective(student.dense(), said, target_ids) for term in terms]
    sums = [(value * weights)[weights > 0].sum() for value, weights in zip(values, rows, strict=True)]
    return sum(term.weight * value for term, value in zip(terms, sums, strict=True)), torch.stack(sums).detach()


def _with_gradients(losses, student, *arguments, upstream=1.0, **named):
    inputs = [tensor for tensor in (student.hidden, student.weight, student.bias) if tensor is not None]
    loss, sums = losses(student, *arguments, **named)
    return loss.detach(), sums, *torch.autograd.grad(loss * upstream, inputs)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), chunk_tokens=st.integers(1, TOKENS + 1))
def test_what_a_token_counts_for_may_differ_from_term_to_term(seed, chunk_tokens):
    (ids, weights), (_, other_weights) = _targets(seed), _targets(seed + 1)
    rows = torch.stack([weights, other_weights * (torch.arange(TOKENS) % 2)]).double()
    named = {"terms": [_term("forward_kl"), _term("next_token", weight=0.3)], "target_ids": ids, "token_weights": rows}
    student, teacher = _factors(seed), _factors(seed + 1, learns=False)
    expected = _with_gradients(_dense, student, teacher, **named)
    assert_close(_with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named), expected)


@pytest.mark.parametrize("dense", [False, True])
def test_a_term_without_weight_changes_nothing_even_where_it_is_infinite(dense):
    student, (ids, weights) = _factors(0), _targets(0)
    with torch.no_grad():
        student.bias[3] = -torch.inf  # the teacher may say it
    teacher, ids = _factors(1, learns=False), ids.where(ids != 3, 4)

    def losses(student, *, terms):
        rows = weights.double().expand(len(terms), -1)
        if not dense:
            return chunked_losses(student, teacher, terms=terms, target_ids=ids, token_weights=rows)
        sides = (DenseLogits(side.dense()) for side in (student, teacher))
        return plain_losses(*sides, terms=terms, targets=ids, token_weights=rows)

    alone = _with_gradients(losses, student, terms=[_term("next_token", weight=0.3)])
    silent = [_term("next_token", weight=0.3), _term("forward_kl", weight=0.0)]
    loss, sums, *gradients = _with_gradients(losses, student, terms=silent)
    assert sums[1] == torch.inf
    for ours, theirs in zip((loss, *gradients), (alone[0], *alone[2:]), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ON_TOKENS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    chunk_tokens=st.integers(1, TOKENS + 1),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25, 3.0]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
)
def test_chunks_give_the_value_and_every_gradient_of_all_logits_at_once(
    name, seed, chunk_tokens, temperature, bias, scale, softcap
):
    student = _factors(seed, bias=bias, scale=scale, softcap=softcap)
    teacher = _factors(seed + 1, bias=not bias, scale=scale, learns=False)
    ids, weights = _targets(seed)
    named = {
        "terms": [_term(name, weight=0.7, temperature=temperature), _term("next_token", weight=0.2)],
        "target_ids": ids,
        "token_weights": weights.double(),
    }
    found = _with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    expected = _with_gradients(_dense, student, teacher, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_float32_is_as_good_in_chunks_as_at_once(name):
    student, teacher = _factors(0, dtype=torch.float32), _factors(1, dtype=torch.float32, learns=False)
    ids, weights = _targets(0)
    named = {"terms": [_term(name)], "target_ids": ids, "token_weights": weights}
    found = _with_gradients(chunked_losses, student, teacher, chunk_tokens=2, **named)
    expected = _with_gradients(_dense, student, teacher, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _doubled(factors):
    """The same factors in float64, as leaves."""
    parts = (None if t is None else t.detach().double() for t in (factors.hidden, factors.weight, factors.bias))
    hidden, weight, bias = (None if t is None else t.requires_grad_() for t in parts)
    return replace(factors, hidden=hidden, weight=weight, bias=bias)


@pytest.mark.parametrize("chunk_tokens", [1, 16, 256])
def test_bfloat16_gradients_are_near_those_of_float64_however_many_chunks_add_up(chunk_tokens):
    tokens = 256
    student = _factors(0, tokens=tokens, dtype=torch.bfloat16)
    teacher = _factors(1, tokens=tokens, dtype=torch.bfloat16, learns=False)
    ids, weights = _targets(0, tokens)
    named = {"terms": [_term("forward_kl"), _term("next_token")], "target_ids": ids, "token_weights": weights}
    found = _with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    expected = _with_gradients(_dense, _doubled(student), _doubled(teacher), **named)
    assert_close(found[0].double(), expected[0], rtol=2e-3, atol=0)
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 5e-3 * theirs.norm()  # a bfloat16 is good to 4e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), chunk_tokens=st.integers(1, 20), tokens=st.integers(0, 12))
def test_the_size_of_a_chunk_never_matters(seed, chunk_tokens, tokens):
    student, teacher = _factors(seed, tokens=tokens, softcap=5.0), _factors(seed + 1, tokens=tokens, learns=False)
    ids, weights = _targets(seed, tokens)
    named = {"terms": [_term("jsd")], "target_ids": ids, "token_weights": weights}
    some = _with_gradients(chunked_losses, student, teacher, chunk_tokens=chunk_tokens, **named)
    default = _with_gradients(chunked_losses, student, teacher, **named)
    for ours, theirs in zip(some, default, strict=True):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("upstream", [3.0, -0.5, 0.0])
def test_the_gradient_that_comes_from_above_scales_all_others(upstream):
    student, teacher = _factors(0), _factors(1, learns=False)
    ids, weights = _targets(0)
    named = {"terms": [_term("forward_kl")], "target_ids": ids, "token_weights": weights, "chunk_tokens": 3}
    once = _with_gradients(chunked_losses, student, teacher, **named)
    scaled = _with_gradients(chunked_losses, student, teacher, upstream=upstream, **named)
    for ours, theirs in zip(scaled[2:], once[2:], strict=True):
        assert_close(ours, upstream * theirs)


def test_no_token_gives_zero_everywhere_and_no_nan():
    student, teacher = _factors(0, tokens=0), _factors(1, tokens=0, learns=False)
    ids, weights = _targets(0, 0)
    named = {"terms": [_term("forward_kl"), _term("next_token")], "target_ids": ids, "token_weights": weights}
    loss, sums, *gradients = _with_gradients(chunked_losses, student, teacher, **named)
    assert loss == 0 and sums.tolist() == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients)
    assert [gradient.shape for gradient in gradients] == [(0, HIDDEN), (VOCAB, HIDDEN), (VOCAB,)]


def test_a_term_shows_its_own_sum_without_its_weight():
    student, teacher = _factors(0), _factors(1, learns=False)
    ids, weights = _targets(0)
    terms = [_term("reverse_kl", weight=0.3), _term("next_token", weight=5.0), _term("jsd", weight=0.0)]
    loss, sums = chunked_losses(student, teacher, terms=terms, target_ids=ids, token_weights=weights)
    for term, found in zip(terms, sums, strict=True):
        _, (alone,) = _dense(student, teacher, terms=[term], target_ids=ids, token_weights=weights)
        assert_close(found, alone)
    assert_close(loss, 0.3 * sums[0] + 5.0 * sums[1])
    assert not sums.requires_grad


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_needs_no_gradient_gets_none_and_the_rest_is_the_same(frozen):
    student, teacher = _factors(0), _factors(1, learns=False)
    ids, weights = _targets(0)
    named = {"terms": [_term("forward_kl")], "target_ids": ids, "token_weights": weights}
    *_, hidden, weight, bias = _with_gradients(chunked_losses, student, teacher, **named)
    partly = replace(student, **{frozen: getattr(student, frozen).detach()})
    loss, _ = chunked_losses(partly, teacher, **named)
    loss.backward()
    for name, gradient in {"hidden": hidden, "weight": weight, "bias": bias}.items():
        found = getattr(partly, name).grad
        assert found is None if name == frozen else torch.equal(found, gradient)


@pytest.mark.parametrize("learns", [True, False])
def test_without_a_use_for_a_gradient_none_is_looked_for(learns, monkeypatch):
    slopes, (ids, weights) = [], _targets(0)
    plain = chunked.value_and_slope
    monkeypatch.setattr(chunked, "value_and_slope", lambda *given: slopes.append(given) or plain(*given))
    named = {"terms": [_term("next_token")], "target_ids": ids, "token_weights": weights}
    with torch.no_grad() if learns else torch.enable_grad():
        loss, _ = chunked_losses(_factors(0, learns=learns), None, chunk_tokens=3, **named)
    assert not loss.requires_grad
    assert not slopes
    chunked_losses(_factors(0), None, chunk_tokens=3, **named)
    assert len(slopes) == 3


def test_never_more_than_a_chunk_of_logits_is_built(monkeypatch):
    sizes, (ids, weights) = [], _targets(0)
    plain = FactoredLogits.dense
    monkeypatch.setattr(FactoredLogits, "dense", lambda self: sizes.append(len(self.hidden)) or plain(self))
    named = {"terms": [_term("forward_kl")], "target_ids": ids, "token_weights": weights}
    chunked_losses(_factors(0), _factors(1, learns=False), chunk_tokens=3, **named)
    assert sizes == [3, 3, 3, 3, 1, 1]


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_closed_form_stands_aside_where_a_token_is_banned(name):
    student, teacher = torch.randn(3, VOCAB), torch.randn(3, VOCAB)
    student[1, 4] = teacher[1, 4] = -torch.inf
    term = _term(name)
    value, slope = chunked.value_and_slope(term, student, teacher, torch.tensor([0, 1, 2]))
    assert_close(value, term.objective(student, teacher, torch.tensor([0, 1, 2])))
    assert slope.isfinite().all()
    assert slope[1, 4] == 0


@pytest.mark.parametrize("banned_by", ["teacher", "student", "both"])
@pytest.mark.parametrize("name", ON_TOKENS)
def test_banned_tokens_are_worth_in_chunks_what_they_are_worth_at_once(name, banned_by):
    (ids, weights), (student, teacher) = _targets(0), (_factors(0), _factors(1, learns=False))
    allowed = ids != 4
    for side, factors in {"student": student, "teacher": teacher}.items():
        if banned_by in (side, "both"):
            factors.bias.data[4] = -torch.inf
    student = replace(student, hidden=student.hidden.detach()[allowed].requires_grad_())
    teacher = replace(teacher, hidden=teacher.hidden[allowed])
    terms = [_term(name, temperature=2.0), _term("next_token", weight=0.5)]
    named = {"terms": terms, "target_ids": ids[allowed], "token_weights": weights[allowed].double()}
    found = _with_gradients(chunked_losses, student, teacher, chunk_tokens=2, **named)
    expected = _with_gradients(_dense, student, teacher, **named)
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours.isnan().any()
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_logits_far_from_zero_are_as_good_as_near_it(name):
    """A bias that is the same for all tokens changes nothing, however large."""
    found, (ids, weights) = [], _targets(0)
    for offset in (0.0, 1e4):
        student, teacher = _factors(0), _factors(1, learns=False)
        student.bias.data += offset
        teacher.bias.data += offset
        named = {"terms": [_term(name, temperature=2.0)], "target_ids": ids, "token_weights": weights.double()}
        found.append(_with_gradients(chunked_losses, student, teacher, **named))
    for far, near in zip(*found, strict=True):
        assert_close(far, near, rtol=1e-7, atol=1e-9)


def test_no_gradient_reaches_the_teacher():
    student, teacher = _factors(0), _factors(1, learns=True)
    ids, weights = _targets(0)
    loss, _ = chunked_losses(student, teacher, terms=[_term("jsd")], target_ids=ids, token_weights=weights)
    loss.backward()
    assert teacher.hidden.grad is None and teacher.weight.grad is None and teacher.bias.grad is None


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "cohere", "phi"])
def test_through_a_whole_model_with_tied_or_separate_head_the_gradient_is_autograds(build_model, build_example, family):
    student, teacher = build_model(family).double(), build_model(family, seed=1).double().requires_grad_(False)
    batch = to_batch([[build_example(0, 12)], [build_example(1, 9, prompt=4)]])
    named = {
        "terms": [_term("forward_kl", temperature=2.0), _term("next_token", weight=0.1)],
        "target_ids": batch.targets,
        "token_weights": batch.target_weights.double(),
    }
    found = []
    for losses in (chunked_losses, _dense):
        student.zero_grad()
        ours, theirs = (factored_logits(model, batch).at(batch.predicts) for model in (student, teacher))
        losses(ours, theirs, **named)[0].backward()
        found.append({name: parameter.grad.clone() for name, parameter in student.named_parameters()})
    for name, gradient in found[1].items():
        assert_close(found[0][name], gradient, rtol=1e-8, atol=1e-9, msg=name)
