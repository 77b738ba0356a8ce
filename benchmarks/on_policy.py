"""Who writes the answers: six ways to teach a small model from prompts, at equal tokens and in equal time.

The student is some of TEACHER's layers, taught for a short time on people's dialogues, once for all arms. Each arm then learns
as many answers to the same prompts, and the slower ones once more with as many steps as fit into the time of the quickest. What
the data answers, the teacher wrote before, which is in nobody's time. Judged on prompts that nobody learnt from:

- KL from the teacher, a token, on the teacher's answers and on the student's own; its excess on these is exposure bias
- how often both find the same token likeliest
- ROUGE-L of what the student says and the teacher's likeliest answer, over tokens

What is judged is drawn at temperature 1, as what is learnt.

Of the seeds of an arm every document's sums are added up; intervals are over documents, and each seed stands beside them.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from public_data import json_lines, write_jsonl
from seeds import seconds_per_step, trained
from transformers import PreTrainedModel

from stillhouse.core.rouge import rouge_l
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.data.examples import Example
from stillhouse.evaluation.compare import machine
from stillhouse.evaluation.intervals import Sampled, Statistic, Sums, bootstrapped, ratio
from stillhouse.evaluation.language import DocumentSums, measure, say
from stillhouse.models.generate import Sampling, sample, stop_ids_of
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.models.tokenizers import end_of_turn

SYSTEM = "Answer in one short sentence."
"""Short answers come to an end: nothing is learnt of an end that was cut off."""
QUICKEST = "SeqKD"
SHORT = 100
"""Tokens of a dialogue's question and reply: longer ones are left out."""
AT_ONCE = 32
"""Answers that are written at once before training and to judge."""

Ids = Sequence[int]


@dataclass(frozen=True)
class Arm:
    """A recipe's `source` and `objectives`."""

    source: Mapping[str, Any]
    objectives: Sequence[Mapping[str, Any]]


ARMS: Mapping[str, Arm] = {
    "offline KL": Arm({"kind": "offline"}, [{"name": "forward_kl"}]),
    # The data's answers are the teacher's: what `source: {kind: teacher}` writes, written once for all seeds.
    "SeqKD": Arm({"kind": "offline"}, [{"name": "next_token"}]),
    "GKD": Arm({"kind": "mixed", "student_share": 0.5}, [{"name": "jsd", "beta": 0.5}]),
    "MiniLLM": Arm({"kind": "student", "teacher_share": 0.2}, [{"name": "minillm"}]),
    "reverse KL": Arm({"kind": "student"}, [{"name": "reverse_kl"}]),
    # The share does not follow the held-out loss: those prompts are judged by.
    "DistiLLM": Arm(
        {"kind": "replay", "student_share": 0.5, "share_step": 0.0, "capacity": 16},
        [{"name": "skewed_reverse_kl", "alpha": 0.1}],
    ),
}


def main() -> None:
    """Print one line an arm."""
    options = _options()
    teacher = load_causal_lm(options.teacher)
    write_answers(options, teacher)
    start = taught_start(options, teacher)
    folders: dict[str, list[Path]] = {"before": [start.parent]}
    for seed in range(options.seeds):
        for arm in options.arms:
            folders.setdefault(arm, []).append(_distil(options, arm, seed, start))
    for seed in range(min(options.seeds, options.timed_seeds)):
        for arm in (arm for arm in options.arms if arm != QUICKEST):
            steps = _steps_in_the_quickest_time(options, arm, seed)
            folders.setdefault(f"{arm}, in the time", []).append(_distil(options, arm, seed, start, steps=steps))
    scores = {name: [_scored(options, teacher, folder) for folder in several] for name, several in folders.items()}
    _print(options, scores, folders)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("data", type=Path, help="the folder of public data: see benchmarks/README.md")
    parser.add_argument("--keep", type=int, default=12)
    parser.add_argument("--start-tokens", type=int, default=20_000, help="of dialogues, before the arms part")
    parser.add_argument("--start-epochs", type=float, default=1.0, help="that it learns these dialogues")
    parser.add_argument("--prompts", type=int, default=48, help="to learn from")
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--prompt-tokens", type=int, default=24, help="longer prompts are left out")
    parser.add_argument("--answer-tokens", type=int, default=32, help="where an answer is cut off")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rows-per-step", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed-seeds", type=int, default=3, help="of them, those that also learn in equal time")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-on-policy"))
    return parser.parse_args()


# Prompts, the teacher's answers, and where every student starts


