"""A reward model into one of some of its layers, beside a control that learns people's choices alone, and the same start.

The teacher is a cross-encoder: one number for how well a sentence answers a question. Of each question of SelQA a sentence
that answers it is better than another sentence of the same section. Nobody learns the held-out questions.
"""

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

import torch
from public_data import write_jsonl
from seeds import machine, run

from stillhouse.core.results import EvaluationResult

SHOWN = ("preference_accuracy", "top1_agreement", "cross_entropy", "forward_kl", "teacher_pearson", "teacher_spearman")


def main() -> None:
    """Print a line a model and number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher", help="a sequence classifier with one output: see benchmarks/retrieval_models.py")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=240, help="to learn")
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-reward-model"))
    options = parser.parse_args()
    pairs = pairs_of(options.data)
    if len(pairs) < options.pairs + options.held_out:
        raise SystemExit(f"there are {len(pairs):,} pairs, {options.pairs + options.held_out:,} wanted")
    write_jsonl(options.runs / "held-out.jsonl", pairs[: options.held_out])
    write_jsonl(options.runs / "pairs.jsonl", pairs[options.held_out :][: options.pairs])
    for seed in range(options.seeds):
        _print(_distil(options, seed), seed)


def pairs_of(data: Path) -> list[dict[str, str]]:
    """A pair a question: the first sentence that answers it, and one that does not."""
    draw, found = Random(0), list[dict[str, str]]()
    for row in json.loads((data / "retrieval/selqa_dev.json").read_text(encoding="utf-8")):
        right = set(row["answers"])
        others = [text for place, text in enumerate(row["candidates"]) if place not in right and text.strip()]
        chosen = row["candidates"][min(right)] if right else ""
        if chosen.strip() and others:
            found.append({"prompt": row["question"], "chosen": chosen, "rejected": draw.choice(others)})
    draw.shuffle(found)
    return list({pair["prompt"]: pair for pair in found}.values())


def _distil(options: argparse.Namespace, seed: int) -> EvaluationResult:
    data: dict[str, Any] = {
        "kind": "rewards",
        "path": str(options.runs / "pairs.jsonl"),
        "held_out_path": str(options.runs / "held-out.jsonl"),
        "sequence_tokens": 128,
    }
    return run(
        options.runs / f"seed-{seed}",
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.keep},
        data=data,
        objectives=[{"name": "forward_kl", "weight": 1.0}, {"name": "centred_logit_mse", "weight": 0.1}],
        training={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 16,
            "rows_per_micro_batch": 16,
        },
    )


def _print(result: EvaluationResult, seed: int) -> None:
    assert result.preferences is not None
    print(f"\nseed {seed}: {result.preferences.pairs} held-out pairs; {machine(result)}")
    for model in result.models:
        for name in SHOWN:
            if (one := model.metrics.get(name)) is not None:
                print(f"  {model.role:<20} {name:<22} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]", flush=True)
    for reading in result.preferences.readings:
        print(f"  {reading.role:<20} prefers the longer: {reading.prefers_longer.value:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
