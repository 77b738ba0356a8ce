"""Texts that are written in turns, in slots: each is the one that the model writes alone."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from stillhouse.models import generate, slots
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.slots import can_take_turns

LENGTHS = (3, 14, 7, 1, 2, 21, 5, 11)
STOPS = {3, 4, 5, 6}
VOCAB = 40


@pytest.fixture
def prompts(build_example):
    return [list(build_example(seed, length, vocab=VOCAB).ids) for seed, length in enumerate(LENGTHS)]


def test_texts_in_turns_are_those_written_alone(any_family, build_model, prompts, monkeypatch):
    """Where windows slide, caps hold and everything is moved often too."""
    model, sampling = build_model(any_family, vocab=VOCAB), Sampling(max_new_tokens=16)
    alone = [
        sample(model, [prompt], sampling=sampling, seed=0, numbers=[number], stop_ids=STOPS)[0]
        for number, prompt in enumerate(prompts)
    ]
    said = [_said_of(model, prompt, one.tokens) for prompt, one in zip(prompts, alone, strict=True)]
    assert len({len(one.tokens) for one in alone}) > 3  # rows do leave at different times
    for batch_size, spare in [(3, 1), (None, 4)]:
        monkeypatch.setattr(slots, "SPARE_COLUMNS", spare)
        together = sample(model, prompts, sampling=sampling, seed=0, stop_ids=STOPS, batch_size=batch_size)
        assert [one.tokens for one in together] == [one.tokens for one in alone]
        for one, logprobs in zip(together, said, strict=True):
            assert_close(torch.tensor(one.logprobs), logprobs, atol=1e-4, rtol=1e-4)


def _said_of(model, prompt, tokens):
    """The log-probability of each token, by a model that reads the text as a whole, alone and without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def test_nobody_is_computed_after_the_end_and_nobody_waits_for_others(build_model, prompts, monkeypatch):
    model, passes = build_model(vocab=VOCAB, layers=2), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(generate, "SMALL_PADDING", 3)
    asked = sorted((prompt for prompt in prompts if len(prompt) != 2), key=len)
    written = sample(model, asked, sampling=Sampling(max_new_tokens=24), seed=0, stop_ids=STOPS, batch_size=4)
    lengths = [len(one.tokens) for one in written]
    assert sum(rows for rows, width in passes if width > 1) == sum(len(prompt) > 1 for prompt in asked)
    read_before = sum(len(prompt) - 1 for prompt in asked)
    most_padding = generate.PADDING_SHARE * read_before + generate.SMALL_PADDING
    assert sum(rows * width for rows, width in passes if width > 1) <= read_before + most_padding
    assert sum(rows for rows, width in passes if width == 1) == sum(lengths)
    assert sum(width == 1 for _, width in passes) == _steps(lengths, at_once=4)


def _steps(lengths, *, at_once):
    """How long this takes where who has finished is replaced at once."""
    busy = [0] * at_once
    for length in lengths:
        soonest = busy.index(min(busy))
        busy[soonest] += length
    return max(busy)


def test_the_cache_is_made_once(build_model, prompts, monkeypatch):
    made = []
    lazily = slots._SlotLayer.lazy_initialization
    monkeypatch.setattr(
        slots._SlotLayer, "lazy_initialization", lambda self, *states: (made.append(self), lazily(self, *states))
    )
    sample(build_model(layers=2), prompts, sampling=Sampling(max_new_tokens=90), seed=0, stop_ids=STOPS, batch_size=3)
    assert len(made) == 2


def test_families_that_remember_more_than_keys_and_values_do_not_take_turns(build_model):
    assert [can_take_turns(build_model(name)) for name in ("llama", "gemma3_text", "gpt2", "gpt_oss")] == [True] * 4
    assert [can_take_turns(build_model(name)) for name in ("lfm2", "qwen3_5_text", "mamba")] == [False] * 3


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, 3)])
def test_tokens_in_turns_are_as_likely_as_the_model_says(build_model, temperature, top_k):
    """Mean log-likelihood of many two-token texts beside its expectation, by enumeration."""
    model, prompt, draws = build_model(vocab=6, layers=2), [3, 5, 2], 6000
    sampling = Sampling(temperature=temperature, top_k=top_k, max_new_tokens=2)
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].double()
        second = model(torch.tensor([[*prompt, token] for token in range(6)])).logits[:, -1].double()
    probs = [_kept(logits / temperature, top_k).softmax(-1) for logits in (first, second)]
    pairs = torch.stack([first.log_softmax(-1)[:, None].expand(6, 6), second.log_softmax(-1)], -1).sum(-1)
    chances = probs[0][:, None] * probs[1]
    expected = (chances * pairs).sum()
    deviation = ((chances * (pairs - expected) ** 2).sum() / draws).sqrt()
    written = sample(model, [prompt] * draws, sampling=sampling, seed=0, stop_ids=set(), batch_size=512)
    found = torch.tensor([sum(one.logprobs) for one in written], dtype=torch.double).mean()
    assert abs(found - expected) < 4 * deviation
    counts = torch.zeros(6, 6)
    for one in written:
        counts[tuple(one.tokens)] += 1
    assert (counts[chances == 0] == 0).all()
    for a, b in itertools.product(range(6), range(6)):
        chance = float(chances[a, b])
        assert abs(float(counts[a, b]) - draws * chance) <= 5 * (draws * chance * (1 - chance)) ** 0.5 + 1e-9


def _kept(logits, top_k):
    if top_k is None:
        return logits
    return torch.where(logits >= logits.topk(top_k, dim=-1).values[..., -1:], logits, -torch.inf)
