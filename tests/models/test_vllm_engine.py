"""vLLM behind a stand-in that has its face: what is asked of it, what weights it has, and what becomes of its answers."""

import sys

import pytest
import torch
from torch.testing import assert_close
from vllm_stand_in import StandIn, modules

from stillhouse.core.errors import ModelError
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.vllm_engine import ENVIRONMENT, VllmEngine, VllmModel, check_vllm

VOCAB, PROMPTS = 30, [[3, 4, 5], [6], [7, 8, 9, 10, 11]]


@pytest.fixture
def model(build_model):
    return build_model(vocab=VOCAB, layers=2)


@pytest.fixture
def folder(monkeypatch, model, tmp_path):
    """A model's folder, where a module named vllm stands in for vLLM."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    model.save_pretrained(tmp_path)
    return tmp_path


def own_logprobs(model, prompt, tokens):
    with torch.no_grad():
        return model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


def test_without_vllm_it_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("stillhouse.models.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"source\.engine is vllm, but vllm is not installed here"):
        check_vllm("source.engine")
    with pytest.raises(ModelError, match="pip install vllm"):
        VllmEngine(tmp_path, model, max_tokens=64, batch_size=4)
    with pytest.raises(ModelError, match=r"teacher\.engine is vllm, but vllm is not installed here"):
        VllmModel(str(tmp_path))


def test_answers_are_of_the_weights_of_this_step(folder, model):
    engine = VllmEngine(folder, model, max_tokens=64, batch_size=4)
    for _ in range(2):
        written = engine(model, PROMPTS, sampling=Sampling(max_new_tokens=8), seed="7, step 3", stop_ids={1, 2})
        for prompt, one in zip(PROMPTS, written, strict=True):
            assert one.tokens[-1] in {1, 2} or len(one.tokens) == 8
            own = own_logprobs(model, prompt, one.tokens).gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
            assert_close(torch.tensor(one.logprobs), own, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():  # a step of training
                parameter.mul_(1.1)
    assert len(StandIn.made) == 1


def test_it_is_asked_in_its_own_words(folder, model):
    engine = VllmEngine(folder, model, max_tokens=64, batch_size=4)
    sampling, told = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=8), []
    settings = {"stop_ids": {2, 1}, "vocab_size": 20, "max_tokens": 9, "numbers": [5, 0, 2], "advance": told.append}
    written = engine(model, PROMPTS, sampling=sampling, seed=3, **settings)
    ((prompts, params),) = StandIn.made[0].asked
    assert prompts == PROMPTS
    assert [one.max_tokens for one in params] == [6, 8, 4]
    assert all((one.temperature, one.top_k, one.top_p) == (0.7, -1, 0.9) for one in params)
    assert all(one.stop_token_ids == [1, 2] and one.ignore_eos for one in params)
    assert all(one.allowed_token_ids == list(range(20)) for one in params)
    assert told == [sum(len(one.tokens) for one in written)]
    asked = StandIn.made[0].settings
    assert asked["max_model_len"] == 64 and asked["logprobs_mode"] == "raw_logprobs"
    assert not asked["enable_prefix_caching"] and not asked["trust_remote_code"]


def test_a_prompt_with_its_number_has_its_own_draws_in_any_company(folder, model):
    engine = VllmEngine(folder, model, max_tokens=64, batch_size=4)
    sampling = Sampling(max_new_tokens=8)
    together = engine(model, PROMPTS, sampling=sampling, seed=3, numbers=[5, 0, 2])
    (alone,) = engine(model, PROMPTS[2:], sampling=sampling, seed=3, numbers=[2])
    assert alone.tokens == together[2].tokens
    assert len({one.seed for _, params in StandIn.made[0].asked for one in params}) == 3
    assert engine(model, [], sampling=sampling, seed=3) == []


def test_a_packed_copy_of_a_tied_head_is_packed_anew(folder, model):
    packed = []

    def pack(layer):
        packed.append(layer)

    engine = VllmEngine(folder, model, max_tokens=64, batch_size=4)
    theirs = StandIn.made[0].model
    head = theirs.get_output_embeddings()
    head.cpu_linear, head.quant_method = (
        object(),
        type("Method", (), {"process_weights_after_loading": staticmethod(pack)}),
    )
    engine(model, PROMPTS, sampling=Sampling(max_new_tokens=2), seed=3)
    assert packed == [head]


def test_random_numbers_and_threads_stay_as_they_were(folder, model, monkeypatch):
    def begin(self, **settings):
        torch.manual_seed(0)
        torch.set_num_threads = None

    monkeypatch.setattr(StandIn, "__init__", begin)
    torch.manual_seed(7)
    wanted = torch.rand(3, generator=torch.Generator().manual_seed(7))
    set_threads = torch.set_num_threads
    VllmEngine(folder, model, max_tokens=64, batch_size=4)
    assert torch.set_num_threads is set_threads
    assert torch.equal(torch.rand(3), wanted)


def test_a_teacher_that_vllm_runs_is_sampled_like_any_other(folder, model):
    teacher = VllmModel(str(folder))
    sampling = Sampling(temperature=0, max_new_tokens=8)
    options = {"sampling": sampling, "seed": 3, "stop_ids": {1, 2}}
    ours, theirs = sample(model, PROMPTS, **options), sample(teacher, PROMPTS, **options)
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]
    assert sample(teacher, [], **options) == []
    teacher.close()
    assert StandIn.made[0].is_closed


def test_it_writes_no_further_than_it_has_positions_for(folder, model):
    teacher = VllmModel(str(folder))
    most = model.config.max_position_embeddings
    (said,) = teacher.write([[3] * (most - 2)], sampling=Sampling(max_new_tokens=8), seed=3, stop_ids=set())
    assert len(said.tokens) == 2
    (said,) = teacher.write([[3, 4]], sampling=Sampling(max_new_tokens=8), seed=3, stop_ids=set(), max_tokens=5)
    assert len(said.tokens) == 3


def test_it_tells_the_likeliest_tokens_of_every_place_but_the_last(folder, model):
    teacher = VllmModel(str(folder))
    texts = [*PROMPTS, [5] * model.config.max_position_embeddings]
    for text, (ids, logprobs) in zip(texts, teacher.likeliest(texts, 6), strict=True):
        assert ids.shape == logprobs.shape == (len(text) - 1, 6)
        with torch.no_grad():
            best = model(torch.tensor([text])).logits[0, :-1].log_softmax(-1).topk(6)
        assert_close(logprobs, best.values, atol=1e-4, rtol=1e-4)
        assert torch.equal(ids, best.indices)
    assert teacher.likeliest([[4, 5]], 1000)[0][0].shape == (1, VOCAB)


def test_it_tells_how_likely_single_tokens_are(folder, model):
    told = VllmModel(str(folder)).next_logprobs(PROMPTS, [7, 3])
    with torch.no_grad():
        own = [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[[7, 3]] for prompt in PROMPTS]
    assert_close(told, torch.stack(own), atol=1e-4, rtol=1e-4)


def test_what_vllm_cannot_run_is_said_in_one_line(folder, monkeypatch):
    def refuse(self, **settings):
        raise RuntimeError("Unsupported attention\n head_dim=16")

    monkeypatch.setattr(StandIn, "__init__", refuse)
    with pytest.raises(ModelError, match=r"vLLM cannot run '.*': Unsupported attention head_dim=16\. Leave engine out"):
        VllmModel(str(folder))
