"""A 600-token prompt into the weights of the model that reads it: what is kept of its gain, and what is lost elsewhere.

Bank customers' questions, answered by the model behind the prompt; people's dialogues are replayed without it. The student is
the model itself, and is asked other questions than it was trained on. Targets: at least 90 % of the gain, and under 2 % more
bits per byte on held-out dialogues.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from public_data import json_lines, table, write_jsonl
from seeds import machine, mean, percent, run

from stillhouse.core.results import EvaluationResult, Interval, StyleResult
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.generate import Sampling, sample, stop_ids_of
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.models.tokenizers import end_of_turn

PROMPT = Path(__file__).parent / "bank_prompt.txt"
SOURCES: dict[str, dict[str, Any]] = {
    "offline": {"kind": "offline"},
    "mixed": {"kind": "mixed", "student_share": 0.5},
    "student": {"kind": "student"},
}
OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "forward_kl": [{"name": "forward_kl"}],
    "reverse_kl": [{"name": "reverse_kl"}],
    "jsd": [{"name": "jsd", "beta": 0.5}],
    "next_token": [{"name": "next_token"}],
}
AT_ONCE = 32
"""Answers written at once."""


def main() -> None:
    """Print a few lines for each source and objective."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--prompt", type=Path, default=PROMPT)
    parser.add_argument("--questions", type=int, default=400, help="questions with answers to train on")
    parser.add_argument("--held-out", type=int, default=80)
    parser.add_argument("--dialogues", type=int, default=200, help="of people, to replay and to measure drift by")
    parser.add_argument("--answer-tokens", type=int, default=128, help="of an answer, cut at the end of a sentence")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the written answers: hotter ones ramble")
    parser.add_argument("--sequence-tokens", type=int, default=1024, help="room for prompt, question and answer")
    parser.add_argument("--share", type=float, default=0.25, help="of replayed rows")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=["offline", "mixed"])
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=["forward_kl"])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-prompt"))
    options = parser.parse_args()
    write_data(options)
    for source in options.sources:
        for objective in options.objectives:
            if source == "offline" or objective != "next_token":  # which learns what others wrote
                results = [_distil(options, source, objective, seed) for seed in range(options.seeds)]
                _print(f"{source}, {objective}", results)


def write_data(options: argparse.Namespace) -> None:
    """Questions with the answers of the prompted teacher, to train on and held out, and dialogues of people; each once."""
    teacher: LoadedModel | None = None
    for name, file, wanted in (
        ("questions", "banking77_train.csv", options.questions),
        ("held-out", "banking77_test.csv", options.held_out),
    ):
        path = options.runs / f"{name}.jsonl"
        if not path.exists():
            teacher = teacher or load_causal_lm(options.teacher)
            asked = [row["text"].strip() for row in table(options.data / "classification" / file)]
            Random(0).shuffle(asked)
            write_jsonl(path, _answered(options, teacher, asked, wanted))
    dialogues = list(_dialogues(options.data))
    Random(0).shuffle(dialogues)
    write_jsonl(options.runs / "dialogues.jsonl", dialogues[: options.dialogues])


def _answered(
    options: argparse.Namespace, teacher: LoadedModel, asked: Sequence[str], wanted: int
) -> Iterator[dict[str, str]]:
    """So many of the questions, each with an answer up to the end of a sentence.

    A small teacher rambles on. The student learns what it finds likely at every place, not that it ends where it was cut.
    """
    system, template = options.prompt.read_text(encoding="utf-8").strip(), ChatTemplate(teacher.tokenizer)
    end = end_of_turn(teacher.tokenizer)
    stops = stop_ids_of(teacher.model) | ({end} if end is not None else set())
    num_found = 0
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        chats = [[{"role": "system", "content": system}, {"role": "user", "content": text}] for text in some]
        prompts = [_ids(teacher, template.try_render(chat, None, prompt=True)) for chat in chats]
        sampling = Sampling(temperature=options.temperature, max_new_tokens=options.answer_tokens)
        found = sample(
            teacher.model, prompts, sampling=sampling, seed=start, stop_ids=stops, vocab_size=len(teacher.tokenizer)
        )
        for question, one in zip(some, found, strict=True):
            answer = _whole_sentences(str(teacher.tokenizer.decode(one.tokens, skip_special_tokens=True)))
            if answer and num_found < wanted:
                num_found += 1
                yield {"prompt": question, "completion": answer}
        print(f"{num_found} of {wanted} answers are written", flush=True)
        if num_found == wanted:
            return
    raise SystemExit(f"{len(asked)} questions gave {num_found} answers with a whole sentence: {wanted} wanted.")


