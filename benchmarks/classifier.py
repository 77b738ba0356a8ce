"""A fine-tuned classifier into one of half its layers: hard labels, logits, features, or all three, on the same budget.

The teacher is fine-tuned here. Every arm starts from the same layers of it, sees the same texts in the same order, and is
judged on the test split alone, with intervals over its texts of the mean over seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from public_data import table
from seeds import faster, machine, run, smaller

from stillhouse.core.config import parse_recipe
from stillhouse.core.results import EvaluationResult
from stillhouse.data.config import ClassificationDataConfig
from stillhouse.data.prepare import Prepared, prepare
from stillhouse.evaluation.intervals import Sampled, Sums, bootstrapped, ratio
from stillhouse.kernels.terms import Term
from stillhouse.models.load import load_model, load_student, load_tokenizer
from stillhouse.students.save import save_student
from stillhouse.training import train
from stillhouse.training.trainer import Schedule

ARMS: Mapping[str, list[dict[str, Any]]] = {
    "hard labels": [{"name": "hard_label"}],
    "logits": [{"name": "forward_kl", "temperature": 2.0}],
    "features": [{"name": "hidden_mse", "layers": "uniform"}],
    "triple loss": [
        {"name": "forward_kl", "weight": 5.0, "temperature": 2.0},
        {"name": "hard_label", "weight": 2.0},
        {"name": "hidden_cosine", "weight": 1.0, "layers": "final"},
    ],
}


def main() -> None:
    """Print one line an arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--teacher-epochs", type=float, default=4)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-classifier"))
    options = parser.parse_args()
    teacher = _teacher(options)
    results = {(arm, seed): _distil(options, teacher, arm, seed) for seed in range(options.seeds) for arm in ARMS}
    _print(options, teacher, results)


def _data(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.data / "classification"
    return {
        "kind": "classification",
        "path": str(folder / "banking77_train.csv"),
        "held_out_path": str(folder / "banking77_test.csv"),
        "label": "category",
        "sequence_tokens": 64,
    }


def _prepared(options: argparse.Namespace, tokenizer: str) -> Prepared:
    return prepare(parse_recipe(ClassificationDataConfig, _data(options)), load_tokenizer(tokenizer))


def _teacher(options: argparse.Namespace) -> Path:
    """The encoder with a head, fine-tuned on hard labels; only once."""
    folder: Path = options.runs / "teacher"
    if folder.exists():
        return folder
    data = _prepared(options, options.encoder)
    model = load_student(options.encoder, "sequence_classification", seed=0, labels=data.labels).model
    schedule = Schedule(
        epochs=options.teacher_epochs,
        learning_rate=options.learning_rate,
        rows_per_step=32,
        rows_per_micro_batch=32,
        save_every_steps=500,
    )
    train(
        model,
        data.train,
        terms=[Term("hard_label")],
        teacher=None,
        vocab_size=len(data.labels),
        schedule=schedule,
        checkpoints=options.runs / "teacher-checkpoints",
    )
    save_student(model, load_tokenizer(options.encoder), folder)
    return folder


def _distil(options: argparse.Namespace, teacher: Path, arm: str, seed: int) -> EvaluationResult:
    return run(
        options.runs / f"{arm.replace(' ', '-')}-seed-{seed}",
        seed=seed,
        teacher={"model": str(teacher)},
        student={"kind": "from_layers", "keep": options.keep},
        data=_data(options),
        objectives=ARMS[arm],
        training={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 32,
            "rows_per_micro_batch": 32,
            "save_every_steps": 500,
        },
        evaluation={"control": "none"},
    )


def _print(options: argparse.Namespace, teacher: Path, results: Mapping[tuple[str, int], EvaluationResult]) -> None:
    seeds, first = range(options.seeds), results["hard labels", 0]
    rows = table(options.data / "classification/banking77_test.csv")
    print(
        f"{first.held_out.documents:,} of {sum(1 for _ in rows):,} test texts, {options.seeds} seeds, {machine(first)}"
    )
    data = _prepared(options, str(teacher))
    right = {"teacher": [_right(teacher, data)]} | {
        arm: [_right(options.runs / f"{arm.replace(' ', '-')}-seed-{seed}" / "student", data) for seed in seeds]
        for arm in ARMS
    }
    before = [_right(options.runs / f"hard-labels-seed-{seed}" / "student_before", data) for seed in seeds]
    sampled = _mean_accuracies({**right, "before training": before})
    print(f"{'':<16} {'accuracy %':<20} {'each seed':<20} {'minus hard labels, points':<26} % of the teacher's")
    for name, mine in sampled.items():
        each = " ".join(f"{100 * hits.mean():.1f}" for hits in right.get(name, before))
        gap, share = mine.minus(sampled["hard labels"]), mine.share_of(sampled["teacher"])
        print(f"{name:<16} {_percent(mine):<20} {each:<20} {_percent(gap, sign='+'):<26} {_percent(share)}")
    print(f"students: {smaller(first)}; {faster(list(results.values()))}")


@torch.no_grad()
def _right(folder: Path, data: Prepared) -> Sums:
    """1 for each test text that the model in `folder` puts into its class, else 0."""
    model = load_model(str(folder), "sequence_classification").model
    hits = [
        model(input_ids=batch.ids, attention_mask=batch.real.long()).logits.argmax(-1) == batch.targets
        for batch in data.held_out.batches(32)
    ]
    return torch.cat(hits).double().numpy()


def _mean_accuracies(right: Mapping[str, Sequence[Sums]]) -> dict[str, Sampled]:
    """Of each arm, the accuracy averaged over seeds, all over the same draws of texts."""
    hits = {name: np.mean(seeds, axis=0) for name, seeds in right.items()}
    documents = len(hits["teacher"])
    return bootstrapped({name: ratio(of, np.ones(documents)) for name, of in hits.items()}, set_sizes=[documents])


def _percent(sampled: Sampled, *, sign: str = "") -> str:
    found = sampled.interval()
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


if __name__ == "__main__":
    main()