def instructions(data: Path) -> list[str]:
    """What people asked, shuffled: of self-instruct, Koala's and Vicuna's."""
    folder = data / "instructions"
    own = [_asked(row) for row in json_lines(folder / "self_instruct_user_oriented.jsonl")]
    koala = [row["prompt"] for row in json_lines(folder / "koala_test_set.jsonl")]
    vicuna = [row["turns"][0] for row in json_lines(folder / "vicuna_questions.jsonl")]
    found = list(dict.fromkeys(text.strip() for text in [*own, *koala, *vicuna]))
    return Random(0).sample(found, len(found))


def _asked(task: Mapping[str, Any]) -> str:
    return f"{task['instruction']}\n\n{task['instances'][0]['input']}".strip()


def write_answers(options: argparse.Namespace, teacher: LoadedModel) -> None:
    """`held-out.jsonl`, with the teacher's likeliest answer beside the one that it drew, and `prompts.jsonl`; each once."""
    if (options.runs / "prompts.jsonl").exists():
        return
    short = [text for text in instructions(options.data) if _num_tokens(teacher, text) <= options.prompt_tokens]
    wanted = options.held_out + options.prompts
    rows: list[dict[str, Any]] = []
    for start in range(0, len(short), AT_ONCE):
        some = short[start : start + AT_ONCE]
        drawn = answers(options, teacher, teacher.model, some, temperature=1.0)
        rows += [
            _row(teacher, text, ids) for text, ids in zip(some, drawn, strict=True) if _is_long(options, text, ids)
        ]
        print(f"{len(rows)} of {wanted} answers are written", flush=True)
        if len(rows) >= wanted:
            break
    else:
        raise SystemExit(f"{len(short)} prompts gave {len(rows)} answers: {wanted} wanted.")
    held_out = rows[: options.held_out]
    likeliest = answers(options, teacher, teacher.model, [row["prompt"] for row in held_out], temperature=0)
    write_jsonl(
        options.runs / "held-out.jsonl",
        ({**row, "likeliest": list(ids)} for row, ids in zip(held_out, likeliest, strict=True)),
    )
    write_jsonl(options.runs / "prompts.jsonl", rows[options.held_out : wanted])


def _num_tokens(model: LoadedModel, text: str) -> int:
    return len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def _is_long(options: argparse.Namespace, text: str, ids: Ids) -> bool:
    """At least half of what it may be: with its prompt then more than half of a row, which no other shares."""
    return len(ids) >= options.answer_tokens // 2


def _row(model: LoadedModel, text: str, ids: Ids) -> dict[str, Any]:
    """A conversation for training and the answer's ids for judging; one that was cut off has no end to learn."""
    finished = ids[-1] in stops_of(model)
    said = str(model.tokenizer.decode(list(ids[:-1] if finished else ids)))
    answer: dict[str, Any] = {"role": "assistant", "content": said}
    messages = [*_question(text), answer if finished else {**answer, "finished": False}]
    return {"prompt": text, "messages": messages, "ids": list(ids)}


def _question(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def stops_of(model: LoadedModel) -> set[int]:
    """All tokens that end an answer."""
    end = end_of_turn(model.tokenizer)
    return stop_ids_of(model.model) | ({end} if end is not None else set())


def prompt_ids(model: LoadedModel, text: str) -> list[int]:
    """What a model reads before it answers."""
    template = ChatTemplate(model.tokenizer)
    return list(model.tokenizer(template.prompt(_question(text)), add_special_tokens=False)["input_ids"])


def answers(
    options: argparse.Namespace,
    tokens: LoadedModel,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    temperature: float,
) -> list[list[int]]:
    """What the model says to each of the prompts, its end included where it came to one."""
    written = sample(
        model,
        [prompt_ids(tokens, text) for text in texts],
        sampling=Sampling(temperature=temperature, max_new_tokens=options.answer_tokens),
        seed=0,
        stop_ids=stops_of(tokens),
        vocab_size=len(tokens.tokenizer),
        batch_size=AT_ONCE,
    )
    return [one.tokens for one in written]


def taught_start(options: argparse.Namespace, teacher: LoadedModel) -> Path:
    """The student that every arm begins with: some of the teacher's layers after so many tokens of people's dialogues."""
    path = write_jsonl(options.runs / "dialogues.jsonl", _dialogues(options, teacher))
    return trained(
        options.runs / "start",
        seed=0,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.keep},
        data={"kind": "chat", "path": str(path), "held_out": 0.02, "sequence_tokens": 128},
        objectives=[{"name": "forward_kl", "weight": 0.9}, {"name": "next_token", "weight": 0.1}],
        training={
            "epochs": options.start_epochs,
            "learning_rate": 5e-4,
            "rows_per_step": 4,
            "rows_per_micro_batch": 4,
        },
        evaluation={"control": "none"},
    )


