"""An adapter against training every weight, at equal tokens: what is learnt, the most memory that training takes, and speed.

The student starts as TEACHER and learns conversations' text; forward KL holds it to what it was. Every weight learns beside a
copy of the teacher; an adapter learns with the teacher that is the student itself, with its adapter off. With --keep, the
student has that many of the teacher's layers, and both arms need the copy.

Memory and speed are those of a process of its own for each arm, in turns.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from decoder import kept_layers, write_texts
from rollouts import CLOCKS
from seeds import machine, run
from training_step import RESET_PEAK, _peak_mib

from stillhouse.core.results import EvaluationResult, Role
from stillhouse.data.packing import PackedRows
from stillhouse.data.text import read_rows, to_examples
from stillhouse.kernels.terms import Term
from stillhouse.models.adapters import trainable_count
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.students.build import student_from_layers
from stillhouse.students.config import ALL_LINEAR, LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.teachers import LocalTeacher, SelfTeacher
from stillhouse.training.trainer import Schedule, train

ARMS: Mapping[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
}
"""What each arm adds to the adapter's settings; none has no adapter."""

OBJECTIVES = [{"name": "next_token", "weight": 0.7}, {"name": "forward_kl", "weight": 0.3}]
WARM_UP = 2
"""Steps before the clock starts: the first makes room for the optimiser's state."""


def main() -> None:
    """Print one line an arm."""
    options = _options()
    if options.measure:
        _print_measure(options)
        return
    teacher = load_causal_lm(options.teacher)
    held_out, text = write_texts(options, teacher)
    layers = kept_layers(options, teacher, text) if options.keep else None
    _print_costs(options)
    if not options.costs_only:
        _print_learnt({arm: _distil(options, arm, layers, text, held_out) for arm in options.arms}, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, help="layers of the student; all and the same weights if left out")
    parser.add_argument("--tokens", type=int, nargs=1, default=[100_000])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", nargs="+", help="names of layers; every linear one but the head if left out")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["full", "lora"])
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="of every weight")
    parser.add_argument("--adapter-rate", type=float, default=5e-4, help="of an adapter: usually ten times the other")
    parser.add_argument("--row-tokens", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4, help="of a step")
    parser.add_argument("--rows-at-once", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6, help="that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm that are timed")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: on a machine with other work to do")
    parser.add_argument("--costs-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-lora"))
    parser.add_argument("--measure", choices=ARMS, help="train a few steps of this arm and print memory and time")
    return parser.parse_args()


# What is learnt


def _distil(
    options: argparse.Namespace, arm: str, layers: list[int] | None, text: Path, held_out: Path
) -> EvaluationResult:
    lora = _lora(options, arm)
    student = {"kind": "from_layers", "keep": layers} if layers else {"kind": "checkpoint", "model": options.teacher}
    is_own = lora is not None and layers is None
    return run(
        options.runs / f"{arm}-{options.tokens[0]}-{options.keep or 'all'}",
        seed=options.seed,
        teacher={"kind": "self"} if is_own else {"kind": "local", "model": options.teacher},
        student={**student, "lora": None if lora is None else lora.model_dump(mode="json")},
        data={
            "kind": "text",
            "path": str(text),
            "held_out_path": str(held_out),
            "sequence_tokens": options.row_tokens,
        },
        objectives=OBJECTIVES,
        training=_schedule(options, arm).model_dump(mode="json", exclude={"seed"}),
        evaluation={"control": "none", "samples": 0},
    )


def _lora(options: argparse.Namespace, arm: str) -> LoraConfig | None:
    settings = ARMS[arm]
    if settings is None:
        return None
    return LoraConfig(
        rank=options.rank,
        alpha=2.0 * options.rank,
        targets=tuple(options.targets) if options.targets else ALL_LINEAR,
        **settings,
    )


def _schedule(options: argparse.Namespace, arm: str) -> Schedule:
    return Schedule(
        learning_rate=options.learning_rate if arm == "full" else options.adapter_rate,
        rows_per_step=options.rows,
        rows_per_micro_batch=options.rows_at_once,
        save_every_steps=100,
        seed=options.seed,
    )


def _print_learnt(results: Mapping[str, EvaluationResult], options: argparse.Namespace) -> None:
    first = next(iter(results.values()))
    print(f"{first.held_out.documents} held-out texts; seed {options.seed}; {machine(first)}")
    print(f"{'':<16} {'bits/byte':>9} {'KL from teacher':>15}  of what full training gains")
    print(_line("before training", first, "student_before", None))
    for arm, result in results.items():
        print(_line(arm, result, "student", results.get("full")))


