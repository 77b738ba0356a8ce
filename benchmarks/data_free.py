"""A chat student from nothing but its teacher, beside the same student taught with people's instructions.

The teacher writes questions to itself (Magpie) and answers them. Students with the same start learn as many tokens of its
answers: as they come (`raw`), after the default filters (`filters`), of these the best of n (`best_of_n`), and with a tenth of
them replaced by people's (`replay`); one learns people's instructions alone (`real`). In all of them the teacher says what
it would have said at each token. All are judged on the same held-out instructions and answers of people, of whom nobody saw
any, and compared there document by document.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from public_data import json_lines, write_jsonl
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import parse_recipe
from stillhouse.core.files import write_atomic
from stillhouse.core.rouge import rouge_l_of_texts
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.data.text import Row as TextRow
from stillhouse.data.text import to_example
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, ratio
from stillhouse.evaluation.language import language_statistics, measure, say
from stillhouse.models.generate import Sampling, generate, stop_ids_of
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.reporting import terminal_progress
from stillhouse.students.layer_choice import choose_layers
from stillhouse.synthesis.choosing import BestOfN
from stillhouse.synthesis.diversity import before_and_after
from stillhouse.synthesis.filters import account_of, build_filters, default_filters, run_filters
from stillhouse.synthesis.filters.decontamination import DecontaminationConfig
from stillhouse.synthesis.flow import converse, row_of
from stillhouse.synthesis.judge import YesJudge
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rewards import Plain, Scoring
from stillhouse.synthesis.sources import magpie_questions
from stillhouse.synthesis.traces import Answers
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter

Row = dict[str, Any]
Arm = Literal["raw", "filters", "best_of_n", "replay", "real"]
ARMS: tuple[Arm, ...] = ("raw", "filters", "best_of_n", "replay", "real")
REPLAYED = 0.1
METRICS: Mapping[str, str] = {
    "bits_per_byte": "bits per byte of people's answers, lower is better",
    "forward_kl": "KL from the teacher there, nats, lower is better",
    "top1_agreement": "agreement with the teacher there, higher is better",
}
ADDED: Sequence[tuple[Arm, Arm]] = (
    ("filters", "raw"),
    ("best_of_n", "filters"),
    ("replay", "filters"),
    ("raw", "real"),
    ("filters", "real"),
    ("best_of_n", "real"),
    ("replay", "real"),
)
"""What is compared: the first minus the second."""


def main() -> None:
    """Print what was written and kept, and then a line a model and a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=12, help="layers of the student")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--samples", type=int, default=3, help="answers to each question, for the best of n")
    parser.add_argument("--tokens", type=int, default=12_000, help="of answers, to learn in every arm")
    parser.add_argument("--answer-tokens", type=int, default=96, help="the longest answer")
    parser.add_argument("--judged", type=int, default=80, help="held-out instructions with answers")
    parser.add_argument("--generated", type=int, default=0, help="of these, answered by everyone, for ROUGE-L")
    parser.add_argument("--reward", choices=["confidence", "judge"], default="confidence")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-data-free"))
    options = parser.parse_args()
    disable_progress_bar()
    teacher = load_causal_lm(options.teacher)
    files = write_data(options, teacher)
    layers = layers_of(options, teacher, files)
    folders = {arm: train(options, arm, files, layers) for arm in ARMS}
    report(options, teacher, folders, list(json_lines(files["held_out"])))


# Data.


