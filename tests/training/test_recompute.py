"""Layers that are computed again for their gradient: the same loss and gradients, and whoever listens hears them once."""

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.models.recompute import recomputing
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import Schedule, train

from .cases import FORWARD_KL, NEXT_TOKEN

LISTENING = [
    FORWARD_KL,
    FeatureTerm("hidden_mse", pairs=((1, 1), (2, 2))),
    FeatureTerm("attention_kl", pairs=((1, 2), (2, 1))),
    FeatureTerm("value_relation_kl", pairs=((2, 2),)),
]


def computed(student, batch, teacher, *, recomputes):
    """The loss, its terms and the gradients, and how often a layer's inside was computed."""
    calls = []
    layer = next(module for name, module in student.named_modules() if name.endswith(("layers.1.mlp", "h.1.mlp")))
    counting = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    student.train().zero_grad()
    torch.manual_seed(0)  # for dropout
    with recomputing(student, wanted=recomputes):
        loss, sums = distillation_loss(student, batch, teacher=teacher, terms=LISTENING, vocab_size=300)
        before = len(calls)
        loss.backward()
    counting.remove()
    gradients = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.requires_grad}
    return loss.detach(), sums, gradients, len(calls) - before


@pytest.mark.parametrize(
    ("family", "adapts"), [("llama", False), ("gemma2", False), ("gpt2", False), ("llama", True), ("gpt2", True)]
)
def test_loss_and_gradients_are_the_same_and_what_is_heard_is_heard_once(build_model, build_example, family, adapts):
    student, teacher = build_model(family, layers=2, seed=1), LocalTeacher(build_model(family, layers=2, seed=2))
    if adapts:
        student = add_adapter(student, LoraConfig(rank=4, alpha=8.0, dropout=0.2), seed=0)
    batch = to_batch([[build_example(0, 9, prompt=2), build_example(1, 5)], [build_example(2, 11)]])
    loss, sums, gradients, again = computed(student, batch, teacher, recomputes=False)
    assert again == 0
    loss_again, sums_again, gradients_again, again = computed(student, batch, teacher, recomputes=True)
    assert again == 1
    assert torch.equal(loss, loss_again) and torch.equal(sums, sums_again)
    assert gradients.keys() == gradients_again.keys()
    for name, gradient in gradients.items():
        assert_close(gradients_again[name], gradient, rtol=1e-5, atol=1e-8, msg=name)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in student.modules())


def test_a_recipe_asks_for_it_and_learns_the_same(build_model, build_example, tmp_path):
    rows = PackedRows([build_example(seed, 9) for seed in range(6)], row_tokens=24)

    def trained(**schedule):
        settings = {"rows_per_step": 2, "learning_rate": 1e-2, **schedule}
        folder = tmp_path / str(len(schedule))
        options = {"terms": [NEXT_TOKEN], "teacher": None, "vocab_size": 300, "schedule": Schedule(**settings)}
        return train(build_model(layers=2), rows, checkpoints=folder, **options)

    plain, again = trained(), trained(gradient_checkpointing=True)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in plain.state_dict().items())


def test_a_family_that_cannot_is_refused_by_the_field(build_model, monkeypatch):
    student = build_model()
    monkeypatch.setattr(type(student), "supports_gradient_checkpointing", False)
    with (
        pytest.raises(ModelError, match="training.gradient_checkpointing is true, but LlamaForCausalLM cannot"),
        recomputing(student),
    ):
        pass
