"""vLLM behind a fake that has its face: what is asked of it, what weights it has, and what becomes of its answers."""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.vllm_engine import VllmEngine, check_vllm

VOCAB, PROMPTS = 30, [[3, 4, 5], [6], [7, 8, 9, 10, 11]]


@dataclass
class FakeSamplingParams:
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    allowed_token_ids: list[int] | None
    seed: int
    logprobs: int
    detokenize: bool


@dataclass
class FakeModel:
    """Weights by name, as vLLM's models take them."""

    loaded: dict[str, torch.Tensor] = field(default_factory=dict)

    def load_weights(self, weights):
        self.loaded = {name: value.clone() for name, value in weights}
        return set(self.loaded)


@pytest.fixture
def fake(monkeypatch, build_model):
    """A module named vllm whose engine writes with the weights that it was given last."""
    made = []

    class LLM:
        def __init__(self, **settings):
            self.settings, self.model, self.asked = settings, FakeModel(), []
            made.append(self)

        def apply_model(self, function):
            return [function(self.model)]

        def generate(self, prompts, params, *, use_tqdm):
            model = build_model(vocab=VOCAB, layers=2, seed=99)
            model.load_state_dict(self.model.loaded, strict=False)
            self.asked.append((prompts, params))
            return [self._answer(model, prompt, one) for prompt, one in zip(prompts, params, strict=True)]

        def _answer(self, model, prompt, one):
            sampling = Sampling(temperature=one.temperature, max_new_tokens=one.max_tokens, top_p=one.top_p)
            (written,) = sample(
                model, [prompt["prompt_token_ids"]], sampling=sampling, seed=one.seed, stop_ids=set(one.stop_token_ids)
            )
            logprobs = [
                {token: SimpleNamespace(logprob=logprob)}
                for token, logprob in zip(written.tokens, written.logprobs, strict=True)
            ]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(written.tokens), logprobs=logprobs)])

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__spec__ = LLM, FakeSamplingParams, ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return made


def test_without_vllm_it_is_refused(build_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("stillhouse.models.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"source\.engine is vllm, but vllm is not installed here"):
        check_vllm()
    with pytest.raises(ModelError, match="pip install vllm"):
        VllmEngine(Path("student"), build_model(), max_tokens=64, batch_size=4)


def test_answers_are_of_the_weights_of_this_step(fake, build_model):
    model = build_model(vocab=VOCAB, layers=2)
    engine = VllmEngine(Path("student"), model, max_tokens=64, batch_size=4)
    for _ in range(2):
        written = engine(model, PROMPTS, sampling=Sampling(max_new_tokens=8), seed="7, step 3", stop_ids={1, 2})
        loaded = fake[0].model.loaded
        assert all(torch.equal(loaded[name], value) for name, value in model.named_parameters())
        for prompt, one in zip(PROMPTS, written, strict=True):
            assert one.tokens[-1] in {1, 2} or len(one.tokens) == 8
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + one.tokens])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = logprobs.gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
            assert_close(torch.tensor(one.logprobs), own, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():  # a step of training
                parameter.mul_(1.1)
    assert len(fake) == 1


def test_it_is_asked_in_its_own_words(fake, build_model):
    model = build_model(vocab=VOCAB, layers=2)
    engine = VllmEngine(Path("student"), model, max_tokens=64, batch_size=4)
    sampling, told = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=8), []
    settings = {"stop_ids": {2, 1}, "vocab_size": 20, "max_tokens": 9, "numbers": [5, 0, 2], "advance": told.append}
    written = engine(model, PROMPTS, sampling=sampling, seed=3, **settings)
    ((prompts, params),) = fake[0].asked
    assert [one["prompt_token_ids"] for one in prompts] == PROMPTS
    assert [one.max_tokens for one in params] == [6, 8, 4]
    assert all((one.temperature, one.top_k, one.top_p) == (0.7, -1, 0.9) for one in params)
    assert all(one.stop_token_ids == [1, 2] and one.ignore_eos for one in params)
    assert all(one.allowed_token_ids == list(range(20)) for one in params)
    assert told == [sum(len(one.tokens) for one in written)]
    assert fake[0].settings["max_model_len"] == 64 and fake[0].settings["logprobs_mode"] == "raw_logprobs"
    assert not fake[0].settings["enable_prefix_caching"]


def test_a_prompt_with_its_number_has_its_own_draws_in_any_company(fake, build_model):
    model = build_model(vocab=VOCAB, layers=2)
    engine = VllmEngine(Path("student"), model, max_tokens=64, batch_size=4)
    sampling = Sampling(max_new_tokens=8)
    together = engine(model, PROMPTS, sampling=sampling, seed=3, numbers=[5, 0, 2])
    (alone,) = engine(model, PROMPTS[2:], sampling=sampling, seed=3, numbers=[2])
    assert alone == together[2]
    assert len({one.seed for _, params in fake[0].asked for one in params}) == 3
    assert engine(model, [], sampling=sampling, seed=3) == []