def write_data(options: argparse.Namespace, teacher: LoadedModel) -> dict[str, Path]:
    """A file an arm, with as many tokens of answers each, and one that is held out."""
    tokenizer = teacher.tokenizer
    records = written(options, teacher)
    people, held_out = people_of(options, tokenizer)
    held_out_file = write_jsonl(options.runs / "held_out.jsonl", held_out)
    arms = {
        "raw": _first(records),
        "filters": filtered(_first(records), tokenizer, held_out=held_out_file, title="filters"),
        "best_of_n": filtered(
            _best(options, records, teacher),
            tokenizer,
            held_out=held_out_file,
            title=f"best of {options.samples}, filters",
        ),
    }
    rows = {name: [row_of(record) for record in arm if not record.dropped] for name, arm in arms.items()}
    some = _until(people, REPLAYED * options.tokens, tokenizer)
    rows["replay"] = [*some, *_until(rows["filters"], (1 - REPLAYED) * options.tokens, tokenizer)]
    rows["real"] = people
    files = {"held_out": held_out_file}
    for name, wanted in rows.items():
        learnt = _until(wanted, options.tokens, tokenizer)
        print(f"{name}: {len(learnt)} answers, {_tokens(learnt, tokenizer):,} tokens", flush=True)
        files[name] = write_jsonl(options.runs / f"{name}.jsonl", learnt)
    return files


def written(options: argparse.Namespace, teacher: LoadedModel) -> list[Record]:
    """All that the teacher wrote: so many answers to each of its questions."""
    writer = LocalWriter(teacher, name="teacher", fingerprint=options.teacher, batch_size=48)
    options.runs.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.runs / f"ledger-{options.seed}.jsonl", writer, progress=terminal_progress())
    asked = Sampling(temperature=1.0, max_new_tokens=64)
    source = partial(
        magpie_questions, tokenizer=teacher.tokenizer, number=options.questions, sampling=asked, seed=options.seed
    )
    answered = Sampling(temperature=0.7, max_new_tokens=options.answer_tokens)
    answers = Answers(sampling=answered, samples=options.samples, seed=options.seed)
    records = converse(ledger.ask, source, writer="teacher", answers=answers)
    print(f"{options.questions} questions, {ledger.tokens:,} tokens written", flush=True)
    return records


def _first(records: Sequence[Record]) -> list[Record]:
    """One answer to each question, the first that was drawn."""
    return [record for record in records if record.lineage.get("answer", {}).get("sample", 0) == 0]


def _best(options: argparse.Namespace, records: Sequence[Record], teacher: LoadedModel) -> list[Record]:
    return BestOfN(_reward(options, teacher))(records).records


def _reward(options: argparse.Namespace, teacher: LoadedModel) -> Scoring:
    """The teacher's own: how likely it finds its answer by token, or whether it says that it is right."""
    if options.reward == "confidence":
        return Plain("confidence", lambda record: _by_token(record.lineage["answer"]))
    writer = LocalWriter(teacher, name="teacher", fingerprint=options.teacher, batch_size=8)
    return YesJudge(Ledger(options.runs / "judge.jsonl", writer).ask, writer)


def _by_token(answer: Mapping[str, Any]) -> float:
    return float(answer["logprob"]) / max(1, answer["tokens"])


def filtered(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, *, held_out: Path, title: str
) -> list[Record]:
    """What the default filters leave, and that of what is held out; without the one of unfinished answers, as so short a limit
    cuts most of them off.
    """
    wanted = [one for one in default_filters("chat") if one.name != "unfinished"]
    filters = build_filters([*wanted, DecontaminationConfig(paths=(held_out,))], tokenizer=tokenizer)
    found = run_filters(records, filters)
    kept = [record for record in found if not record.dropped]
    account = account_of(found, filters)
    print(f"{title}: {len(kept)} of {len(found)} answers kept")
    for line in account["dropped"]:
        if line["count"]:
            print(f"  {line['count']:4} {line['filter']}: {line['reason']}")
    for side, values in before_and_after(found, kept).items():
        shares = ", ".join(f"distinct-{n} {100 * (share or 0):.1f} %" for n, share in values["distinct"].items())
        spread = values["spread"] or {"value": float("nan"), "low": 0.0, "high": 0.0}
        print(f"  {side}: {shares}, spread {spread['value']:.3f} [{spread['low']:.3f}, {spread['high']:.3f}]")
    return found


