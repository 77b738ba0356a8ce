"""What a model writes: transformers' own text where nothing is drawn, its softmax where something is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from stillhouse.core.errors import ModelError
from stillhouse.models.generate import Sampling, _draw, generate, stop_ids_of

GREEDY = Sampling(temperature=0, max_new_tokens=16)
LENGTHS = (3, 14, 7, 1)


def _prompts(build_example, *, vocab=300):
    return [list(build_example(seed, length, vocab=vocab).ids) for seed, length in enumerate(LENGTHS)]


def _own_greedy(model, prompt, *, tokens=16):
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
    assert [generate(model, [prompt], sampling=GREEDY, seed=0, stop_ids=set())[0] for prompt in prompts] == own
    assert generate(model, prompts, sampling=GREEDY, seed=0, stop_ids=set()) == own


def test_finished_rows_leave_without_changing_the_others(any_family, build_model, build_example):
    model, prompts = build_model(any_family), _prompts(build_example)
    sampling = Sampling(temperature=1.0, max_new_tokens=16)
    endless = generate(model, prompts, sampling=sampling, seed=3, stop_ids=set())
    stops = {endless[0][4], endless[2][9]}
    stopped = generate(model, prompts, sampling=sampling, seed=3, stop_ids=stops)
    assert stopped == [_cut(tokens, stops) for tokens in endless]
    assert len({len(tokens) for tokens in stopped}) > 1  # rows did leave at different times


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


def _nucleus(probs, top_p):
    """By definition: take tokens from the likeliest on until they reach the share."""
    kept, mass = torch.zeros_like(probs), 0.0
    for token in probs.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        kept[token], mass = probs[token], mass + float(probs[token])
    return kept / kept.sum()


@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(build_model, temperature, top_p):
    model, prompt, draws = build_model(vocab=12), [3, 5, 2], 20_000
    with torch.no_grad():
        probs = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
    expected = _nucleus(probs, top_p)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=1)
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


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), point=st.sampled_from([0.0, 1e-30, 0.5, 1 - 2**-24]), top_p=st.floats(0.01, 1.0))
def test_no_draw_falls_on_a_token_without_probability(seed, point, top_p):
    logits = 5 * torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
    logits[:, :7] = logits[:, 40:] = -torch.inf
    chosen = _draw(logits, Sampling(top_p=top_p), torch.full((4, 1), point))
    assert ((chosen >= 7) & (chosen < 40)).all()


def test_a_small_nucleus_is_greedy(build_model, build_example):
    model, prompts = build_model(), _prompts(build_example)
    nearly = Sampling(temperature=1.0, top_p=1e-6, max_new_tokens=16)
    assert generate(model, prompts, sampling=nearly, seed=0) == generate(model, prompts, sampling=GREEDY, seed=0)


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
