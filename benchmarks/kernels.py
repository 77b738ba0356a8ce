"""The fused head loss against its alternatives: interleaved, as ratios to the four matrix products that nobody can avoid."""

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.chunked import chunked_losses
from stillhouse.kernels.terms import Term
from stillhouse.objectives import forward_kl


def main() -> None:
    """Print one line a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    student, teacher = (
        _factors(options.tokens, options.hidden, options.vocab, learns=learns) for learns in (True, False)
    )
    targets = torch.randint(options.vocab, (options.tokens,))
    contenders: dict[str, Callable[[], object]] = {
        "four matrix products": lambda: _four_products(student, teacher),
        "stillhouse forward_kl": lambda: _fused(student, teacher, targets, ["forward_kl"]),
        "stillhouse forward_kl + next_token": lambda: _fused(student, teacher, targets, ["forward_kl", "next_token"]),
        "stillhouse reverse_kl": lambda: _fused(student, teacher, targets, ["reverse_kl"]),
        "stillhouse jsd": lambda: _fused(student, teacher, targets, ["jsd"]),
        "dense autograd forward_kl": lambda: _dense(student, teacher),
    } | _trl(student, teacher)
    seconds = _take_turns(contenders, repeats=options.repeats)
    print(f"{options.tokens} tokens, width {options.hidden}, vocabulary {options.vocab}, float32")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    base = seconds["four matrix products"]
    for name, times in seconds.items():
        ratios = sorted(mine / theirs for mine, theirs in zip(times, base, strict=True))
        middle = statistics.median(ratios)
        print(f"{name:<36} {statistics.median(times):6.2f} s   x {middle:5.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def _factors(tokens: int, hidden: int, vocab: int, *, learns: bool) -> FactoredLogits:
    # Logits with a standard deviation of 2: as peaked as a language model's.
    states, weight = torch.randn(tokens, hidden), torch.randn(vocab, hidden) * 2 / hidden**0.5
    return FactoredLogits(states.requires_grad_(learns), weight.requires_grad_(learns))


@torch.no_grad()
def _four_products(student: FactoredLogits, teacher: FactoredLogits) -> tuple[Tensor, Tensor]:
    logits = student.hidden @ student.weight.T
    teacher.hidden @ teacher.weight.T
    return logits @ student.weight, logits.T @ student.hidden


def _fused(student: FactoredLogits, teacher: FactoredLogits, targets: Tensor, names: list[str]) -> object:
    terms = [Term(name) for name in names]
    loss, _ = chunked_losses(student, teacher, terms=terms, target_ids=targets, token_weights=torch.ones(len(targets)))
    return torch.autograd.grad(loss, [student.hidden, student.weight])


def _dense(student: FactoredLogits, teacher: FactoredLogits) -> object:
    loss = forward_kl(student.dense(), teacher.dense()).sum()
    return torch.autograd.grad(loss, [student.hidden, student.weight])


def _trl(student: FactoredLogits, teacher: FactoredLogits) -> dict[str, Callable[[], object]]:
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except ImportError:
        return {}

    def run() -> object:
        loss = ChunkedDivergenceFunction.apply(
            student.hidden, student.weight, None, teacher.hidden, teacher.weight, None, 0.0
        )[0].sum()
        return torch.autograd.grad(loss, [student.hidden, student.weight])

    return {"TRL ChunkedDivergenceFunction": run}


def _take_turns(contenders: dict[str, Callable[[], object]], *, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, work in contenders.items():
            gc.collect()
            started = time.perf_counter()
            work()
            if repeat > 0:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