def _whole_sentences(text: str) -> str:
    """A text up to its last full stop, question or exclamation mark; nothing if it has none."""
    return text[: max(text.rfind(mark) for mark in ".?!") + 1].strip()


def _ids(teacher: LoadedModel, text: str) -> list[int]:
    return list(teacher.tokenizer(text, add_special_tokens=False)["input_ids"])


def _dialogues(data: Path) -> Iterator[dict[str, str]]:
    """A question of a person and the first answer of another."""
    for tree in json_lines(data / "instructions/oasst_en_100_trees.jsonl"):
        for reply in tree["prompt"].get("replies") or ():
            yield {"prompt": tree["prompt"]["text"], "completion": reply["text"]}


def _distil(options: argparse.Namespace, source: str, objective: str, seed: int) -> EvaluationResult:
    written = (
        {} if source == "offline" else {"sampling": {"max_new_tokens": options.answer_tokens}, "batch_size": AT_ONCE}
    )
    return run(
        options.runs / f"{source}-{objective}-{seed}",
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "checkpoint", "model": options.teacher},
        data={
            "kind": "chat",
            "path": str(options.runs / "questions.jsonl"),
            "held_out_path": str(options.runs / "held-out.jsonl"),
            "weight": "last",
            "sequence_tokens": options.sequence_tokens,
            "teacher_context": {
                "styles": [{"system_path": str(options.prompt)}],
                "replay": {"path": str(options.runs / "dialogues.jsonl"), "share": options.share},
            },
        },
        source={**SOURCES[source], **written},
        objectives=OBJECTIVES[objective],
        training={
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 8,
            "rows_per_micro_batch": 4,
        },
        evaluation={"control": "none", "samples": 3},
    )


def _print(title: str, results: Sequence[EvaluationResult]) -> None:
    first = _style(results[0])
    print(f"\n{title}: {first.documents} held-out questions; {machine(results[0])}")
    print(f"  tokens saved a call      {first.tokens_saved.value:,.0f}")
    print(f"  the prompt's gain, nats  {_nats(first.gain)}")
    for (role, reads), name in ROWS.items():
        found = next(row.metrics for row in first.readings if (row.role, row.reads_context) == (role, reads))
        loss, kl = _nats(found["cross_entropy"]), _nats(found["forward_kl"])
        print(f"  {name:<24} loss {loss}  KL {kl}  agrees {percent(found['top1_agreement'])} %")
    for measure in ("loss", "kl"):
        shares = [
            row.share
            for result in results
            for row in _style(result).kept
            if (row.role, row.measure) == ("student", measure)
        ]
        if shares:
            print(
                f"  gain kept by {measure:<4} {100 * mean(shares):.1f} %: {', '.join(map(percent, shares))}  (target: 90)"
            )
    drifts = [row for result in results if result.context for row in result.context.drift if row.role == "student"]
    print(f"  bits per byte elsewhere  {', '.join(f'{percent(row.change)} %' for row in drifts)}  (target: under 2)")
    print(f"  KL elsewhere, nats       {', '.join(_nats(row.forward_kl) for row in drifts)}", flush=True)


ROWS = {
    ("teacher", True): "teacher, with the prompt",
    ("teacher", False): "teacher, without",
    ("student_before", False): "student before, without",
    ("student", False): "student after, without",
    ("student", True): "student after, with",
}


def _style(result: EvaluationResult) -> StyleResult:
    assert result.context is not None
    return result.context.styles[0]


def _nats(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
