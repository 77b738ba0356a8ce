"""What a model writes: transformers' own text where nothing is drawn, its softmax where something is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.testing import assert_close
from transformers import TopKLogitsWarper, TopPLogitsWarper

from stillhouse.core.errors import ModelError
from stillhouse.models.generate import (
    NUCLEUS_TOKENS,
    Sampling,
    drawn_at,
    generate,
    probabilities,
    sample,
    stop_ids_of,
    stream,
)

GREEDY = Sampling(temperature=0, max_new_tokens=9)
LENGTHS = (3, 14, 7, 1)


def _prompts(build_example, *, vocab=300):
    return [list(build_example(seed, length, vocab=vocab).ids) for seed, length in enumerate(LENGTHS)]


def _own_greedy(model, prompt, *, tokens=GREEDY.max_new_tokens):
    """The same by transformers, one prompt at a time and never stopping."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=None,
        pad_token_id=1,
    )
    return out[0, len(prompt) :].tolist()


def _cut(tokens, stops):
    """Up to the first stop token, which is kept."""
    return tokens[: next((place for place, token in enumerate(tokens, 1) if token in stops), len(tokens))]


def test_greedy_text_is_transformers_own_whatever_the_other_rows_are(any_family, build_model, build_example):
    model, prompts = build_model(any_family), _prompts(build_example)
    own = [_own_greedy(model, prompt) for prompt in prompts]
    assert generate(model, prompts, sampling=GREEDY, seed=0, stop_ids=set()) == own


def test_finished_rows_leave_without_changing_the_others(any_family, build_model, build_example):
    model, prompts = build_model(any_family), _prompts(build_example)
    sampling = Sampling(temperature=1.0, max_new_tokens=16)
    endless = generate(model, prompts, sampling=sampling, seed=3, stop_ids=set())
    stops = {endless[0][4], endless[2][9]}
    stopped = generate(model, prompts, sampling=sampling, seed=3, stop_ids=stops)
    assert stopped == [_cut(tokens, stops) for tokens in endless]
    assert len({len(tokens) for tokens in stopped}) > 1  # rows did leave at different times


def test_a_stream_has_the_tokens_of_the_whole_one_by_one(build_model, build_example):
    model = build_model(vocab=12).train()
    for number, prompt in enumerate(_prompts(build_example, vocab=12)):
        sampling = Sampling(temperature=1.0, max_new_tokens=24)
        (whole,) = sample(model, [prompt], sampling=sampling, seed=number, stop_ids={1}, vocab_size=11)
        words = stream(model, prompt, sampling=sampling, seed=number, stop_ids={1}, vocab_size=11)
        first = next(words)
        assert not model.training  # as in use, and only while it speaks
        assert [first, *words] == whole.tokens
        assert model.training


def test_a_finished_text_has_one_stop_token_and_has_it_last(build_model, build_example):
    model = build_model(vocab=12)
    texts = generate(model, _prompts(build_example, vocab=12), sampling=Sampling(max_new_tokens=40), seed=0)
    for tokens in texts:
        assert 1 not in tokens[:-1]
        assert tokens[-1] == 1 or len(tokens) == 40


def test_a_prompt_may_hold_the_token_that_pads_and_ends(build_model, build_example):
    model = build_model()  # its padding token is its end token
    prompts = [[1, 5, 1, 9], [0, 0, 7], [1], [8, 3, 2, 6, 0, 1, 1]]
    assert model.config.pad_token_id == model.config.eos_token_id == 1
    own = [_cut(_own_greedy(model, prompt), {1}) for prompt in prompts]
    assert generate(model, prompts, sampling=GREEDY, seed=0) == own


@pytest.mark.parametrize(("eos", "stops"), [(None, set()), (7, {7}), ([7, 2, 9], {2, 7, 9})])
def test_every_end_token_of_the_generation_config_ends_a_text(build_model, eos, stops):
    model = build_model()
    model.generation_config.eos_token_id = eos
    assert stop_ids_of(model) == stops


def test_every_stop_token_stops(build_model, build_example):
    model, prompts = build_model(), _prompts(build_example)
    endless = generate(model, prompts, sampling=GREEDY, seed=0, stop_ids=set())
    model.generation_config.eos_token_id = [tokens[index] for index, tokens in enumerate(endless)]
    stops = set(model.generation_config.eos_token_id)
    assert generate(model, prompts, sampling=GREEDY, seed=0) == [_cut(tokens, stops) for tokens in endless]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(build_model, build_example):
    model, prompts = build_model(), _prompts(build_example)
    torch.manual_seed(1)
    first = generate(model, prompts, sampling=Sampling(max_new_tokens=16), seed=5)
    torch.manual_seed(2)
    assert generate(model, prompts, sampling=Sampling(max_new_tokens=16), seed=5) == first
    assert generate(model, prompts, sampling=Sampling(max_new_tokens=16), seed=6) != first


