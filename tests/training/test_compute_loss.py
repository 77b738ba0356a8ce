"""Our objectives in other people's trainers: the same loss as in ours, divided once, whoever trains."""

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from stillhouse import DistillationLoss
from stillhouse.core.batch import Batch
from stillhouse.core.errors import ModelError
from stillhouse.kernels.terms import Term
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss

OBJECTIVES = [{"name": "forward_kl", "weight": 0.9, "temperature": 2.0}, {"name": "next_token", "weight": 0.1}]
TERMS = [Term("forward_kl", 0.9, 2.0), Term("next_token", 0.1)]
VOCAB = 48


@pytest.fixture
def pair(build_model):
    """A teacher and a student of half its layers."""
    return build_model(layers=2, vocab=VOCAB, seed=1), build_model(layers=1, vocab=VOCAB, seed=2)


def rows(seed: int = 0, number: int = 4, length: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts, and labels of which some count nothing."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (number, length), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.3, -100, ids)
    return ids, labels


def test_the_loss_and_its_gradient_are_those_of_our_own_trainer(pair):
    teacher, student = pair
    ids, labels = rows()
    loss = DistillationLoss(student, teacher=teacher, objectives=OBJECTIVES)
    found = loss(student(input_ids=ids), labels)
    found.backward()
    gradients = {name: one.grad.clone() for name, one in student.named_parameters()}
    assert teacher.lm_head.weight.grad is None

    student.zero_grad()
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    weights = (labels != -100).float()
    weights[:, 0] = 0
    batch = Batch(ids, positions, torch.zeros_like(ids), weights)
    total, _ = distillation_loss(student, batch, teacher=LocalTeacher(teacher), terms=TERMS, vocab_size=VOCAB)
    (total / batch.total_weight).backward()
    assert_close(found, total / batch.total_weight)
    for name, parameter in student.named_parameters():
        assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-4)


def trained(trainer_class, arguments_class, student, teacher, folder, *, per_batch, **arguments):
    """The weights after two steps of four rows each."""
    ids, labels = rows(number=8)
    data = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
    loss = DistillationLoss(student, teacher=teacher, objectives=OBJECTIVES)
    trainer = trainer_class(
        model=student,
        args=arguments_class(
            output_dir=str(folder),
            per_device_train_batch_size=per_batch,
            gradient_accumulation_steps=4 // per_batch,
            num_train_epochs=1,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=data,
        compute_loss_func=loss,
    )
    trainer.train()
    loss.close()
    return {name: one.detach().clone() for name, one in student.named_parameters()}


def test_a_step_is_the_same_however_it_is_cut(pair, build_model, tmp_path):
    teacher, student = pair
    whole = trained(Trainer, TrainingArguments, student, teacher, tmp_path, per_batch=4)
    other = build_model(layers=1, vocab=VOCAB, seed=2)
    before = {name: one.detach().clone() for name, one in other.named_parameters()}
    parts = trained(Trainer, TrainingArguments, other, teacher, tmp_path, per_batch=1)
    for name in whole:
        assert_close(whole[name], parts[name], atol=2e-5, rtol=1e-4)
    assert any((whole[name] - before[name]).abs().max() > 1e-4 for name in whole)


@pytest.mark.filterwarnings("ignore:`compute_loss_func` is deprecated", "ignore:.*")  # TRL's, about itself
def test_trl_trains_the_same_student(pair, build_model, tokenizer, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is only an oracle")
    teacher, student = pair
    ours = trained(Trainer, TrainingArguments, student, teacher, tmp_path, per_batch=2)

    def sft(**named):
        return trl.SFTTrainer(processing_class=tokenizer, **named)

    other = build_model(layers=1, vocab=VOCAB, seed=2)
    settings = {"dataset_kwargs": {"skip_prepare_dataset": True}, "bf16": False, "gradient_checkpointing": False}
    theirs = trained(sft, trl.SFTConfig, other, teacher, tmp_path, per_batch=2, **settings)
    for name in ours:
        assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-4)


def test_what_cannot_be_had_is_refused_before_training(pair, build_model):
    teacher, student = pair
    for objectives, words in (
        ([], "objectives is empty"),
        ([{"name": "hidden_mse"}], "reads more than logits"),
        ([{"name": "forward_lk"}], "Did you mean 'forward_kl'?"),
        ([{"name": "jsd", "betta": 0.5}], "no parameter 'betta'"),
        ([{"name": "jsd", "beta": 2}], "beta"),
    ):
        with pytest.raises(ModelError, match=words.replace("?", r"\?")):
            DistillationLoss(student, teacher=teacher, objectives=objectives)
    with pytest.raises(ModelError, match="compares with a teacher"):
        DistillationLoss(student, objectives=OBJECTIVES)
    ids, labels = rows()
    loss = DistillationLoss(student, teacher=build_model(layers=1, vocab=VOCAB + 8), objectives=OBJECTIVES)
    with pytest.raises(ModelError, match="vocab_size=len"):
        loss(student(input_ids=ids), labels)
    loss = DistillationLoss(student, teacher=teacher, objectives=OBJECTIVES)
    with pytest.raises(ModelError, match="not the one that this loss listens to"):
        loss(teacher(input_ids=ids), labels)