def _dialogues(options: argparse.Namespace, teacher: LoadedModel) -> Iterator[dict[str, Any]]:
    """Questions with a reply, in no order, the short ones only, until there are as many tokens as wanted."""
    trees = json_lines(options.data / "instructions/oasst_en_100_trees.jsonl")
    pairs = [pair for tree in trees for pair in _replies(tree["prompt"])]
    left = options.start_tokens
    for asked, replied in Random(0).sample(pairs, len(pairs)):
        number = _num_tokens(teacher, asked + replied)
        if left > 0 and number <= SHORT:
            left -= number
            yield {"messages": [*_question(asked), {"role": "assistant", "content": replied}]}


def _replies(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for reply in message.get("replies") or ():
        if reply["role"] == "assistant":
            yield message["text"], reply["text"]
        yield from _replies(reply)


# The arms


def _distil(options: argparse.Namespace, arm: str, seed: int, start: Path, *, steps: int | None = None) -> Path:
    """The run folder of an arm after all epochs, or after so many steps with a learning rate that falls to 0 in them."""
    writes = {"sampling": {"max_new_tokens": options.answer_tokens}, "batch_size": options.rows_per_step}
    source = ARMS[arm].source
    folder = _folder(options, arm, seed, steps)
    trained(
        folder,
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "checkpoint", "model": str(start)},
        data={
            "kind": "chat",
            "path": str(_conversations(options.runs / "prompts.jsonl")),
            "held_out_path": str(_conversations(options.runs / "held-out.jsonl")),
            "weight": "last",
            "sequence_tokens": _row_tokens(options),
        },
        source={**source, **({} if source["kind"] == "offline" else writes)},
        objectives=[dict(one) for one in ARMS[arm].objectives],
        training={
            # Half a step below: a share of an epoch rounds its steps up.
            "epochs": (steps - 0.5) * options.rows_per_step / options.prompts if steps else options.epochs,
            "learning_rate": options.learning_rate,
            "rows_per_step": options.rows_per_step,
            "rows_per_micro_batch": options.rows_per_step // 2,
        },
        evaluation={"control": "none"},
    )
    return folder


def _folder(options: argparse.Namespace, arm: str, seed: int, steps: int | None = None) -> Path:
    runs: Path = options.runs
    return runs / f"{arm.replace(' ', '-')}-seed-{seed}{f'-{steps}-steps' if steps else ''}"


def _row_tokens(options: argparse.Namespace) -> int:
    """Room for the longest prompt and answer, the template's own tokens included."""
    return int(options.prompt_tokens + options.answer_tokens + 24)


def _conversations(file: Path) -> Path:
    """The same rows as training reads them."""
    rows = ({"messages": row["messages"]} for row in json_lines(file))
    return write_jsonl(file.with_name(f"{file.stem}-messages.jsonl"), rows)


def _steps_in_the_quickest_time(options: argparse.Namespace, arm: str, seed: int) -> int:
    """How many of the arm's steps fit into what the quickest arm took for all of its own, this seed."""
    steps = math.ceil(options.prompts / options.rows_per_step) * options.epochs
    quickest, own = (seconds_per_step(_folder(options, name, seed)) for name in (QUICKEST, arm))
    return max(1, round(steps * quickest / own))


# What became of them


@dataclass(frozen=True)
class Scores:
    """Of one student, a number for each held-out prompt."""

    at_teachers: DocumentSums
    """On the teacher's answers."""
    at_own: DocumentSums
    """On the student's own."""
    rouge: Sums

    def to_json(self) -> dict[str, Any]:
        """For a run that is started again."""
        return {
            "rouge": self.rouge.tolist(),
            **{side: {name: part.tolist() for name, part in vars(getattr(self, side)).items()} for side in SIDES},
        }

    @staticmethod
    def of_json(found: Mapping[str, Any]) -> "Scores":
        """What `to_json` gave."""
        sides = {side: DocumentSums(**{name: np.array(part) for name, part in found[side].items()}) for side in SIDES}
        return Scores(**sides, rouge=np.array(found["rouge"]))


SIDES = ("at_teachers", "at_own")


def _scored(options: argparse.Namespace, teacher: LoadedModel, folder: Path) -> Scores:
    """What was measured of the student in this run folder, once."""
    file = folder / "scores.json"
    if not file.exists():
        rows = list(json_lines(options.runs / "held-out.jsonl"))
        student = load_causal_lm(str(folder / "student")).model
        file.write_text(json.dumps(scores(options, teacher, student, rows).to_json()), encoding="utf-8")
    return Scores.of_json(json.loads(file.read_text(encoding="utf-8")))


