"""One training step on real chat, forward and backward: stillhouse beside TRL's GKD and a plain loop with all logits.

The same rows, the same weights, the same objective (forward KL on what follows the prompt): the gradients are compared, too.
Steps take turns in one process; peak memory is that of a process of its own for each.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from public_data import json_lines
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.data.examples import Example
from stillhouse.data.packing import pack, to_batch
from stillhouse.evaluation.compare import machine
from stillhouse.kernels.terms import Term
from stillhouse.models.compiled import BACKEND, compiling
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.models.precision import computing_in
from stillhouse.models.recompute import recomputing
from stillhouse.students.build import student_from_layers
from stillhouse.teachers import LocalTeacher
from stillhouse.training.loss import distillation_loss
from stillhouse.training.order import ByLength
from stillhouse.training.terms import UNITS

Step = Callable[[PreTrainedModel, PreTrainedModel, Batch], Tensor]
"""(student, teacher, rows) -> the loss, its gradient already in the student."""

NOT_JUDGED = -100
RESET_PEAK = Path("/proc/self/clear_refs")


def main() -> None:
    """Print one line a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=12)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512, help="of a row; half of them are prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=STEPS, nargs="+", default=[*STEPS], help="these beside ours (default: all)")
    parser.add_argument("--memory-of", choices=STEPS, help="run one step of this and print its peak memory in MiB")
    options = parser.parse_args()
    teacher = load_causal_lm(options.teacher)
    layers = teacher.model.config.num_hidden_layers
    student = student_from_layers(teacher.model, tuple(range(layers - options.keep, layers)))
    batch = _chat(options, teacher)
    if options.memory_of:
        _print_memory(STEPS[options.memory_of], student, teacher.model, batch)
        return
    about = machine()
    print(f"{options.rows} x {options.tokens} tokens, half of them prompt; student of {options.keep} layers")
    print(f"{about['processor']}, {about['threads']} threads, torch {about['torch']}")
    _print_padding(options, teacher)
    chosen = {name: STEPS[name] for name in ("stillhouse", *options.only)}
    _compare(student, teacher.model, batch, steps=chosen, repeats=options.repeats)
    for name in chosen:
        found = subprocess.run(
            [sys.executable, *sys.argv, "--memory-of", name], check=True, capture_output=True, text=True
        )
        print(f"{name:<12} {found.stdout.strip()}", flush=True)


def _print_padding(options: argparse.Namespace, teacher: LoadedModel) -> None:
    """How much of the positions is empty, over all conversations at their own lengths: packed and in our order, and one a row
    in theirs.
    """
    lengths = [min(len(ids), options.tokens) for ids in _conversations(options, teacher)]
    packed = [sum(lengths[index] for index in row) for row in pack(lengths, row_tokens=options.tokens)]
    order = [packed[row] for row in ByLength(packed, rows_per_step=options.rows, seed=0)]
    empty = [_empty(rows, options.rows) for rows in (order, lengths)]
    print(
        f"{len(lengths)} conversations of up to {options.tokens} tokens in steps of {options.rows} rows: {empty[0]:.1%} of the "
        f"positions are empty when packed, {empty[1]:.1%} when padded"
    )


def _empty(lengths: Sequence[int], rows_per_step: int) -> float:
    steps = [lengths[start : start + rows_per_step] for start in range(0, len(lengths), rows_per_step)]
    return 1 - sum(lengths) / sum(len(step) * max(step) for step in steps)


def _chat(options: argparse.Namespace, teacher: LoadedModel) -> Batch:
    """Conversations that fill a row each: none is padded, so that all contenders compute on the same tokens."""
    half = options.tokens // 2
    weights = (0.0,) * half + (1.0,) * (options.tokens - half)
    whole = [ids[: options.tokens] for ids in _conversations(options, teacher) if len(ids) >= options.tokens]
    return to_batch([[Example(tuple(ids), weights, 0)] for ids in whole[: options.rows]])


def _conversations(options: argparse.Namespace, teacher: LoadedModel) -> list[list[int]]:
    """The token ids of every dialogue, by the teacher's template."""
    found = []
    for tree in json_lines(options.data / "instructions/oasst_en_100_trees.jsonl"):
        turns = _one_conversation(tree["prompt"])
        text = str(teacher.tokenizer.apply_chat_template(turns, tokenize=False))
        found.append(list(teacher.tokenizer(text, add_special_tokens=False)["input_ids"]))
    return found


