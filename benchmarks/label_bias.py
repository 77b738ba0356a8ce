"""What a student learns from labels that leave something out: its loss, its distance from the teacher, and how sure it is.

Every student sees the same text and the same layers, and learns from the teacher alone. A calibration error is the gap
between how sure a model is of its likeliest token and how often that comes: what is renormalised should make it too sure.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoder import kept_layers, training, write_texts
from seeds import machine, percent, run, smaller

from stillhouse.core.results import EvaluationResult, Interval, Role
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.data.text import read_rows, to_examples
from stillhouse.evaluation.intervals import bootstrapped
from stillhouse.evaluation.statistics import calibration_error
from stillhouse.models.load import load_causal_lm
from stillhouse.models.signals import factored_logits


def main() -> None:
    """Print one line a form of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=14)
    parser.add_argument("--tokens", type=int, nargs=1, default=[20_000])
    parser.add_argument("--most", type=int, default=8, help="likeliest tokens that are kept")
    parser.add_argument("--draws", type=int, default=12, help="tokens that are drawn: as many as take like room")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-label-bias"))
    options = parser.parse_args()
    teacher = load_causal_lm(options.teacher)
    held_out, path = write_texts(options, teacher)
    options.layers = kept_layers(options, teacher, path)
    judge = Judge(to_examples(read_rows(held_out), teacher.tokenizer, max_tokens=256), len(teacher.tokenizer))
    print(
        f"{'':<24}{'B/token':>8}  {'KL from teacher':<22}{'bits/byte':<22}{'calibration error %':<22}{'surer by %':<12}"
    )
    for name, labels in _forms(options).items():
        for seed in range(options.seeds):
            folder = options.runs / f"{name.replace(',', '').replace(' ', '-')}-{seed}"
            result = _distil(options, folder, labels, [path, held_out], seed)
            stored = json.loads((folder / "stages/label.json").read_text(encoding="utf-8"))["bytes_per_token"]
            judge.line(name, f"{stored:.1f}", result, "student", folder / "student")
    judge.line("before training", "", result, "student_before", folder / "student_before")
    judge.line("teacher", "", result, "teacher", options.teacher)
    print(f"{result.held_out.documents} held-out texts; students: {smaller(result)}; {machine(result)}")


def _forms(options: argparse.Namespace) -> Mapping[str, dict[str, Any]]:
    likeliest = {"signal": "sparse", "min_probability": 0.0, "most": options.most}
    return {
        "all": {"signal": "last_hidden"},
        "likeliest, bucket": likeliest,
        "likeliest, renormalised": {**likeliest, "tail": "renormalised"},
        "drawn": {"signal": "sampled", "draws": options.draws},
    }


def _distil(
    options: argparse.Namespace, folder: Path, labels: dict[str, Any], paths: Sequence[Path], seed: int
) -> EvaluationResult:
    return run(
        folder,
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.layers},
        data={"kind": "text", "path": str(paths[0]), "held_out_path": str(paths[1]), "sequence_tokens": 256},
        labels=labels,
        objectives=[{"name": "forward_kl"}],
        training=training(options),
        evaluation={"control": "none", "samples": 0},
    )


@dataclass(frozen=True)
class Judge:
    """Held-out text, and how sure models are of it."""

    examples: Sequence[Example]
    vocab_size: int

    def line(self, name: str, stored: str, result: EvaluationResult, role: Role, source: Path | str) -> None:
        """Print what one model is worth."""
        found = result.model(role)
        assert found is not None
        wrong, surer = self.calibration(str(source))
        kl, bits = (
            _told(found.metrics[metric]) if metric in found.metrics else ""
            for metric in ("forward_kl", "bits_per_byte")
        )
        print(f"{name:<24}{stored:>8}  {kl:<22}{bits:<22}{percent(wrong):<22}{100 * surer:+.1f}", flush=True)

    @torch.no_grad()
    def calibration(self, source: str) -> tuple[Interval, float]:
        """The calibration error of a model's likeliest tokens, and how much surer it is on average than it should be."""
        model = load_causal_lm(source).model
        confidences, hits, documents = [], [], []
        for example in self.examples:
            batch = to_batch([[example]])
            logits = factored_logits(model, batch).at(batch.predicts).first(self.vocab_size)
            likeliest = logits.dense().softmax(-1).max(-1)
            confidences.append(likeliest.values.double().numpy())
            hits.append((likeliest.indices == batch.targets).double().numpy())
            documents.append(np.full(len(batch.targets), example.document))
        sure, right = np.concatenate(confidences), np.concatenate(hits)
        names, whose = np.unique(np.concatenate(documents), return_inverse=True)
        error = calibration_error(sure, right, whose, num_documents=len(names))
        return bootstrapped({"error": error}, set_sizes=[len(names)])["error"].interval(), float(np.mean(sure - right))


def _told(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