def _line(name: str, result: EvaluationResult, role: Role, full: EvaluationResult | None) -> str:
    bits = _metric(result, role, "bits_per_byte")
    line = f"{name:<16} {bits:9.4f} {_metric(result, role, 'forward_kl'):15.4f}"
    if full is None:
        return line
    before = _metric(full, "student_before", "bits_per_byte")
    return f"{line}  {(before - bits) / (before - _metric(full, 'student', 'bits_per_byte')):6.1%}"


def _metric(result: EvaluationResult, role: Role, name: str) -> float:
    model = result.model(role)
    assert model is not None
    return model.metrics[name].value


# What it costs


def _print_costs(options: argparse.Namespace) -> None:
    found: dict[str, list[tuple[float, float, float, float]]] = {arm: [] for arm in options.arms}
    for _ in range(options.rounds):
        for arm in options.arms:
            command = [sys.executable, *sys.argv, "--measure", arm]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            found[arm].append((float(said[-4]), float(said[-3]), float(said[-2]), float(said[-1])))
    print(
        f"steps of {options.rows} x {options.row_tokens} tokens, {options.rows_at_once} row(s) at once, rank {options.rank}"
    )
    print(
        f"{'':<8} {'peak MiB':>8} {'before':>8} {'of full':>8} {'seconds a step':>14} {'times full':>10} {'learn':>12}"
    )
    base = found[options.arms[0]]
    for arm, rounds in found.items():
        peak, before, seconds = (statistics.median(one[index] for one in rounds) for index in range(3))
        ratios = sorted(mine[2] / theirs[2] for mine, theirs in zip(rounds, base, strict=True))
        share = peak / statistics.median(one[0] for one in base)
        print(
            f"{arm:<8} {peak:8,.0f} {before:8,.0f} {share:8.1%} {seconds:14.2f} {statistics.median(ratios):10.2f} "
            f"{rounds[0][3]:12,.0f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
            flush=True,
        )


def _print_measure(options: argparse.Namespace) -> None:
    """The most MiB that this process held while it trained, what it held before, seconds a step, and parameters that learn."""
    lora, text = _lora(options, options.measure), options.runs / f"{options.tokens[0]}.jsonl"
    loaded = load_causal_lm(options.teacher)
    student = _start(options, loaded)
    teacher: Any = None
    if lora is None or options.keep:
        copy = load_causal_lm(options.teacher).model if student is loaded.model else loaded.model
        teacher = LocalTeacher(copy)
    if lora is not None:
        add_adapter(student, lora, seed=options.seed)
        teacher = teacher or SelfTeacher(student)
    rows = _rows(options, loaded, text)
    RESET_PEAK.write_text("5")
    before, ends = _peak_mib(), [CLOCKS[options.clock]()]
    with TemporaryDirectory() as folder:
        train(
            student,
            rows,
            terms=[Term(str(one["name"]), weight=float(str(one["weight"]))) for one in OBJECTIVES],
            teacher=teacher,
            vocab_size=len(loaded.tokenizer),
            schedule=_schedule(options, options.measure),
            checkpoints=Path(folder),
            log_line=lambda _line: ends.append(CLOCKS[options.clock]()),
        )
    steps = [end - start for start, end in pairwise(ends)][WARM_UP : WARM_UP + options.steps]
    print(_peak_mib(), before, statistics.median(steps), trainable_count(student))


def _start(options: argparse.Namespace, loaded: LoadedModel) -> Any:
    if not options.keep:
        return loaded.model.train().requires_grad_(True)
    layers = loaded.model.config.num_hidden_layers
    return student_from_layers(loaded.model, tuple(range(layers - options.keep, layers)))


def _rows(options: argparse.Namespace, loaded: LoadedModel, text: Path) -> PackedRows:
    """The longest texts, one a row, for as many steps as are run: all rows are full, or nearly so."""
    examples = to_examples(read_rows(text), loaded.tokenizer, max_tokens=options.row_tokens)
    longest = sorted(examples, key=lambda example: -len(example.ids))
    return PackedRows(longest[: (WARM_UP + options.steps) * options.rows], row_tokens=options.row_tokens)


if __name__ == "__main__":
    main()
