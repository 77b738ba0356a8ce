"""What does the live view cost? The same training steps of one thread with it and without, in turns; their ratio."""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from stillhouse.core.progress import SILENT, Progress
from stillhouse.reporting.terminal import LiveProgress

WIDTH, ROUND_STEPS = 512, 20


def main() -> None:
    """Print the median of the ratios, and their quarter and three quarters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, default=0.1, help="of work in one step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    products = max(1, round(options.step_seconds / _seconds_of_a_product()))
    with TemporaryDirectory() as name, Path(os.devnull).open("w", encoding="utf-8") as screen:
        live = LiveProgress(Console(file=screen, force_terminal=True, width=120, height=40))
        live.follow(Path(name))
        ratios = []
        for _ in range(options.rounds):
            without = _seconds(SILENT, Path(name), products)
            ratios.append(_seconds(live, Path(name), products) / without)
    low, middle, high = statistics.quantiles(ratios, n=4)
    said = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
    print(f"a step of {options.step_seconds} s takes the processor {said} as long with the live view")


def _seconds_of_a_product() -> float:
    weights = torch.randn(WIDTH, WIDTH)
    started = time.perf_counter()
    for _ in range(50):
        weights.mm(weights)
    return (time.perf_counter() - started) / 50


def _seconds(progress: Progress, run: Path, products: int) -> float:
    """Of the processor, for a round of steps, each of which is also written down as training does."""
    weights = torch.randn(WIDTH, WIDTH)
    progress.start("student learns", ROUND_STEPS, "steps")
    started = time.process_time()
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        for step in range(ROUND_STEPS):
            for _ in range(products):
                weights.mm(weights)
            line = {"arm": "student", "step": step, "loss": 1.0, "forward_kl": 0.5, "tokens": step * 64}
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            progress.advance(note="loss 1.00")
    taken = time.process_time() - started
    progress.finish()
    return taken


if __name__ == "__main__":
    main()