def scores(
    options: argparse.Namespace, teacher: LoadedModel, student: PreTrainedModel, rows: Sequence[Mapping[str, Any]]
) -> Scores:
    """How near the student is to its teacher behind the teacher's words and behind its own, and what it says by itself."""
    texts = [row["prompt"] for row in rows]
    own = answers(options, teacher, student, texts, temperature=1.0)
    prompts = [prompt_ids(teacher, text) for text in texts]
    return Scores(
        at_teachers=_compared(teacher, student, prompts, [row["ids"] for row in rows]),
        at_own=_compared(teacher, student, prompts, own),
        rouge=np.array([_rouge(teacher, ids, row["likeliest"]) for ids, row in zip(own, rows, strict=True)]),
    )


def _compared(
    teacher: LoadedModel, student: PreTrainedModel, prompts: Sequence[Ids], said: Sequence[Ids]
) -> DocumentSums:
    examples = [
        Example((*prompt, *ids), (0.0,) * len(prompt) + (1.0,) * len(ids), part_of=str(number))
        for number, (prompt, ids) in enumerate(zip(prompts, said, strict=True))
    ]
    vocab_size = len(teacher.tokenizer)
    told: list[FactoredLogits] = say(teacher.model, examples, vocab_size=vocab_size)
    return measure(student, examples, told, vocab_size=vocab_size)


def _rouge(model: LoadedModel, one: Ids, other: Ids) -> float:
    stops = stops_of(model)
    words, wanted = ([token for token in ids if token not in stops] for ids in (one, other))
    return rouge_l(words, wanted)


def statistics_of(several: Sequence[Scores]) -> dict[str, Statistic]:
    """Each metric of an arm, over its seeds together."""
    own, theirs = ([getattr(one, side) for one in several] for side in ("at_own", "at_teachers"))
    kl_own, kl_theirs = (ratio(_sum(side, "kl_nats"), _sum(side, "tokens")) for side in (own, theirs))
    rouge = np.mean([one.rouge for one in several], axis=0)
    return {
        "KL": kl_theirs,
        "KL, own": kl_own,
        "excess": lambda draws: kl_own(draws) / kl_theirs(draws) - 1,
        "agrees": ratio(_sum(theirs, "agreements"), _sum(theirs, "tokens")),
        "agrees, own": ratio(_sum(own, "agreements"), _sum(own, "tokens")),
        "ROUGE-L": ratio(rouge, np.ones(len(rouge))),
        "own tokens": ratio(_sum(own, "tokens"), np.full(len(rouge), float(len(several)))),
    }


def _sum(sides: Sequence[DocumentSums], name: str) -> Sums:
    total: Sums = np.sum([getattr(side, name) for side in sides], axis=0)
    return total


PERCENT = ("excess", "agrees", "agrees, own", "ROUGE-L")


def _print(
    options: argparse.Namespace, scores: Mapping[str, Sequence[Scores]], folders: Mapping[str, Sequence[Path]]
) -> None:
    about = machine()
    print(
        f"\n{options.held_out} held-out prompts; {about['processor']}, {about['threads']} threads, torch {about['torch']}"
    )
    print(f"{options.prompts} prompts to learn from, {options.epochs} epochs, learning rate {options.learning_rate:g}")
    statistics = {(name, metric): one for name, found in scores.items() for metric, one in statistics_of(found).items()}
    sampled = bootstrapped(statistics, set_sizes=[options.held_out])
    for name, several in scores.items():
        print(f"\n{name}: {_cost(name, folders[name])}")
        each = [
            {metric: float(one(np.ones((1, options.held_out)))[0]) for metric, one in statistics_of([seed]).items()}
            for seed in several
        ]
        for metric in statistics_of(several):
            found, base = sampled[name, metric], sampled.get(("offline KL", metric))
            values = ", ".join(_number(metric, seed[metric]) for seed in each)
            against = (
                ""
                if base is None or name == "offline KL"
                else f"  beside offline KL {_told(metric, found.minus(base), sign=True)}"
            )
            print(f"  {metric:<12} {_told(metric, found):<24} seeds {values}{against}", flush=True)


def _cost(name: str, folders: Sequence[Path]) -> str:
    if name == "before":
        return "what every arm starts from"
    last = [list(json_lines(folder / "metrics.jsonl"))[-1] for folder in folders]
    steps, tokens = (float(np.mean([line[name] for line in last])) for name in ("step", "tokens"))
    seconds = float(np.mean([seconds_per_step(folder) for folder in folders]))
    return f"{steps:.1f} steps, {tokens:,.0f} tokens learnt, {seconds:.1f} s a step, {steps * seconds:.0f} s"


def _told(metric: str, found: Sampled, *, sign: bool = False) -> str:
    interval = found.interval()
    value, low, high = (_number(metric, one, sign) for one in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _number(metric: str, value: float, sign: bool = False) -> str:
    """A share in per cent, all else as it is."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if metric in PERCENT else f"{value:{plus}.3f}"


if __name__ == "__main__":
    main()
