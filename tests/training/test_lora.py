"""The laws of training an adapter: it alone learns, a step is one batch, a kill costs nothing, its base can be its teacher."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import FactoredLogits, Wanted
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.kernels.terms import Term
from stillhouse.students.build import student_from_layers
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter, frozen_hash
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher, SelfTeacher
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import Schedule, train

from .cases import FORWARD_KL, NEXT_TOKEN, mean_loss, step_gradients

ROW = 24
BOTH = [Term("forward_kl", weight=0.5, temperature=2.0), Term("next_token", weight=0.5)]
KINDS = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}
TARGETS = {"layers": "all-linear", "head": ("q_proj", "lm_head"), "embeddings": ("embed_tokens", "v_proj")}


@pytest.fixture
def examples(build_example):
    return [build_example(seed, 8 + seed % 7, prompt=1 + seed % 4) for seed in range(12)]


@pytest.fixture
def batch(build_example):
    return to_batch([[build_example(0, 9)], [build_example(1, 5), build_example(2, 4)]])


def adapted(model, *, seed=0, **settings):
    return add_adapter(model, LoraConfig(**{"rank": 4, "alpha": 8.0, **settings}), seed=seed)


def moved(model):
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def _train(student, examples, folder, *, teacher=None, terms=(NEXT_TOKEN,), projections=None, **schedule):
    schedule = {"rows_per_step": 2, "rows_per_micro_batch": 1, "learning_rate": 1e-2, "epochs": 2.0, **schedule}
    return train(
        student,
        PackedRows(examples, row_tokens=ROW),
        terms=terms,
        teacher=teacher,
        vocab_size=300,
        schedule=Schedule(**schedule),
        checkpoints=folder,
        projections=projections,
    )


def learnt(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Only it learns


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_adapter_and_not_one_bit_of_the_rest(build_model, examples, tmp_path, kind, targets):
    student = adapted(build_model(layers=2), targets=TARGETS[targets], **KINDS[kind])
    before, start, base = frozen_hash(student), learnt(student), build_model(layers=2).state_dict()
    _train(student, examples, tmp_path)
    assert frozen_hash(student) == before
    assert all(not torch.equal(start[name], now) for name, now in learnt(student).items())
    now = {name.replace(".base_layer", ""): value for name, value in student.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in base.items())
    assert all(parameter.grad is None for parameter in student.parameters() if not parameter.requires_grad)


def test_the_kernels_make_no_room_for_the_gradient_of_a_frozen_head(build_model, batch, monkeypatch):
    rooms = []

    def noted(tensor):
        rooms.append(tuple(tensor.shape))
        return torch.zeros_like(tensor)

    monkeypatch.setattr("stillhouse.kernels.heads._total_like", noted)
    student = build_model(layers=2)
    mean_loss(student, batch).backward()
    assert (300, 32) in rooms
    rooms.clear()
    mean_loss(adapted(student), batch).backward()
    assert rooms
    assert (300, 32) not in rooms


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("rows_per_micro_batch", [1, 2, 4])
def test_micro_batches_give_the_gradient_of_one_batch(build_model, examples, tmp_path, rows_per_micro_batch, targets):
    student = moved(adapted(build_model(layers=2), targets=TARGETS[targets]))
    rows = PackedRows(examples, row_tokens=ROW)
    whole = to_batch([rows[index] for index in range(len(rows))], row_tokens=ROW)
    student.zero_grad()
    mean_loss(student, whole, teacher=SelfTeacher(student), terms=BOTH).backward()
    expected = {name: p.grad.clone() for name, p in student.named_parameters() if p.requires_grad}
    named = {"row_tokens": ROW, "rows_per_step": 8, "rows_per_micro_batch": rows_per_micro_batch}
    assert len(rows) <= 8
    (step,) = step_gradients(student, examples, tmp_path, terms=BOTH, teacher=SelfTeacher(student), **named)
    assert step.keys() == expected.keys()
    for name, gradient in step.items():
        assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


# Where it goes on


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_a_checkpoint_that_holds_the_adapter_alone(build_model, examples, tmp_path, kind):
    def student():
        return adapted(build_model(layers=2), dropout=0.2, targets=("q_proj", "embed_tokens"), **KINDS[kind])

    whole = student()
    named = {"terms": BOTH, "save_every_steps": 2}
    _train(whole, examples, tmp_path / "whole", teacher=SelfTeacher(whole), **named)
    kept = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(kept) == 2
    assert not list(kept[0].glob("model*"))
    size = (kept[0] / "adapter_model.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in whole.parameters() if p.requires_grad) + 4096
    shutil.copytree(kept[0], tmp_path / "killed" / kept[0].name)
    again = student()
    _train(again, examples, tmp_path / "killed", teacher=SelfTeacher(again), **named)
    assert same(learnt(whole), learnt(again))
    assert frozen_hash(whole) == frozen_hash(again)


def test_projections_are_kept_beside_the_adapter(build_model, examples, tmp_path):
    teacher = LocalTeacher(build_model(seed=2, layers=2, hidden=48))
    terms = [FeatureTerm("hidden_mse", 1.0, ((2, 2),)), NEXT_TOKEN]
    widths = projection_widths([terms[0]], student_width=32, teacher_width=48)
    found = []
    for name in ("whole", "killed"):
        student, projections = adapted(build_model(layers=2)), Projections(widths, seed=0)
        _train(
            student,
            examples,
            tmp_path / name,
            teacher=teacher,
            terms=terms,
            projections=projections,
            save_every_steps=2,
        )
        found.append((learnt(student), learnt(projections)))
        if name == "whole":
            first = min((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
            assert (first / "projections.safetensors").exists()
            assert set(load_file(first / "adapter_model.safetensors"))
            shutil.copytree(first, tmp_path / "killed" / first.name)
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[1][1])


def test_a_student_of_some_layers_learns_through_its_adapter_from_the_whole_teacher(build_model, examples, tmp_path):
    teacher = build_model(layers=4)
    student = adapted(student_from_layers(teacher, (0, 3)), rank=8, alpha=16.0)
    rows = to_batch([[example] for example in examples])

    def distance():
        with torch.no_grad():
            return float(mean_loss(student, rows, teacher=LocalTeacher(teacher), terms=[FORWARD_KL]))

    before = distance()
    _train(student, examples, tmp_path, teacher=LocalTeacher(teacher), terms=[FORWARD_KL], epochs=6.0)
    assert distance() < 0.8 * before


# One model as teacher and student


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
def test_before_the_first_step_a_student_is_its_own_teacher_exactly(build_model, batch, family, kind, name):
    student = adapted(build_model(family, layers=2), **KINDS[kind]).train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    terms = [Term(name), Term(name, temperature=3.0)]
    loss, sums = distillation_loss(student, batch, teacher=SelfTeacher(student), terms=terms, vocab_size=300)
    assert loss.item() == 0.0
    assert sums.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("targets", TARGETS)
def test_whatever_the_adapter_has_learnt_its_base_says_what_it_said(build_model, batch, targets):
    base = LocalTeacher(build_model(layers=2))
    student = moved(adapted(build_model(layers=2), targets=TARGETS[targets]))
    wanted = Wanted(logits=True, hidden_states=frozenset({0, 1, 2}), attentions=frozenset())
    expected, found = base.signals(batch, wanted), SelfTeacher(student).signals(batch, wanted)
    assert isinstance(expected.logits, FactoredLogits) and isinstance(found.logits, FactoredLogits)
    assert torch.equal(found.logits.dense(), expected.logits.dense())
    for layer in range(3):
        assert torch.equal(found.hidden_states[layer], expected.hidden_states[layer])
    assert not found.logits.hidden.requires_grad
    assert not found.logits.weight.requires_grad


@pytest.mark.parametrize("targets", TARGETS)
def test_objectives_cannot_tell_it_from_a_copy(build_model, examples, tmp_path, targets):
    found = []
    for name in ("own", "copy"):
        student = adapted(build_model(layers=2), targets=TARGETS[targets])
        teacher = SelfTeacher(student) if name == "own" else LocalTeacher(build_model(layers=2))
        _train(student, examples, tmp_path / name, teacher=teacher, terms=BOTH)
        found.append(learnt(student))
    assert same(*found)


def test_it_holds_no_number_that_the_student_does_not(build_model, batch):
    student = adapted(build_model(layers=2))
    teacher = SelfTeacher(student)
    assert teacher.model is student
    said = teacher.signals(batch, Wanted(logits=True)).logits
    storages = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    assert said.weight.untyped_storage().data_ptr() in storages


def test_asking_it_leaves_the_students_dropout_and_its_luck_alone(build_model, batch):
    student = adapted(build_model("gpt2", layers=2), dropout=0.5).train()
    modes = [module.training for module in student.modules()]
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    teacher = SelfTeacher(student)
    one = teacher.signals(batch, Wanted(logits=True)).logits.hidden
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, teacher.signals(batch, Wanted(logits=True)).logits.hidden)
    assert [module.training for module in student.modules()] == modes


def test_without_an_adapter_nobody_is_their_own_teacher(build_model):
    with pytest.raises(ModelError, match=r"its own teacher only if it carries an adapter.*student.lora"):
        SelfTeacher(build_model(layers=2))
