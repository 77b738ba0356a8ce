"""Follow-up questions that need an earlier turn: a student trained with the history against one trained on last turns only.

Someone says a few things about themselves, is answered, asks about something else, and then asks for one of the things that
were said. Names, places and things of the conversations that are judged occur in none that is trained on: an answer must be
read off the history. An answer counts if the thing is in it as a word. Arms have the same start and teacher and learn about as
many answers, which is printed; with last turns only, teacher and student read the question without what came before.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from decoder import kept_layers
from public_data import write_jsonl
from seeds import trained

from stillhouse.core.files import read_lines
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.evaluation.intervals import Sampled, bootstrapped, ratio
from stillhouse.models.generate import Sampling, generate, stop_ids_of
from stillhouse.models.load import load_causal_lm
from stillhouse.models.tokenizers import end_of_turn

Row = dict[str, Any]

FACTS: Mapping[str, tuple[str, str, str]] = {
    "name": ("My name is {}.", "What is my name?", "Your name is {}."),
    "city": ("I live in {}.", "Which city do I live in?", "You live in {}."),
    "pet": ("I have a {}.", "Which animal do I have?", "You have a {}."),
    "job": ("I work as a {}.", "What is my job?", "You work as a {}."),
    "food": ("My favourite food is {}.", "What is my favourite food?", "Your favourite food is {}."),
}
"""What is said of a thing, how it is asked for, and the answer."""

THINGS: Mapping[str, str] = {
    "name": "Anna Peter Maria Thomas Julia David Laura Simon Emma Oliver Clara Martin Alice Henry Rosa George",
    "city": "Paris Berlin Madrid Rome London Vienna Dublin Oslo Prague Athens Lisbon Warsaw Boston Chicago Tokyo Cairo",
    "pet": "dog cat horse rabbit parrot turtle goat hamster snake duck donkey goldfish lizard sheep pig canary",
    "job": "baker nurse teacher farmer lawyer pilot painter doctor tailor plumber gardener chef driver writer singer judge",
    "food": "pizza rice soup bread cheese salad pasta curry sushi cake fish beans noodles honey chocolate apples",
}
"""Of each kind, the last quarter is only judged."""

ELSEWHERE: Sequence[tuple[str, str]] = (
    ("What is two plus three?", "Two plus three is five."),
    ("Name a colour.", "Blue is a colour."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Is water wet?", "Yes, water is wet."),
    ("How many legs has a spider?", "A spider has eight legs."),
    ("What do bees make?", "Bees make honey."),
)
ARMS = ("with history", "last turns only")


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--keep", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--judged", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-multi-turn"))
    options = parser.parse_args()
    learnt = conversations(options.rows, held_out=False, seed=0)
    judged = conversations(options.judged, held_out=True, seed=1)
    options.layers = _layers(options, learnt)
    for seed in range(options.seeds):
        for arm in ARMS:
            _distil(options, arm, seed, learnt)
    _print(options, judged)


def conversations(number: int, *, held_out: bool, seed: int) -> list[Row]:
    """Conversations in which the last question asks for one of two things that were said in the first."""
    random = Random(f"{seed}, {held_out}")
    things: dict[str, list[str]] = {}
    for kind, words in ((kind, text.split()) for kind, text in THINGS.items()):
        first_judged = len(words) - len(words) // 4
        things[kind] = words[first_judged:] if held_out else words[:first_judged]
    pairs = [(one, other) for one, other in product(FACTS, FACTS) if one != other]
    return [_conversation(*random.choice(pairs), things, random) for _ in range(number)]


def _conversation(asked: str, other: str, things: Mapping[str, Sequence[str]], random: Random) -> Row:
    word = {kind: random.choice(list(things[kind])) for kind in (asked, other)}
    told = [FACTS[kind][0].format(word[kind]) for kind in (asked, other)]
    random.shuffle(told)
    between = random.sample(ELSEWHERE, random.randint(0, 2))
    turns = [(" ".join(told), "Thank you for telling me."), *between]
    turns.append((FACTS[asked][1], FACTS[asked][2].format(word[asked])))
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"messages": messages, "thing": word[asked]}


def _layers(options: argparse.Namespace, rows: Sequence[Row]) -> list[int]:
    """Which of the teacher's layers all students keep: chosen once, on conversations as the teacher reads them."""
    teacher = load_causal_lm(options.teacher)
    template = ChatTemplate(teacher.tokenizer)
    said = [template.prompt(row["messages"][:-1]) + row["messages"][-1]["content"] for row in rows[:2]]
    return kept_layers(
        options, teacher, write_jsonl(options.runs / "calibration.jsonl", [{"text": one} for one in said])
    )


