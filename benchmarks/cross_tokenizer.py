"""A teacher with another tokenizer: what comparing spans is worth beside learning its texts, and beside no teacher.

TEACHER and STUDENT cut text differently, and the student keeps its tokenizer. All arms learn about as many tokens, which is
printed: of public texts, or of what the teacher wrote behind the beginnings of the same texts (SeqKD). Judged by bits per byte
on texts that nobody learnt from, which any two models can be compared by; differences are paired over texts.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from public_data import json_lines, texts, write_jsonl
from seeds import seconds_per_step, trained

from stillhouse.data.text import read_rows, to_examples
from stillhouse.evaluation.compare import machine
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, ratio
from stillhouse.evaluation.language import DocumentSums, measure
from stillhouse.models.generate import Sampling, sample
from stillhouse.models.load import LoadedModel, load_causal_lm

NO_TEACHER = "next token"
WRITTEN = "SeqKD"
ARMS: Mapping[str, list[dict[str, Any]]] = {
    NO_TEACHER: [{"name": "next_token"}],
    WRITTEN: [{"name": "next_token"}],
    "span_forward_kl": [{"name": "span_forward_kl", "weight": 0.5}, {"name": "next_token", "weight": 0.5}],
    "span_hybrid": [{"name": "span_hybrid", "weight": 0.5}, {"name": "next_token", "weight": 0.5}],
    "ULD": [{"name": "span_sorted_mass", "weight": 0.5}, {"name": "next_token", "weight": 0.5}],
}
BEGINNING_WORDS = 24
"""Of a text, that the teacher goes on from."""
AT_ONCE = 16


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("student", help="with another tokenizer, such as runs/benchmark-on-policy/start/student")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--tokens", type=int, default=20_000, help="of the student, that each arm learns")
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--row-tokens", type=int, default=128)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--written-tokens", type=int, default=96, help="of the teacher, behind a text's beginning")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-cross-tokenizer"))
    options = parser.parse_args()
    write_texts(options, load_causal_lm(options.student))
    folders = {arm: [_distil(options, arm, seed) for seed in range(options.seeds)] for arm in options.arms}
    _print(options, folders)


# What is learnt


def write_texts(options: argparse.Namespace, student: LoadedModel) -> None:
    """`held-out.jsonl`, `data.jsonl`, and `written.jsonl` by the teacher where SeqKD is asked for; each once."""
    found = texts(options.data)
    write_jsonl(options.runs / "held-out.jsonl", ({"text": text} for text in found[: options.held_out]))
    rest = found[options.held_out :]
    write_jsonl(options.runs / "data.jsonl", ({"text": text} for text in _until(rest, student, options.tokens)))
    written = options.runs / "written.jsonl"
    if WRITTEN in options.arms and not written.exists():
        write_jsonl(written, _written(options, load_causal_lm(options.teacher), student, rest))


def _until(rows: Sequence[str], student: LoadedModel, wanted: int) -> Iterator[str]:
    left = wanted
    for text in rows:
        if left <= 0:
            return
        left -= _num_tokens(student, text)
        yield text


def _num_tokens(model: LoadedModel, text: str) -> int:
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _written(
    options: argparse.Namespace, teacher: LoadedModel, student: LoadedModel, rows: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """How the teacher goes on from the beginnings of texts, until the student has as many tokens to learn."""
    left = options.tokens
    for start in range(0, len(rows), AT_ONCE):
        beginnings = [" ".join(text.split()[:BEGINNING_WORDS]) for text in rows[start : start + AT_ONCE]]
        for beginning, text in zip(beginnings, _gone_on(options, teacher, beginnings, start), strict=True):
            if text.strip() and left > 0:
                left -= _num_tokens(student, text)
                yield {"prompt": beginning, "completion": text}
        print(f"{max(left, 0):,} of {options.tokens:,} tokens are still to be written", flush=True)
        if left <= 0:
            return
    raise SystemExit(f"the teacher's texts lack {left:,} of {options.tokens:,} tokens.")


def _gone_on(options: argparse.Namespace, teacher: LoadedModel, beginnings: Sequence[str], seed: int) -> list[str]:
    said = sample(
        teacher.model,
        [list(teacher.tokenizer(beginning)["input_ids"]) for beginning in beginnings],
        sampling=Sampling(temperature=1.0, max_new_tokens=options.written_tokens),
        seed=seed,
        vocab_size=len(teacher.tokenizer),
    )
    return [str(teacher.tokenizer.decode(one.tokens, skip_special_tokens=True)) for one in said]


def _distil(options: argparse.Namespace, arm: str, seed: int) -> Path:
    """The run folder of an arm. Where no spans are compared nobody asks the teacher, whose place the student's start takes."""
    objectives = ARMS[arm]
    compares = any(str(one["name"]).startswith("span_") for one in objectives)
    folder: Path = options.runs / f"{arm.replace(' ', '-')}-seed-{seed}"
    trained(
        folder,
        seed=seed,
        teacher={"model": options.teacher if compares else options.student},
        student={"kind": "checkpoint", "model": options.student},
        data={
            "kind": "text",
            "path": str(options.runs / ("written.jsonl" if arm == WRITTEN else "data.jsonl")),
            "held_out_path": str(options.runs / "held-out.jsonl"),
            "sequence_tokens": options.row_tokens,
        },
        objectives=objectives,
        training={
            "learning_rate": options.learning_rate,
            "rows_per_step": options.rows_per_step,
            "rows_per_micro_batch": options.rows_per_step,
        },
        evaluation={"control": "none"},
    )
    return folder