def people_of(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Row], list[Row]]:
    """Instructions and answers of people, to learn and to be judged by: no instruction is on both sides."""
    folder = options.data / "instructions"
    trees = list(json_lines(folder / "oasst_en_100_trees.jsonl"))
    Random(0).shuffle(trees)
    seeds = [_task(row) for row in json_lines(folder / "self_instruct_seed_tasks.jsonl")]
    judged = [_task(row) for row in json_lines(folder / "self_instruct_user_oriented.jsonl")]
    learnt = _short([*seeds, *_replies(trees[30:])], options, tokenizer)
    held_out = _short([*judged, *_replies(trees[:30], most=1)], options, tokenizer)
    for rows in (learnt, held_out):
        Random(0).shuffle(rows)
    known = {row["messages"][0]["content"] for row in learnt}
    return learnt, [row for row in held_out if row["messages"][0]["content"] not in known][: options.judged]


def _task(row: Mapping[str, Any]) -> Row:
    first = row["instances"][0]
    return _row("\n\n".join(part for part in (row["instruction"], first["input"]) if part.strip()), first["output"])


def _replies(trees: Iterable[Mapping[str, Any]], *, most: int = 2) -> Iterator[Row]:
    for tree in trees:
        for reply in (tree["prompt"].get("replies") or [])[:most]:
            yield _row(tree["prompt"]["text"], reply["text"])


def _row(question: str, answer: str) -> Row:
    said = {"user": question.strip(), "assistant": answer.strip()}
    return {"messages": [{"role": role, "content": text} for role, text in said.items()]}


