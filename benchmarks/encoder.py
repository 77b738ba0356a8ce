"""A sentence encoder into one of half its layers: what it keeps of its teacher's Spearman on pairs scored by people.

Sentences are all that is learnt from. The pairs are others, and none of their sentences is trained on.
"""

import argparse
from pathlib import Path

from public_data import sentences, write_jsonl
from seeds import faster, kept, machine, run, smaller

from stillhouse.core.results import EvaluationResult


def main() -> None:
    """Print one block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--others", type=int, default=0, help="sentences of other kinds than the STS pairs'")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-encoder"))
    options = parser.parse_args()
    rows = [{"text": text} for text in sentences(options.data, others=options.others)]
    path = write_jsonl(options.runs / "sentences.jsonl", rows)
    results = [_distil(options, path, seed) for seed in range(options.seeds)]
    _print(results, trained_on=len(rows))


def _distil(options: argparse.Namespace, path: Path, seed: int) -> EvaluationResult:
    return run(
        options.runs / f"{Path(options.teacher).name}-{options.keep}-seed-{seed}",
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.keep},
        data={
            "kind": "sentences",
            "path": str(path),
            "sequence_tokens": 64,
            "held_out": 0.02,
            "pairs_path": str(options.data / "sts/stsb_open_dev.tsv"),
            "first": "sentence1",
            "second": "sentence2",
        },
        objectives=[
            {"name": "embedding_cosine", "weight": 1.0},
            {"name": "hidden_mse", "weight": 1.0, "layers": "uniform"},
        ],
        training={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 32,
            "rows_per_micro_batch": 32,
        },
    )


def _print(results: list[EvaluationResult], *, trained_on: int) -> None:
    print(f"{trained_on:,} sentences, {results[0].held_out.answers:,} pairs, {machine(results[0])}")
    for role in ("teacher", "student_before", "student"):
        models = [model for model in (result.model(role) for result in results) if model is not None]
        scores = ", ".join(f"{model.metrics['spearman'].value:.4f}" for model in models)
        print(f"  {role:<15} Spearman {scores}")
    print(f"  before training {kept(results, 'student_before')}")
    print(f"  student         {kept(results)}")
    print(f"  student         {smaller(results[0])}")
    print(f"  student         {faster(results)}")


if __name__ == "__main__":
    main()