def _distil(options: argparse.Namespace, arm: str, seed: int, rows: Sequence[Row]) -> None:
    """Of last turns there are few that differ: they are read as often more as makes as many answers learnt."""
    has_history = arm == "with history"
    shown = [row["messages"] if has_history else row["messages"][-2:] for row in rows]
    differing = len({str(messages) for messages in shown})
    file = options.runs / f"{arm.replace(' ', '-')}.jsonl"
    trained(
        _folder(options, arm, seed),
        seed=seed,
        teacher={"model": options.teacher},
        student={"kind": "from_layers", "keep": options.layers},
        data={
            "kind": "chat",
            "path": str(write_jsonl(file, [{"messages": messages} for messages in shown])),
            "weight": "last",
            # About two conversations a row in either case, and so as many answers a step.
            "sequence_tokens": 256 if has_history else 96,
            "held_out": 0.05,
        },
        objectives=[{"name": "forward_kl", "weight": 0.5}, {"name": "next_token", "weight": 0.5}],
        training={
            "epochs": options.epochs * len(rows) / differing,
            "learning_rate": options.learning_rate,
            "rows_per_step": options.rows_per_step,
            "rows_per_micro_batch": 4,
        },
        evaluation={"control": "none", "samples": 0},
    )


def _folder(options: argparse.Namespace, arm: str, seed: int) -> Path:
    folder: Path = options.runs / f"{arm.replace(' ', '-')}-{options.keep}-seed-{seed}"
    return folder


def recalled(source: str, rows: Sequence[Row]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Of each conversation whether the model's answer to the last question has the thing that it asks for."""
    loaded = load_causal_lm(source)
    template, ends = ChatTemplate(loaded.tokenizer), end_of_turn(loaded.tokenizer)
    prompts = [
        list(loaded.tokenizer(template.prompt(row["messages"][:-1]), add_special_tokens=False)["input_ids"])
        for row in rows
    ]
    stops = stop_ids_of(loaded.model) | ({ends} if isinstance(ends, int) else set())
    found: list[float] = []
    for start in range(0, len(rows), 32):
        said = generate(
            loaded.model,
            prompts[start : start + 32],
            sampling=Sampling(temperature=0, max_new_tokens=24),
            seed=0,
            stop_ids=stops,
        )
        for row, tokens in zip(rows[start : start + 32], said, strict=True):
            text = str(loaded.tokenizer.decode(tokens, skip_special_tokens=True))
            found.append(float(re.search(rf"\b{row['thing']}\b", text, re.IGNORECASE) is not None))
    return np.array(found)


def _print(options: argparse.Namespace, judged: Sequence[Row]) -> None:
    first = _folder(options, ARMS[0], 0)
    scores = {
        "teacher": recalled(options.teacher, judged),
        "before training": recalled(str(first / "student_before"), judged),
    }
    for arm in ARMS:  # the mean over seeds, of each conversation
        of_seeds = [recalled(str(_folder(options, arm, seed) / "student"), judged) for seed in range(options.seeds)]
        scores[arm] = np.mean(of_seeds, axis=0)
    ones = np.ones(len(judged))
    found = bootstrapped({name: ratio(score, ones) for name, score in scores.items()}, set_sizes=[len(judged)])
    print(f"{options.rows:,} conversations, {len(judged):,} judged, {options.seeds} seeds: the thing is recalled in")
    for name, sampled in found.items():
        print(f"  {name:<16} {_percent(sampled)} %")
    for arm in ARMS:
        last = [
            line for line in read_lines(_folder(options, arm, 0) / "metrics.jsonl") if line.get("arm") == "student"
        ][-1]
        print(f"  {arm:<16} learnt {int(last['tokens']):,} tokens in {last['step']:,} steps")
    print(f"  history gains    {_percent(found[ARMS[0]].minus(found[ARMS[1]]))} points")


def _percent(sampled: Sampled) -> str:
    found = sampled.interval()
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


if __name__ == "__main__":
    main()
