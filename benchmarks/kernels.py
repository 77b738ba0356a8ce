"""The fused head loss against its alternatives: interleaved, as ratios, with the memory that each takes.

Time: every contender takes its turn in every round, and ratios are taken within a round, so that whatever else the machine
does falls on all alike. Memory: a process for each contender and number of tokens, and its peak resident size above what
inputs and gradients take. Targets, with all cores and nothing else running: TRL's ChunkedDivergenceFunction at least 3
times and dense autograd at least 1.7 times as long as forward KL here; forward KL at most 1.3 times the four matrix
products that nobody can avoid; reverse KL and JSD at most 1.25 times forward KL; less than 64 MiB at any number of tokens.
"""

import argparse
import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.core.signals import FactoredLogits, SparseLogprobs
from stillhouse.kernels.chunked import Teacher, chunked_losses
from stillhouse.kernels.terms import Term
from stillhouse.objectives import forward_kl

PRODUCTS, DENSE, TRL = "four matrix products", "dense autograd", "TRL ChunkedDivergenceFunction"
FUSED: Mapping[str, list[str]] = {
    "forward_kl": ["forward_kl"],
    "reverse_kl": ["reverse_kl"],
    "jsd": ["jsd"],
    "skewed_forward_kl": ["skewed_forward_kl"],
    "alpha_beta": ["alpha_beta"],
    "adaptive_kl": ["adaptive_kl"],
    "forward_kl + next_token": ["forward_kl", "next_token"],
}
TOP_50 = "forward_kl of 50 stored tokens"
# (what takes the time, in units of what, at most or at least how many)
TARGETS = [
    (TRL, "forward_kl", ">=", 3.0),
    (DENSE, "forward_kl", ">=", 1.7),
    ("forward_kl", PRODUCTS, "<=", 1.3),
    ("reverse_kl", "forward_kl", "<=", 1.25),
    ("jsd", "forward_kl", "<=", 1.25),
]


def main() -> None:
    """Print a line a contender, then a line a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    contenders = _contenders(options)
    if options.memory_of:
        print(_peak_bytes(contenders[options.memory_of], options))
        return
    print(f"{options.tokens} tokens, width {options.hidden}, vocabulary {options.vocab}, float32")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    seconds = _take_turns(contenders, rounds=options.rounds)
    print(f"\n{'forward and backward':<32} {'seconds':>8}   {'in matrix products [least, most]'}")
    for name, times in seconds.items():
        print(f"{name:<32} {statistics.median(times):8.2f}   {_ratio(times, seconds[PRODUCTS])}")
    _print_targets(seconds)
    _print_memory(list(contenders), options)


def _contenders(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    student, teacher = (
        _factors(options.tokens, options.hidden, options.vocab, learns=learns) for learns in (True, False)
    )
    stored = _stored(options.tokens, options.vocab)
    return (
        {PRODUCTS: lambda: _four_products(student, teacher)}
        | {name: lambda names=names: _fused(student, teacher, names) for name, names in FUSED.items()}
        | {TOP_50: lambda: _fused(student, stored, ["forward_kl"]), DENSE: lambda: _dense(student, teacher)}
        | _trl(student, teacher)
    )


def _factors(tokens: int, hidden: int, vocab: int, *, learns: bool) -> FactoredLogits:
    # Logits with a standard deviation of 2: as peaked as a language model's.
    states, weight = torch.randn(tokens, hidden), torch.randn(vocab, hidden).mul_(2 / hidden**0.5)
    return FactoredLogits(states.requires_grad_(learns), weight.requires_grad_(learns))


def _stored(tokens: int, vocab: int) -> SparseLogprobs:
    ids = (torch.randint(vocab, (tokens, 1)) + torch.arange(50) * (vocab // 50)) % vocab
    logprobs = torch.randn(tokens, 51).log_softmax(-1)
    return SparseLogprobs(ids, logprobs[:, :50], logprobs[:, 50], vocab)


@torch.no_grad()
def _four_products(student: FactoredLogits, teacher: FactoredLogits) -> tuple[Tensor, Tensor]:
    logits = student.hidden @ student.weight.T
    teacher.hidden @ teacher.weight.T
    return logits @ student.weight, logits.T @ student.hidden


def _fused(student: FactoredLogits, teacher: Teacher, names: list[str]) -> object:
    num_tokens = len(student.hidden)
    loss, _ = chunked_losses(
        student,
        teacher,
        terms=[Term(name) for name in names],
        target_ids=torch.arange(num_tokens) % student.vocab_size,
        token_weights=torch.ones(num_tokens),
    )
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

    return {TRL: run}


def _take_turns(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            gc.collect()
            started = time.perf_counter()
            work()
            if turn > 0:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _ratio(times: list[float], base: list[float]) -> str:
    ratios = sorted(mine / theirs for mine, theirs in zip(times, base, strict=True))
    return f"{statistics.median(ratios):5.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"


def _print_targets(seconds: Mapping[str, list[float]]) -> None:
    print("\ntargets")
    for name, base, sign, bound in TARGETS:
        if name in seconds:
            print(f"{name} / {base}: {_ratio(seconds[name], seconds[base])}, wanted {sign} {bound}")


def _print_memory(names: list[str], options: argparse.Namespace) -> None:
    """Peak memory above inputs and gradients, at as many tokens as asked for and at four times as many."""
    sizes = (options.tokens, 4 * options.tokens)
    print(f"\n{'MiB beside inputs and gradients':<32}" + "".join(f"{size:>9} tokens" for size in sizes))
    for name in names:
        found = []
        for size in sizes:
            command = [sys.executable, __file__, "--tokens", str(size), "--memory-of", name]
            command += ["--hidden", str(options.hidden), "--vocab", str(options.vocab)]
            found.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
        print(f"{name:<32}" + "".join(f"{peak / 2**20:>16.0f}" for peak in found))


def _peak_bytes(work: Callable[[], object], options: argparse.Namespace) -> int:
    """How far the process grows above what it holds before, less the gradients' own size. Of Linux alone."""
    small = torch.randn(64, 64, requires_grad=True)
    torch.autograd.grad((small @ small).log_softmax(-1).exp().sum(), small)  # loads what torch loads late
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _kibibytes("VmRSS")
    work()
    return 1024 * (_kibibytes("VmHWM") - before) - 4 * options.hidden * (options.tokens + options.vocab)


def _kibibytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


if __name__ == "__main__":
    main()
