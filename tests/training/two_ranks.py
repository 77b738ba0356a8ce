"""One process of a data-parallel step: `python two_ranks.py FOLDER`, with the environment that torchrun gives."""

import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.kernels.terms import Term
from stillhouse.teachers import LocalTeacher
from stillhouse.training.trainer import DistillationTrainer, Schedule, _arguments

ROWS_PER_STEP = 4


class KeepGradients(TrainerCallback):
    """Keeps the gradient that each optimiser step is given."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})


def steps(folder, *, num_ranks, rows_per_micro_batch):
    """The gradients and the log lines of an epoch over the examples in `folder`; the student hardly moves."""
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("student", "teacher"))
    examples = [Example(*example) for example in torch.load(folder / "examples.pt")]
    schedule = Schedule(
        learning_rate=1e-30,
        max_gradient_norm=1e30,
        rows_per_step=ROWS_PER_STEP // num_ranks,
        rows_per_micro_batch=rows_per_micro_batch,
    )
    rows, keeper, lines = PackedRows(examples, row_tokens=24), KeepGradients(), []
    DistillationTrainer(
        model=student,
        args=_arguments(schedule, folder / f"of-{num_ranks}"),
        train_dataset=rows,
        data_collator=rows.collate,
        callbacks=[keeper],
        terms=[Term("forward_kl", weight=0.9, temperature=2.0), Term("next_token", weight=0.1)],
        teacher=LocalTeacher(teacher),
        vocab_size=300,
        log_line=lines.append,
    ).train()
    return keeper.steps, lines


if __name__ == "__main__":
    where, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.save(steps(where, num_ranks=2, rows_per_micro_batch=1), where / f"rank-{rank}.pt")
