"""A language model into a student with about half its layers: bits per byte and grammar kept, over the budget.

First each combination of objectives gets the smallest budget; the best of them, by bits per byte, gets the larger ones.
Grammar is BLiMP's: of two sentences that differ in one respect, the right one should be the likelier.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from public_data import minimal_pairs, texts, write_jsonl
from seeds import machine, percent, run, smaller

from stillhouse.core.results import EvaluationResult, Role
from stillhouse.data.packing import to_batch
from stillhouse.data.text import Row, read_rows, to_examples
from stillhouse.evaluation.intervals import Sums, bootstrapped, ratio
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.students.layer_choice import choose_layers

HELD_OUT = 60
"""Texts that nobody trains on."""

COMBINATIONS: Mapping[str, list[dict[str, Any]]] = {
    "logits": [{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
    "logits and states": [
        {"name": "forward_kl", "weight": 0.9},
        {"name": "next_token", "weight": 0.1},
        {"name": "hidden_mse", "weight": 0.1, "layers": "uniform"},
    ],
    "triple loss": [
        {"name": "forward_kl", "weight": 5.0, "temperature": 2.0},
        {"name": "next_token", "weight": 2.0},
        {"name": "hidden_cosine", "weight": 1.0, "layers": "final"},
    ],
}


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=14)
    parser.add_argument("--tokens", type=int, nargs="+", default=[20_000, 60_000, 200_000])
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--pairs", type=int, default=100, help="minimal pairs of each phenomenon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-decoder"))
    options = parser.parse_args()
    teacher = load_causal_lm(options.teacher)
    held_out, *paths = write_texts(options, teacher)
    options.layers = kept_layers(options, teacher, paths[0])
    tried = {name: _distil(options, name, paths[0], held_out) for name in COMBINATIONS}
    best = min(tried, key=lambda name: _bits(tried[name], "student"))
    runs = {(name, options.tokens[0]): result for name, result in tried.items()}
    for budget, path in zip(options.tokens[1:], paths[1:], strict=True):
        runs[best, budget] = _distil(options, best, path, held_out)
    _print(options, runs)


def write_texts(options: argparse.Namespace, teacher: LoadedModel) -> list[Path]:
    """Held-out texts, and as many others as each budget reads; a smaller budget's are the first of a larger one's."""
    rows = texts(options.data)
    lengths = [len(teacher.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rows]
    held_out, rest, ends = rows[:HELD_OUT], rows[HELD_OUT:], np.cumsum(lengths[HELD_OUT:])
    if ends[-1] < max(options.tokens):
        raise SystemExit(f"{options.data} holds {ends[-1]:,} tokens to train on: fewer than {max(options.tokens):,}.")
    written = [("held-out", held_out)] + [(f"{n}", rest[: int(np.searchsorted(ends, n)) + 1]) for n in options.tokens]
    return [
        write_jsonl(options.runs / f"{name}.jsonl", ({"text": text} for text in several)) for name, several in written
    ]


def _distil(options: argparse.Namespace, combination: str, path: Path, held_out: Path) -> EvaluationResult:
    return run(
        _folder(options, combination, path.stem),
        seed=options.seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.layers},
        data={"kind": "text", "path": str(path), "held_out_path": str(held_out), "sequence_tokens": 256},
        objectives=COMBINATIONS[combination],
        training=training(options),
        evaluation={"control": "none", "samples": 0},
    )


def training(options: argparse.Namespace) -> dict[str, Any]:
    """How every student of such a benchmark is trained."""
    return {
        "epochs": 1,
        "learning_rate": options.learning_rate,
        "rows_per_step": 4,
        "rows_per_micro_batch": 4,
        "save_every_steps": 100,
    }


def kept_layers(options: argparse.Namespace, teacher: LoadedModel, path: Path) -> list[int]:
    """Which layers every student keeps: chosen once, as it takes minutes and would be the same for all."""
    chosen: Path = options.runs / "layers.json"
    if not chosen.exists():
        rows = to_examples(read_rows(path)[:2], teacher.tokenizer, max_tokens=128)
        choice = choose_layers(teacher.model, to_batch([[row] for row in rows[:2]]), keep=options.keep)
        chosen.write_text(json.dumps(choice.kept), encoding="utf-8")
    return list(json.loads(chosen.read_text(encoding="utf-8")))


def _folder(options: argparse.Namespace, combination: str, budget: str) -> Path:
    runs: Path = options.runs
    return runs / f"{combination.replace(' ', '-')}-{budget}"


def _bits(result: EvaluationResult, role: Role) -> float:
    model = result.model(role)
    assert model is not None
    return model.metrics["bits_per_byte"].value


def _print(options: argparse.Namespace, runs: Mapping[tuple[str, int], EvaluationResult]) -> None:
    first = next(iter(runs.values()))
    held_out = first.held_out
    print(f"{held_out.documents} held-out texts, {held_out.bytes or 0:,} bytes; seed {options.seed}; {machine(first)}")
    print(f"students: {smaller(first)}")
    print(
        f"{'':<18} {'tokens':>8}  {'bits/byte':>9}  {'accuracy kept %':<19}  {'pairs right %':<17}  {'pairs kept %':<18}"
    )
    pairs = minimal_pairs(options.data, of_each=options.pairs)
    taught = _right(load_causal_lm(options.teacher), pairs)
    print(_line("teacher", 0, _bits(first, "teacher"), "100", taught, taught))
    before = _right(load_causal_lm(str(_folder(options, *_name(next(iter(runs)))) / "student_before")), pairs)
    print(_line("before training", 0, _bits(first, "student_before"), _kept(first, "student_before"), before, taught))
    for (name, budget), result in runs.items():
        right = _right(load_causal_lm(str(_folder(options, name, str(budget)) / "student")), pairs)
        print(_line(name, budget, _bits(result, "student"), _kept(result, "student"), right, taught), flush=True)


def _name(key: tuple[str, int]) -> tuple[str, str]:
    return key[0], str(key[1])


def _kept(result: EvaluationResult, role: Role) -> str:
    found = result.retention(role)
    assert found is not None
    return percent(found.share)


def _line(name: str, budget: int, bits: float, accuracy: str, right: list[Sums], taught: list[Sums]) -> str:
    hits, theirs = np.concatenate(right), np.concatenate(taught)
    sizes, all_pairs = [len(phenomenon) for phenomenon in right], np.ones(len(hits))
    sampled = bootstrapped({"own": ratio(hits, all_pairs), "teacher": ratio(theirs, all_pairs)}, set_sizes=sizes)
    own, share = sampled["own"], sampled["own"].share_of(sampled["teacher"])
    return f"{name:<18} {budget:>8,}  {bits:>9.3f}  {accuracy:<19}  {percent(own.interval()):<17}  {percent(share.interval())}"


def _right(model: LoadedModel, pairs: Mapping[str, list[tuple[str, str]]]) -> list[Sums]:
    """Of each phenomenon and pair: 1 where the good sentence is the likelier one, half where they are alike, else 0."""
    return [_likelier(model, phenomenon) for phenomenon in pairs.values()]


def _likelier(model: LoadedModel, pairs: list[tuple[str, str]]) -> Sums:
    good, bad = (_log_likelihoods(model, [pair[side] for pair in pairs]) for side in (0, 1))
    return (good > bad).astype(float) + 0.5 * (good == bad)


@torch.no_grad()
def _log_likelihoods(model: LoadedModel, sentences: list[str]) -> Sums:
    """Of each sentence as a whole, in nats, its end not counted."""
    rows = to_examples([Row(text, finished=False) for text in sentences], model.tokenizer, max_tokens=256)
    found = []
    for start in range(0, len(rows), 50):
        batch = to_batch([[row] for row in rows[start : start + 50]])
        logprobs = model.model(input_ids=batch.ids, attention_mask=batch.real.long()).logits.log_softmax(-1)
        own = logprobs[:, :-1].gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
        found.append(torch.where(batch.real[:, 1:], own, 0.0).sum(-1).double().numpy())
    return np.concatenate(found)


if __name__ == "__main__":
    main()
