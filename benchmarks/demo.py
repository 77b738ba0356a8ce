"""The demo over several seeds: what the student gains over its controls, and how far that depends on chance.

The seed changes what the teacher writes, which texts are held out, and the order of training.
"""

import argparse
import time
from pathlib import Path

from stillhouse import distill
from stillhouse.core.results import EvaluationResult
from stillhouse.reporting import headline

METRICS = ("forward_kl", "top1_agreement", "bits_per_byte")


def main() -> None:
    """Print one block a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-demo"))
    parser.add_argument("overrides", nargs="*", default=[])
    options = parser.parse_args()
    for seed in range(options.seeds):
        started = time.perf_counter()
        result = distill(
            "recipes/demo.yaml",
            overrides=[
                f"teacher.model={options.teacher}",
                f"run={options.runs / f'seed-{seed}'}",
                f"training.seed={seed}",
                f"synthesis.seed={seed}",
                *options.overrides,
            ],
        )
        _print(result, seed=seed, minutes=(time.perf_counter() - started) / 60)


def _print(result: EvaluationResult, *, seed: int, minutes: float) -> None:
    print(f"seed {seed}, {minutes:.1f} minutes, {result.machine}")
    for model in result.models:
        cells = [f"{name} {model.metrics[name].value:.3f}" for name in METRICS]
        speed = model.cost.decode_tokens_per_second
        assert speed is not None, "a language model writes"
        print(
            f"  {model.role:<22} {model.cost.parameters / 1e6:6.1f}M  {speed.value:6.1f} tokens/s  {'  '.join(cells)}"
        )
    for comparison in result.comparisons:
        gap = comparison.difference
        print(
            f"  student - {comparison.other:<20} {comparison.metric:<15} {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        )
    print(f"  {headline(result)}\n", flush=True)


if __name__ == "__main__":
    main()