def _one_conversation(message: dict[str, Any]) -> list[dict[str, str]]:
    role = "assistant" if message["role"] == "assistant" else "user"
    replies = message.get("replies") or []
    return [{"role": role, "content": message["text"]}, *(_one_conversation(replies[0]) if replies else [])]


def _stillhouse(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    loss, _ = distillation_loss(
        student,
        batch,
        teacher=LocalTeacher(teacher),
        terms=[Term("forward_kl")],
        vocab_size=teacher.config.vocab_size,
        counts=torch.full((len(UNITS),), float(batch.predicts.sum())),
    )
    loss.backward()
    return loss


def _trl(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """What GKDTrainer computes in a step with lmbda 0."""
    from trl.experimental.gkd import GKDTrainer

    trainer: Any = SimpleNamespace(
        teacher_model=teacher, beta=0.0, generalized_jsd_loss=GKDTrainer.generalized_jsd_loss
    )
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.real.long(),
        "labels": torch.where(batch.weights > 0, batch.ids, NOT_JUDGED),
    }
    loss: Tensor = GKDTrainer.compute_loss(trainer, student, inputs, num_items_in_batch=batch.predicts.sum())
    loss.backward()
    return loss


def _plain(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """The loop that one writes first: all logits, kl_div, and a mask."""
    with torch.no_grad():
        said = teacher(input_ids=batch.ids).logits.log_softmax(-1)
    logprobs = student(input_ids=batch.ids).logits.log_softmax(-1)
    each = F.kl_div(logprobs, said, reduction="none", log_target=True).sum(-1)
    loss = (each * batch.predicts).sum() / batch.predicts.sum()
    loss.backward()
    return loss


def _recomputed(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """Ours with `training.gradient_checkpointing`."""
    student.train()
    with recomputing(student):
        loss = _stillhouse(student, teacher, batch)
    student.eval()
    return loss


def _compiled(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """Ours with `training.compile`."""
    with compiling(BACKEND):
        return _stillhouse(student, teacher, batch)


def _in_bfloat16(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    """Ours with `training.precision: bfloat16`."""
    with computing_in("bfloat16"):
        return _stillhouse(student, teacher, batch)


STEPS: dict[str, Step] = {
    "stillhouse": _stillhouse,
    "recomputed": _recomputed,
    "compiled": _compiled,
    "bfloat16": _in_bfloat16,
    "trl": _trl,
    "plain": _plain,
}


def _compare(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, *, steps: dict[str, Step], repeats: int
) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    gradients: dict[str, Tensor] = {}
    for _ in range(repeats + 1):  # the first warms up
        for name, step in steps.items():
            student.zero_grad()
            gc.collect()
            started = time.perf_counter()
            step(student, teacher, batch)
            seconds[name].append(time.perf_counter() - started)
            gradients[name] = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    own, tokens = gradients["stillhouse"], batch.real.sum().item()
    for name, times in seconds.items():
        ratios = sorted(theirs / mine for theirs, mine in zip(times[1:], seconds["stillhouse"][1:], strict=True))
        difference = float((gradients[name] - own).norm() / own.norm())
        print(
            f"{name:<12} {statistics.median(times[1:]):6.2f} s, {tokens / statistics.median(times[1:]):5.0f} tokens/s; "
            f"{statistics.median(ratios):.2f} times stillhouse's [{ratios[0]:.2f}, {ratios[-1]:.2f}]; "
            f"gradient differs by {difference:.1e}; the first time {times[0]:.1f} s",
            flush=True,
        )


def _print_memory(step: Step, student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> None:
    for parameter in student.parameters():  # as an optimiser's step leaves them
        parameter.grad = torch.zeros_like(parameter)
    RESET_PEAK.write_text("5")
    before = _peak_mib()
    step(student, teacher, batch)
    print(f"peak {_peak_mib():,.0f} MiB, of which the step {_peak_mib() - before:,.0f} MiB")


def _peak_mib() -> float:
    """The most memory that this process has had at once since the peak was reset (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