# What became of it


def _judged(options: argparse.Namespace, source: str) -> DocumentSums:
    loaded = load_causal_lm(source)
    rows = read_rows(options.runs / "held-out.jsonl")
    examples = to_examples(rows, loaded.tokenizer, max_tokens=2 * options.row_tokens)
    return measure(loaded.model, examples, None, vocab_size=len(loaded.tokenizer))


def _print(options: argparse.Namespace, folders: Mapping[str, Sequence[Path]]) -> None:
    found = {
        "teacher": [_judged(options, options.teacher)],
        "before training": [_judged(options, options.student)],
        **{arm: [_judged(options, str(folder / "student")) for folder in several] for arm, several in folders.items()},
    }
    about = machine()
    print(
        f"\n{options.held_out} held-out texts; {about['processor']}, {about['threads']} threads, torch {about['torch']}"
    )
    statistics = {name: _bits_per_byte(several) for name, several in found.items()}
    sampled = bootstrapped(statistics, set_sizes=[len(found["teacher"][0].bytes)])
    for name, several in found.items():
        each = ", ".join(f"{_bits_per_byte([one])(np.ones((1, len(one.bytes))))[0]:.3f}" for one in several)
        against = [
            f"beside {other} {_told(sampled[name].minus(sampled[other]), '+')}"
            for other in (NO_TEACHER, WRITTEN)
            if name in folders and other in folders and other != name
        ]
        cost = _cost(folders[name]) if name in folders else ""
        print(
            f"{name:<16} {_told(sampled[name])} bits per byte; seeds {each}; {'; '.join([*against, cost])}", flush=True
        )


def _bits_per_byte(several: Sequence[DocumentSums]) -> Statistic:
    """Over all seeds of an arm together."""
    loss, num_bytes = (np.sum([getattr(one, name) for one in several], axis=0) for name in ("loss_nats", "bytes"))
    return ratio(loss / np.log(2), num_bytes)


def _cost(folders: Sequence[Path]) -> str:
    last = list(json_lines(folders[0] / "metrics.jsonl"))[-1]
    seconds = float(np.mean([seconds_per_step(folder) for folder in folders]))
    return f"{last['tokens']:,.0f} tokens in {last['step']} steps of {seconds:.1f} s"


def _told(found: Sampled, plus: str = "") -> str:
    interval = found.interval()
    return f"{interval.value:{plus}.3f} [{interval.low:{plus}.3f}, {interval.high:{plus}.3f}]"


if __name__ == "__main__":
    main()
