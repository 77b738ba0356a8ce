"""One process of data-parallel steps: `python two_ranks.py FOLDER`, with the environment that torchrun gives."""

import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.preferences import AnswerPair, PreferenceRows, Weighed
from stillhouse.kernels.preference import PreferenceTerm
from stillhouse.kernels.terms import Term
from stillhouse.objectives import AdaptiveRamp
from stillhouse.students.projections import Projections
from stillhouse.teachers import LocalTeacher
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.terms import Scheduled
from stillhouse.training.trainer import DistillationTrainer, Schedule, _arguments, train

ROWS_PER_STEP = 4
STATES = FeatureTerm("hidden_mse", weight=0.1, pairs=((1, 1), (2, 2)))
TERMS = [
    Term("forward_kl", weight=0.9, temperature=2.0),
    Term("next_token", weight=0.1),
    Term("reverse_kl", weight=0.5, where="tokens"),
    Scheduled(Term("taid"), {"t": AdaptiveRamp(0.5, 1.0, rate=1.0, momentum=0.5)}),
    STATES,
    FeatureTerm("gram_mse", pairs=((2, 2),)),
]
"""Of every unit, with projections, and with a number that follows what all ranks have seen."""


PAIR_TERMS = [PreferenceTerm("dpo"), PreferenceTerm("reward_mse", 0.1), Term("next_token", 0.1), Term("forward_kl")]


class KeepGradients(TrainerCallback):
    """Keeps the gradient that each optimiser step is given."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        learning = [pair for pair in model.named_parameters() if pair[1].requires_grad]
        self.steps.append({name: parameter.grad.clone() for name, parameter in learning})


def pairs_of(examples):
    """Each two documents as two answers, with what is known of them."""
    random = torch.Generator().manual_seed(0)
    pairs = [AnswerPair(*two) for two in zip(examples[::2], examples[1::2], strict=True)]
    known = Weighed(*(-9 * torch.rand(len(pairs), 2, generator=random) for _ in range(2)))
    return PreferenceRows(pairs).with_weighed(known)


def steps(folder, *, num_ranks, rows_per_micro_batch, in_pairs=False):
    """The gradients and the log lines of two epochs over the examples in `folder`; the student hardly moves."""
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("student", "teacher"))
    examples = [Example(*example) for example in torch.load(folder / "examples.pt")]
    widths = {f"{side}_width": model.config.hidden_size for side, model in (("student", student), ("teacher", teacher))}
    schedule = Schedule(
        epochs=2.0,
        learning_rate=1e-30,
        max_gradient_norm=1e30,
        rows_per_step=ROWS_PER_STEP // num_ranks,
        rows_per_micro_batch=rows_per_micro_batch,
    )
    rows = pairs_of(examples[:12]) if in_pairs else PackedRows(examples, row_tokens=24)
    keeper, lines = KeepGradients(), []
    DistillationTrainer(
        model=student,
        args=_arguments(schedule, folder / f"of-{num_ranks}"),
        train_dataset=rows,
        data_collator=rows.collate,
        callbacks=[keeper],
        terms=PAIR_TERMS if in_pairs else TERMS,
        teacher=LocalTeacher(teacher),
        vocab_size=300,
        projections=None if in_pairs else Projections(projection_widths([STATES], **widths), seed=0),
        log_line=lines.append,
    ).train()
    return keeper.steps, lines


class Stopped(Exception):
    """A kill, as all ranks would meet it."""


class StoppingRows(PackedRows):
    """Rows that a process is stopped at before its third step, unless it has come so far before."""

    stops_at = 3

    def at_step(self, batches, *, step, progress=0.0):
        if step == self.stops_at:
            raise Stopped
        return super().at_step(batches, step=step, progress=progress)


def learnt(folder, checkpoints, *, num_ranks, stops_at=0):
    """The student after four steps, saved every two; None where it was stopped before the third."""
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    examples = [Example(*example) for example in torch.load(folder / "examples.pt")]
    rows = StoppingRows(examples, row_tokens=24)
    rows.stops_at = stops_at
    schedule = Schedule(
        epochs=2.0,
        learning_rate=1e-2,
        rows_per_step=ROWS_PER_STEP // num_ranks,
        rows_per_micro_batch=1,
        save_every_steps=2,
    )
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(folder / "teacher"))
    options = {"terms": TERMS[:4], "teacher": teacher, "vocab_size": 300, "schedule": schedule}
    try:
        trained = train(student, rows, checkpoints=checkpoints, **options)
    except Stopped:
        return None
    return {name: weight.detach().clone() for name, weight in trained.named_parameters()}


if __name__ == "__main__":
    where, rank = Path(sys.argv[1]), os.environ["RANK"]
    found = {
        in_pairs: steps(where, num_ranks=2, rows_per_micro_batch=1, in_pairs=in_pairs) for in_pairs in (False, True)
    }
    assert learnt(where, where / "begun-by-two", num_ranks=2, stops_at=3) is None
    found["begun by one"] = learnt(where, where / "begun-by-one", num_ranks=2)
    torch.save(found, where / f"rank-{rank}.pt")