def _short(rows: Iterable[Row], options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Answers as long as the teacher may write them, behind questions that leave room for them."""
    return [
        row
        for row in rows
        if 0 < _tokens([row], tokenizer) <= options.answer_tokens
        and len(tokenizer(row["messages"][0]["content"])["input_ids"]) <= 120
    ]


def _tokens(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> int:
    return sum(len(tokenizer(row["messages"][-1]["content"])["input_ids"]) for row in rows)


def _until(rows: Iterable[Row], tokens: float, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """The first rows whose answers have so many tokens together."""
    found: list[Row] = []
    learnt = 0
    for row in rows:
        if learnt >= tokens:
            return found
        found.append(row)
        learnt += _tokens([row], tokenizer)
    if learnt < 0.98 * tokens:
        raise SystemExit(f"there are {learnt:,} tokens of answers, {tokens:,.0f} wanted: raise --questions")
    return found


# Training and judging.


def layers_of(options: argparse.Namespace, teacher: LoadedModel, files: Mapping[str, Path]) -> list[int]:
    """The same for all arms, chosen once on what the teacher wrote."""
    file = options.runs / f"layers-{options.keep}.json"
    if not file.exists():
        texts = [line["messages"][-1]["content"] for line in json_lines(files["raw"])]
        calibration = to_example(TextRow(" ".join(texts)[:2000]), teacher.tokenizer)
        choice = choose_layers(teacher.model, to_batch([[calibration]]), keep=options.keep, method="block_influence")
        write_atomic(file, json.dumps(list(choice.kept)))
    return list(json.loads(file.read_text(encoding="utf-8")))


def train(options: argparse.Namespace, arm: Arm, files: Mapping[str, Path], layers: Sequence[int]) -> Path:
    """The folder of the arm's run, its student trained."""
    folder: Path = options.runs / f"{arm}-{options.keep}-seed-{options.seed}"
    sections: dict[str, Any] = {
        "run": str(folder),
        "teacher": {"model": options.teacher},
        "student": {"kind": "from_layers", "keep": list(layers)},
        "data": {
            "kind": "chat",
            "path": str(files[arm]),
            "held_out_path": str(files["held_out"]),
            "sequence_tokens": 256,
        },
        "labels": {"signal": "last_hidden"},
        "objectives": [{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
        "training": {
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": 2,
            "rows_per_micro_batch": 2,
            "seed": options.seed,
        },
        "evaluation": {"control": "none", "samples": 0},
    }
    with at_work(parse_recipe(Recipe, sections), terminal_progress()) as pipeline:
        pipeline.train()
    return folder


def report(
    options: argparse.Namespace, teacher: LoadedModel, folders: Mapping[Arm, Path], held_out: Sequence[Row]
) -> None:
    """A line a model and a line a comparison, over the same draws of held-out instructions."""
    examples = examples_of(held_out, teacher.tokenizer)
    says = say(teacher.model, examples, vocab_size=len(teacher.tokenizer))
    models: dict[str, Path] = {"before": folders["raw"] / "student_before"}
    models |= {str(arm): path / "student" for arm, path in folders.items()}
    sums = {"teacher": measure(teacher.model, examples, says, vocab_size=len(teacher.tokenizer))}
    rouge = {"teacher": rouge_of(options, teacher, held_out)}
    for name, folder in models.items():
        loaded = load_causal_lm(str(folder))
        sums[name] = measure(loaded.model, examples, says, vocab_size=len(teacher.tokenizer))
        rouge[name] = rouge_of(options, loaded, held_out)
        print(f"{name} is measured", flush=True)
    print(f"\n{len(examples)} held-out instructions, {int(sums['teacher'].tokens.sum()):,} tokens of answers; one seed")
    for metric, title in METRICS.items():
        shown(title, {name: language_statistics(one)[metric] for name, one in sums.items()}, number=len(examples))
    if options.generated:
        ones = np.ones(options.generated)
        title = f"ROUGE-L of {options.generated} answers with people's, higher is better"
        shown(title, {name: ratio(scores, ones) for name, scores in rouge.items()}, number=options.generated)


def examples_of(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Each answer behind its question in the teacher's template; the answer alone counts, without its end."""
    template = ChatTemplate(tokenizer)
    found = []
    for row in rows:
        prompt = list(tokenizer(template.prompt(row["messages"][:-1]), add_special_tokens=False)["input_ids"])
        answer = row["messages"][-1]["content"]
        tokens = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
        weights = (0.0,) * len(prompt) + (1.0,) * len(tokens)
        found.append(Example((*prompt, *tokens), weights, len(answer.encode())))
    return found


def rouge_of(options: argparse.Namespace, loaded: LoadedModel, rows: Sequence[Row]) -> "np.ndarray[Any, Any]":
    """How alike the model's own answers are to people's."""
    template, end = ChatTemplate(loaded.tokenizer), end_of_turn(loaded.tokenizer)
    some = rows[: options.generated]
    prompts = [
        list(loaded.tokenizer(template.prompt(row["messages"][:-1]), add_special_tokens=False)["input_ids"])
        for row in some
    ]
    stops = stop_ids_of(loaded.model) | ({end} if isinstance(end, int) else set())
    sampling = Sampling(temperature=0, max_new_tokens=options.answer_tokens)
    said = generate(loaded.model, prompts, sampling=sampling, seed=0, stop_ids=stops) if prompts else []
    texts = [str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in said]
    pairs = zip(some, texts, strict=True)
    return np.array([rouge_l_of_texts(row["messages"][-1]["content"], text) for row, text in pairs])


def shown(title: str, statistics: Mapping[str, Statistic], *, number: int) -> None:
    """Every model's value, and what each of `ADDED` differs by."""
    found = bootstrapped(statistics, set_sizes=[number])
    print(f"{title}:")
    for name, sampled in found.items():
        print(f"  {name:<24} {_interval(sampled)}")
    for one, other in ADDED:
        print(f"  {one + ' minus ' + other:<24} {_interval(found[one].minus(found[other]))}", flush=True)


def _interval(sampled: Sampled) -> str:
    found = sampled.interval()
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
