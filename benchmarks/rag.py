"""A generator over retrieved passages: how much of its teacher's answers a student of 12 layers keeps, and how fast it is.

XQuAD's English paragraphs are the documents and BM25 finds passages in them. The student is held beside the same student that
learns the same answers without the teacher's signals. Targets: a larger share of the teacher's token F1 and K-precision than
that control, and 1.8 times the teacher's speed from question to last word.

A model that has just lost most of its layers no longer reads. So both begin with a student that has read other questions over
other passages (SelQA's) beside its teacher, every token of them: `--start-tokens`, the same for both and in nobody's budget.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from public_data import write_jsonl
from seeds import machine, run, trained

from stillhouse.core.grounded_results import GROUNDED_METRICS, GroundedResult, grounded_result
from stillhouse.core.results import Interval, Role
from stillhouse.core.run import RunFolder
from stillhouse.data.grounded import Context, ContextPassage, Template, gold_answer, prompt_of
from stillhouse.models.load import load_tokenizer

ROLES: tuple[Role, ...] = ("teacher", "student", "control_hard_labels", "student_before")
START_TOKENS_A_ROW = 320
SHOWN = ("token_f1", "token_recall", "k_precision", "answered", "abstention_recall", "over_refusal", "citation_recall")


def main() -> None:
    """Print a table of everyone, shares of the teacher, both ablations and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--layers", default="12", help="that the student keeps, which is measured, or which: 0,1,8,11")
    parser.add_argument("--questions", type=int, default=120, help="to learn from and held out together")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the passages that nobody learns about")
    parser.add_argument(
        "--start-tokens", type=int, default=20_000, help="of other passages that the student reads first"
    )
    parser.add_argument("--answer-tokens", type=int, default=32, help="where an answer is cut off")
    parser.add_argument("--answers", choices=["teacher", "data"], default="teacher", help="whose are learnt")
    parser.add_argument("--passages", type=int, default=2)
    parser.add_argument("--passage-words", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-rag"))
    options = parser.parse_args()
    started = time.perf_counter()
    write_data(options)
    start = taught_start(options)
    folder = options.runs / f"{_num_layers(options)}-layers-{options.seed}"
    result = run(folder, seed=options.seed, **recipe(options, start))
    _print(folder)
    print(f"{machine(result)}; {(time.perf_counter() - started) / 60:.0f} minutes in all")


def write_data(options: argparse.Namespace) -> None:
    """All paragraphs, a file each, and questions about some of them, drawn by a seed that is always the same."""
    found = json.loads((options.data / "rag_qa/xquad_en.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in found for paragraph in article["paragraphs"]]
    documents = options.runs / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    questions: list[dict[str, Any]] = []
    for number, paragraph in enumerate(paragraphs):
        name = f"{number:03d}.txt"
        (documents / name).write_text(paragraph["context"], encoding="utf-8")
        for asked in paragraph["qas"]:
            answers = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
            questions.append({"question": asked["question"], "answers": answers, "passages": [name]})
    Random(0).shuffle(questions)
    write_jsonl(options.runs / "questions.jsonl", questions[: options.questions])


# Where the student starts.


def taught_start(options: argparse.Namespace) -> Path:
    """Some of the teacher's layers after so many tokens of SelQA, each of them learnt: passages, question and answer."""
    rows = list(_readings(options))
    folder = options.runs / f"start-{_num_layers(options)}-layers-{options.start_tokens}-tokens"
    which = [int(layer) for layer in options.layers.split(",")]
    return trained(
        folder,
        seed=0,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": which if len(which) > 1 else which[0]},
        data={
            "kind": "text",
            "path": str(write_jsonl(folder.with_suffix(".jsonl"), rows)),
            "held_out": min(0.5, 2 / len(rows)),
            "sequence_tokens": START_TOKENS_A_ROW,
        },
        objectives=[{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
        training={"epochs": 1, "learning_rate": 5e-4, "rows_per_step": 2, "rows_per_micro_batch": 2},
        evaluation={"control": "none"},
    )


def _num_layers(options: argparse.Namespace) -> int:
    which = options.layers.split(",")
    return len(which) if len(which) > 1 else int(which[0])


def _readings(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Conversations as a model reads them, until there are as many tokens as wanted: one in four has no passage that tells."""
    tokenizer, template, random = load_tokenizer(options.teacher), Template(), Random(0)
    rows = json.loads((options.data / "retrieval/selqa_dev.json").read_text(encoding="utf-8"))
    random.shuffle(rows)
    left = options.start_tokens
    for number, row in enumerate(rows):
        if left <= 0:
            return
        others = random.sample([other for other in rows if other["article"] != row["article"]], options.passages)
        shown = [_window(other, options.passage_words) for other in others]
        told = number % 4 > 0
        if told:
            shown[random.randrange(len(shown))] = _window(row, options.passage_words)
        context = Context(
            question=row["question"],
            passages=tuple(ContextPassage(str(place), text) for place, text in enumerate(shown)),
            mix="distractors" if told else "removed",
            answers=(row["candidates"][row["answers"][0]],),
            answer_in_context=told,
            template=template.fingerprint,
        )
        answer = gold_answer(context, template)
        assert answer is not None, "every row of the data has one"
        messages = [
            {"role": "user", "content": prompt_of(context, template)},
            {"role": "assistant", "content": answer},
        ]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        left -= min(START_TOKENS_A_ROW, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        yield {"text": text}


def _window(row: Mapping[str, Any], words: int) -> str:
    """The sentence that tells, and those behind it up to so many words."""
    sentences = row["candidates"][row["answers"][0] :]
    lengths = accumulate(len(sentence.split()) for sentence in sentences)
    return (
        " ".join(sentence for sentence, length in zip(sentences, lengths, strict=True) if length <= words)
        or sentences[0]
    )


# What is learnt and judged.


def recipe(options: argparse.Namespace, start: Path) -> dict[str, Any]:
    """What is distilled."""
    synthesis = {
        "kind": "grounded",
        "answers": {"sampling": {"temperature": 0.0, "max_new_tokens": options.answer_tokens}},
        "filters": [{"name": "unfinished"}],
    }
    return {
        "teacher": {"model": options.teacher},
        "student": {"kind": "checkpoint", "model": str(start)},
        "data": {
            "kind": "rag",
            "documents": str(options.runs / "documents"),
            "path": str(options.runs / "questions.jsonl"),
            "passages": options.passages,
            "passage_words": options.passage_words,
            "sequence_tokens": 512,
            "held_out": options.held_out,
            "mixture": {"distractors": 0.5, "retrieved": 0.25, "removed": 0.25},
        },
        **({"synthesis": synthesis} if options.answers == "teacher" else {}),
        "labels": {"signal": "last_hidden"},
        "objectives": [{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
        "training": {
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 4,
            "rows_per_micro_batch": 4,
        },
        "evaluation": {"samples": 0, "control": "hard_labels", "questions": 40},
    }


def _print(folder: Path) -> None:
    stages = RunFolder(folder).stages()
    found, answers = grounded_result(stages["evaluate"]["grounded"]), stages["synthesize"]
    print(f"contexts: {stages['contexts']['mixture']}; kept {answers['documents']}, dropped {answers['dropped']}")
    print(f"{found.questions} held-out questions, {found.told} told by their passages, {found.untold} not")
    print("| | " + " | ".join(GROUNDED_METRICS[name].title for name in SHOWN) + " |")
    print("|---|" + "---:|" * len(SHOWN))
    for role in ROLES:
        reading = found.reading(role)
        if reading is not None:
            print(f"| {role} | " + " | ".join(_share(reading.metrics, name) for name in SHOWN) + " |")
    _print_kept(found)
    for condition in ("without_passages", "shuffled"):
        for role in ("teacher", "student"):
            ablated = found.reading(role, condition)
            if ablated is not None:
                print(f"{role} {condition}: token F1 {_share(ablated.metrics, 'token_f1')}")
    for pair in found.pairs:
        print(
            f"{pair.retriever} with the {pair.role}: found {_text(pair.found)}, F1 {_share(pair.metrics, 'token_f1')}"
        )
    for one in found.latencies:
        print(f"{one.who} {one.part}: p50 {one.p50:.0f} ms, p95 {one.p95:.0f} ms")
    for name, speed in (("as it answers", found.speed_up), ("had it written as much", found.speed_up_as_long)):
        if speed is not None:
            print(f"student {speed.value:.2f} [{speed.low:.2f}, {speed.high:.2f}] times as fast, end to end, {name}")
    for size in found.sizes:
        print(f"{size.who} {size.what}: {size.bytes / 1e6:.1f} MB")
    for example in found.examples:
        print(f"- {example.question} ({example.mix}; right: {example.right[:1]})")
        for role in ROLES:
            print(f"    {role}: {example.answers.get(role, '')!r}")


def _print_kept(found: GroundedResult) -> None:
    for role, shares in (found.kept or {}).items():
        said = ", ".join(f"{GROUNDED_METRICS[name].title} {_text(share)}" for name, share in shares.items())
        print(f"{role} keeps of the teacher's: {said}")
    for row in found.comparisons:
        if row.other == "control_hard_labels" and row.metric in ("token_f1", "k_precision"):
            print(f"student minus control, {row.metric}: {_text(row.difference)}")


def _share(metrics: Mapping[str, Interval], name: str) -> str:
    return _text(metrics.get(name))


def _text(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
