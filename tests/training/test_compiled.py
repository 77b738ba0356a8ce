"""Layers that torch compiles: loss, gradients and what is heard are as before, and nothing of it is left behind."""

import os
import shutil

import pytest
import torch
from apart import AT_LENGTH
from torch._dynamo.utils import counters
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.models.compiled import check_compiler, compiled_layers, compiler_at_work, compiling
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.precision import computing_in
from stillhouse.models.recompute import recomputing
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import Schedule, train

from .cases import FORWARD_KL, NEXT_TOKEN

# torch's own, about itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]

TERMS = [FORWARD_KL, FeatureTerm("hidden_mse", pairs=((1, 1), (2, 2)))]


def learnt_from(batch, student, teacher, *, backend, recomputes=False):
    student.train().zero_grad()
    with recomputing(student, wanted=recomputes):
        with compiling(backend), computing_in("bfloat16"):
            loss, sums = distillation_loss(student, batch, teacher=teacher, terms=TERMS, vocab_size=300)
        loss.backward()
    learning = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    return loss.detach(), sums, {name: weight.grad.clone() for name, weight in learning.items()}


def test_loss_and_gradients_are_the_same_and_layers_and_lengths_share_what_was_compiled(build_model, build_example):
    student, teacher = build_model(layers=2, seed=1), LocalTeacher(build_model(layers=2, seed=2))
    student = add_adapter(student, LoraConfig(rank=4, alpha=8.0), seed=0)
    names = list(student.state_dict())
    torch.compiler.reset()
    counters.clear()
    for lengths in ((9, 5, 11), (8, 7, 13)):
        first, second, third = (build_example(seed, length, prompt=2) for seed, length in enumerate(lengths))
        batch = to_batch([[first, second], [third]])
        loss, sums, gradients = learnt_from(batch, student, teacher, backend=None)
        as_compiled = learnt_from(batch, student, teacher, backend="eager", recomputes=True)
        assert_close(as_compiled[0], loss, rtol=1e-5, atol=0)
        assert_close(as_compiled[1], sums, rtol=1e-5, atol=0)
        for name, gradient in gradients.items():
            assert_close(as_compiled[2][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert counters["stats"]["unique_graphs"] == 2  # of the student, and of the teacher
    assert not counters["graph_break"]
    assert list(student.state_dict()) == names
    assert not any("forward" in vars(module) for module in student.modules())
    written = sample(student.eval(), [[5, 6, 7]], sampling=Sampling(max_new_tokens=3), seed=0)
    assert len(written[0].tokens) == 3 and counters["stats"]["unique_graphs"] == 2  # who writes runs layers as they are


@AT_LENGTH
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler here")
def test_a_recipe_asks_for_it_and_a_run_that_was_stopped_ends_as_one_that_was_not(build_model, build_example, tmp_path):
    rows = PackedRows([build_example(seed, 9) for seed in range(4)], row_tokens=24)

    def trained(folder, **chosen):
        schedule = Schedule(rows_per_step=1, learning_rate=1e-2, save_every_steps=1, epochs=2.0, **chosen)
        student = build_model(layers=1, hidden_size=16, intermediate_size=24)
        options = {"terms": [NEXT_TOKEN], "teacher": None, "vocab_size": 300, "schedule": schedule}
        return train(student, rows, checkpoints=tmp_path / folder, **options).state_dict()

    plain, compiled = trained("plain"), trained("compiled", compile=True)
    assert plain.keys() == compiled.keys()
    for name, weight in plain.items():
        assert_close(compiled[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    (tmp_path / "compiled" / "checkpoint-4").rename(tmp_path / "last")
    again = trained("compiled")  # goes on without it
    for name, weight in plain.items():
        assert_close(again[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_faults_of_the_compiler_and_models_without_layers_are_said_in_a_line(build_model, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config

    refused = pytest.raises(
        ModelError, match=r"training\.compile is true.*cannot compile.*: no such thing\. Leave it out"
    )
    with refused, compiler_at_work(wanted=True):
        raise TorchDynamoException("\nno such thing.\nand much else")
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ModelError, match=r"training\.compile is true.*no C\+\+ compiler.*CXX"):
        check_compiler()
    model = build_model()
    model.config.num_hidden_layers = 7
    refused = pytest.raises(ModelError, match=r"training\.compile is true.*LlamaForCausalLM")
    with compiling("eager"), refused, compiled_layers(model):
        pass