def test_what_is_drawn_for_a_row_does_not_depend_on_the_other_rows(build_model, build_example):
    model, prompts = build_model(vocab=20), _prompts(build_example, vocab=20)
    others = [prompts[0], *reversed(prompts[1:])]
    sampling = Sampling(max_new_tokens=24)
    first, second = (generate(model, some, sampling=sampling, seed=0, stop_ids={3}) for some in (prompts, others))
    assert first[0] == second[0]
    assert first[1:] != second[1:]


def _by_transformers(logits, sampling):
    """The probabilities that transformers would draw with."""
    scores = logits[None] / sampling.temperature
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return scores[0].softmax(-1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(0.5, None, 1.0), (1.0, None, 1.0), (2.0, None, 0.7), (0.5, 5, 1.0), (1.0, 5, 0.7), (2.0, 3, 0.7), (1.0, 99, 1.0)],
)
def test_tokens_are_drawn_as_often_as_the_softmax_says(build_model, temperature, top_k, top_p):
    model, prompt, draws = build_model(vocab=12), [3, 5, 2], 3000
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=1)
    with torch.no_grad():
        expected = _by_transformers(model(torch.tensor([prompt])).logits[0, -1].double(), sampling)
    drawn = torch.tensor(generate(model, [prompt] * draws, sampling=sampling, seed=0))[:, 0]
    counts = torch.bincount(drawn, minlength=12)
    assert counts[expected == 0].sum() == 0
    some = expected * draws > 5  # what chi-square needs
    rest = lambda values: [*values[some].tolist(), float(values[~some].sum())]  # noqa: E731
    observed, wanted = rest(counts), rest(expected * draws)
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_successive_tokens_of_a_row_are_drawn_independently(build_model):
    model = build_model(vocab=12)
    for parameter in model.parameters():
        parameter.data.zero_()  # every token is as likely as any other, whatever came before
    texts = generate(model, [[2]] * 3000, sampling=Sampling(max_new_tokens=2), seed=0, stop_ids=set())
    pairs = torch.tensor(texts)[:, 0] * 12 + torch.tensor(texts)[:, 1]
    assert chisquare(torch.bincount(pairs, minlength=144).tolist()).pvalue > 1e-3


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_a_nucleus_wider_than_is_looked_for_first_is_found_too(spread):
    logits = spread * torch.randn(3, 2 * NUCLEUS_TOKENS, generator=torch.Generator().manual_seed(1)).double()
    logits[1] *= 10
    sampling = Sampling(top_p=0.9)
    found = probabilities(logits, sampling)
    torch.testing.assert_close(found, torch.stack([_by_transformers(row, sampling) for row in logits]))
    assert (found[0] > 0).sum() > (found[1] > 0).sum()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), point=st.sampled_from([0.0, 1e-30, 0.5, 1 - 2**-24]), top_p=st.floats(0.01, 1.0))
def test_no_draw_falls_on_a_token_without_probability(seed, point, top_p):
    logits = 5 * torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
    logits[:, :7] = logits[:, 40:] = -torch.inf
    chosen = drawn_at(probabilities(logits, Sampling(top_p=top_p)), torch.full((4, 1), point))
    assert ((chosen >= 7) & (chosen < 40)).all()


def test_a_small_nucleus_is_greedy(build_model, build_example):
    model, prompts = build_model(), _prompts(build_example)
    nearly = Sampling(temperature=1.0, top_p=1e-6, max_new_tokens=GREEDY.max_new_tokens)
    assert generate(model, prompts, sampling=nearly, seed=0) == generate(model, prompts, sampling=GREEDY, seed=0)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_prompt_with_its_number_is_answered_alike_in_any_company(build_model, build_example, batch_size):
    model, prompts = build_model(vocab=20), _prompts(build_example, vocab=20)
    sampling = Sampling(max_new_tokens=24)
    alone = [sample(model, [prompts[n]], sampling=sampling, seed=0, numbers=[n], stop_ids={3})[0] for n in range(4)]
    numbers = [2, 0, 3]
    some = [prompts[n] for n in numbers]
    found = sample(model, some, sampling=sampling, seed=0, numbers=numbers, stop_ids={3}, batch_size=batch_size)
    assert [one.tokens for one in found] == [alone[n].tokens for n in numbers]
    assert [one.tokens for one in sample(model, some, sampling=sampling, seed=0)] != [one.tokens for one in found]


