"""Layers in bfloat16 over weights in float32: near, bounded, resumed bit for bit, and a student as it was."""

import shutil

import pytest
import torch

from stillhouse.core.signals import Wanted
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.models.precision import computing_in
from stillhouse.models.recompute import recomputing
from stillhouse.models.signals import read_signals
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import Schedule, train

from .cases import FORWARD_KL, NEXT_TOKEN

TERMS = [
    FORWARD_KL,
    NEXT_TOKEN,
    FeatureTerm("hidden_mse", 0.1, pairs=((1, 1),)),
    FeatureTerm("attention_kl", pairs=((1, 2),)),
]
ALL = Wanted(logits=True, hidden_states=frozenset({0, 1, 2}), pooling="mean")


@pytest.fixture
def batch(build_example):
    return to_batch([[build_example(0, 9, prompt=2), build_example(1, 5)], [build_example(2, 11)]])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_gradients_are_near_those_of_float32_and_the_same_where_layers_are_computed_again(build_model, batch, family):
    student, teacher = build_model(family, layers=2, seed=1), LocalTeacher(build_model(family, layers=2, seed=2))

    def gradient(precision, *, recomputes=False):
        student.train().zero_grad()
        torch.manual_seed(0)
        with recomputing(student, wanted=recomputes), computing_in(precision):
            loss, _ = distillation_loss(student, batch, teacher=teacher, terms=TERMS, vocab_size=300)
            loss.backward()
        assert loss.dtype == torch.float32
        assert all(weight.grad.dtype == torch.float32 for weight in student.parameters())
        return torch.cat([weight.grad.flatten() for weight in student.parameters()])

    exact, narrow = (
        gradient("float32"),
        gradient("bfloat16"),
    )  # in the narrower, weights have a gradient after a first look
    assert 1e-4 < (narrow - exact).norm() / exact.norm() < 0.05
    torch.testing.assert_close(gradient("bfloat16", recomputes=True), narrow)


def test_what_is_said_is_handed_on_in_float32_and_differs_little(build_model, batch):
    model = build_model("gpt2", layers=2).eval()
    exact = read_signals(model, batch, ALL)
    with computing_in("bfloat16"):
        narrow = read_signals(model, batch, ALL)
    for one, other in [
        (exact.logits.hidden, narrow.logits.hidden),
        (exact.embeddings, narrow.embeddings),
        *((exact.hidden_states[layer], narrow.hidden_states[layer]) for layer in (1, 2)),
    ]:
        assert other.dtype == torch.float32
        assert 0 < (other - one).norm() / one.norm() < 0.02


def test_a_run_in_bfloat16_learns_resumes_bit_for_bit_and_makes_a_student_in_float32(
    build_model, build_example, tmp_path
):
    rows = PackedRows([build_example(seed, 9) for seed in range(6)], row_tokens=24)

    def trained(folder, **chosen):
        schedule = Schedule(rows_per_step=1, learning_rate=1e-2, save_every_steps=2, epochs=2.0, **chosen)
        options = {"terms": [NEXT_TOKEN, FORWARD_KL], "teacher": LocalTeacher(build_model(layers=2, seed=2))}
        student = build_model(layers=2)
        done = train(student, rows, checkpoints=tmp_path / folder, vocab_size=300, schedule=schedule, **options)
        return dict(done.state_dict())

    narrow, exact = trained("narrow", precision="bfloat16"), trained("exact")
    latest = max((tmp_path / "narrow").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert len(list((tmp_path / "narrow").glob("checkpoint-*"))) == 2
    shutil.rmtree(latest)
    again = trained("narrow", precision="bfloat16")
    for name, weight in narrow.items():
        assert weight.dtype == torch.float32 and torch.equal(again[name], weight)
    moved, apart = (
        torch.cat([(one[name] - other[name]).flatten() for name in one]).norm()
        for one, other in ((exact, build_model(layers=2).state_dict()), (exact, narrow))
    )
    assert 0 < apart < moved / 2
