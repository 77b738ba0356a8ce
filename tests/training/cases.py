"""What the tests of training share: a loss by hand, teachers that say what they are told, and one step's gradient."""

from dataclasses import dataclass

import torch
from transformers.trainer_callback import PrinterCallback

from stillhouse.core.signals import FactoredLogits, Signals
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.training.loss import distillation_loss
from stillhouse.training.trainer import DistillationTrainer, Schedule, _arguments

from .two_ranks import KeepGradients

FORWARD_KL = Term("forward_kl")
NEXT_TOKEN = Term("next_token")


@dataclass(frozen=True)
class ToldTeacher:
    """Says these logits [batch, seq, vocab], whatever it is asked."""

    logits: torch.Tensor

    @property
    def vocab_size(self):
        return self.logits.shape[-1]

    def signals(self, batch, wanted):
        head = torch.eye(self.vocab_size, dtype=self.logits.dtype)
        return Signals(logits=FactoredLogits(self.logits, head))


def mean_loss(student, batch, *, teacher=None, terms=(NEXT_TOKEN,), vocab_size=300):
    """The loss of one step that sees this batch alone."""
    sums, _ = distillation_loss(student, batch, teacher=teacher, terms=terms, vocab_size=vocab_size)
    return sums / batch.total_weight


def gradients_of(student, loss):
    student.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in student.named_parameters()}


def step_gradients(
    student, examples, folder, *, row_tokens, rows_per_step, rows_per_micro_batch, rows_of=PackedRows, **trainer
):
    """The gradients of each optimiser step of one epoch, by the trainer itself; the student hardly moves."""
    schedule = Schedule(
        learning_rate=1e-30,
        max_gradient_norm=1e30,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=rows_per_micro_batch,
    )
    rows, keeper = rows_of(examples, row_tokens=row_tokens), KeepGradients()
    trainer = DistillationTrainer(
        model=student,
        args=_arguments(schedule, folder),
        train_dataset=rows,
        callbacks=[keeper],
        **{"terms": [NEXT_TOKEN], "teacher": None, "vocab_size": 300, **trainer},
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return keeper.steps