def test_the_log_probabilities_are_those_of_one_forward_pass(any_family, build_model, build_example):
    model, prompts = build_model(any_family, max_position_embeddings=48), _prompts(build_example)
    sampling = Sampling(temperature=2.0, top_k=9, top_p=0.9, max_new_tokens=24)
    for prompt, written in zip(prompts, sample(model, prompts, sampling=sampling, seed=0), strict=True):
        ids = torch.tensor([prompt + written.tokens])
        with torch.no_grad():
            logprobs = model(ids[:, :-1]).logits[0].float().log_softmax(-1)
        own = logprobs[len(prompt) - 1 :].gather(-1, ids[0, len(prompt) :, None])[:, 0]
        assert_close(torch.tensor(written.logprobs), own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12),
        Sampling(temperature=2.0, top_k=9, top_p=0.7, max_new_tokens=12),
        Sampling(temperature=0.5, top_p=0.9, max_new_tokens=12),
        Sampling(temperature=0, max_new_tokens=12),
    ],
)
def test_each_token_comes_with_the_probability_of_its_draw(build_model, build_example, sampling):
    model, prompts = build_model(vocab=20), _prompts(build_example, vocab=20)
    for prompt, written in zip(prompts, sample(model, prompts, sampling=sampling, seed=0), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + written.tokens])).logits[0, len(prompt) - 1 : -1]
        if sampling.temperature == 0:
            assert written.draw_logprobs == [0.0] * len(written.tokens)
            continue
        drawn = [_by_transformers(row, sampling)[token] for row, token in zip(logits, written.tokens, strict=True)]
        assert_close(torch.tensor(written.draw_logprobs), torch.stack(drawn).log(), atol=1e-4, rtol=1e-4)
        if sampling == Sampling(max_new_tokens=12):
            assert_close(written.draw_logprobs, written.logprobs, atol=1e-5, rtol=1e-5)


def test_a_model_in_training_writes_as_in_use_and_goes_on_training(build_model, build_example):
    model, prompts = build_model(attention_dropout=0.5), _prompts(build_example)
    sampling = Sampling(max_new_tokens=16)
    expected = sample(model, prompts, sampling=sampling, seed=0)
    model.activation_checkpointing_enable()
    model.train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    assert sample(model, prompts, sampling=sampling, seed=0) == expected
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(AssertionError, match="nothing to go on from"):
        sample(model, [[]], sampling=sampling, seed=0)
    assert [module.training for module in model.modules()] == modes
    assert model.is_activation_checkpointing


def test_what_pads_the_head_is_never_drawn(build_model, build_example):
    model, prompts = build_model(vocab=30), _prompts(build_example, vocab=20)
    padded = sample(model, prompts, sampling=Sampling(max_new_tokens=16), seed=0, vocab_size=20, stop_ids=set())
    model.resize_token_embeddings(20)
    assert padded == sample(model, prompts, sampling=Sampling(max_new_tokens=16), seed=0, stop_ids=set())


def test_no_prompt_grows_beyond_the_most_tokens(build_model, build_example):
    prompts = _prompts(build_example)
    found = sample(build_model(), prompts, sampling=GREEDY, seed=0, stop_ids=set(), max_tokens=15)
    assert [len(one.tokens) for one in found] == [9, 1, 8, 9]
    endless = generate(build_model(), prompts, sampling=GREEDY, seed=0, stop_ids=set())
    assert [one.tokens for one in found] == [t[: len(one.tokens)] for t, one in zip(endless, found, strict=True)]


def test_no_prompt_gives_no_text(build_model):
    assert generate(build_model(), [], sampling=GREEDY, seed=0) == []


def test_a_model_that_cannot_remember_is_refused(build_model):
    with pytest.raises(ModelError, match="MambaForCausalLM keeps no key-value cache"):
        generate(build_model("mamba"), [[3, 4]], sampling=GREEDY, seed=0)


def test_writing_leaves_no_trace_in_the_model(build_model, build_example):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generate(model, _prompts(build_example), sampling=Sampling(max_new_tokens=8), seed=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_text_ends_where_the_model_has_no_more_positions(build_model, build_example):
    model = build_model("gpt2", max_position_embeddings=20)
    prompts = [[3], _prompts(build_example)[1], list(build_example(9, 20).ids)]  # of 1, 14 and 20 tokens
    texts = generate(model, prompts, sampling=Sampling(temperature=0, max_new_tokens=50), seed=0, stop_ids=set())
    assert [len(tokens) for tokens in texts] == [20, 7, 1]  # the last token written is never read
