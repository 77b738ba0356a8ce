"""`stillhouse synthesize RECIPE --dry-run`: some examples whole, and what all of it would take; nothing is kept."""

import importlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from stillhouse.commands.parts import Parts
from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.remote import remote_teacher
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.synthesis import DataFreeConfig, Program, by_whom, number_of, writing
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.formatting import clean, count, duration
from stillhouse.synthesis import filled_templates, write_synthetic
from stillhouse.synthesis.config import GroundedConfig, PromptSynthesisConfig
from stillhouse.synthesis.flow import reason_of
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.run import LEDGER, said_of_reasons
from stillhouse.synthesis.sources import personas, topics
from stillhouse.synthesis.write import first_answers, first_answers_asking
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import Reply, Request

SHOWN = 5
ONCE = (topics.TITLE, personas.TITLE)
"""What is asked once, however many questions there are."""


@dataclass
class Spent:
    """What was asked under each title, and what it took."""

    ask: Ask
    tokens: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def __call__(self, requests: Sequence[Request], *, title: str = "") -> list[Reply]:
        started = time.monotonic()
        replies: list[Reply] = self.ask(requests, title=title)
        self._count(self.seconds, title, time.monotonic() - started)
        self._count(self.tokens, title, sum(reply.tokens for reply in replies))
        self._count(self.cost, title, sum(reply.cost for reply in replies))
        return replies

    @staticmethod
    def _count(counted: dict[str, float], title: str, more: float) -> None:
        counted[title] = counted.get(title, 0) + more

    @staticmethod
    def whole(counted: Mapping[str, float], times: float) -> float:
        """What it comes to for so many times the questions."""
        return sum(value if title in ONCE else value * times for title, value in counted.items())


def dry_run(recipe_path: str, overrides: Sequence[str]) -> None:
    """Print five examples with what the filters say, and the tokens, time and cost of the whole.

    Raises:
        StillhouseError: as the run itself, before anything is loaded.
    """
    values = read_recipe(Path(recipe_path), overrides)
    if is_of_stories(values):
        importlib.import_module("stillhouse.commands.stories.run").dry_run(recipe_path, overrides)
        return
    if is_of_retrieval(values):
        check_installed()
        importlib.import_module("stillhouse.commands.retrieval.looking").dry_run(recipe_path, overrides)
        return
    recipe = load_recipe(Recipe, Path(recipe_path), overrides)
    if recipe.synthesis is None:
        raise RecipeError(
            ["synthesis: it must be given for --dry-run, or there is nothing to try."], source=recipe_path
        )
    if isinstance(recipe.synthesis, GroundedConfig):
        raise RecipeError(
            [
                "synthesis: --dry-run does not know kind grounded, which answers over passages. Try a few questions in a run "
                "of their own: stillhouse synthesize with data.path=FEW run=FOLDER."
            ],
            source=recipe_path,
        )
    progress = terminal_progress()
    pipeline = Pipeline(recipe, RunFolder(recipe.run), progress)
    pipeline.check()
    console = Console(highlight=False)
    if isinstance(recipe.synthesis, PromptSynthesisConfig):
        lines = _try_prompts(pipeline.parts, recipe.synthesis)
    else:
        lines = _try(pipeline.parts, recipe.synthesis, progress)
    for line in lines:
        console.print(clean(line), markup=False, soft_wrap=True)


def _try(parts: Parts, wanted: DataFreeConfig, progress: Progress) -> list[str]:
    """One batch of questions, which takes hardly longer than a few of them and tells more; of a model that may cost money, no
    more than are shown.
    """
    wanted = by_whom(parts.recipe, wanted)
    total = number_of(wanted)
    tried = min(total, SHOWN if wanted.writer.kind == "remote" else max(SHOWN, wanted.batch_size))
    spent = list[Spent]()
    with writing(parts, wanted) as writer, TemporaryDirectory() as folder:
        program = Program(wanted, writer, Path(folder), number=tried, progress=progress)

        def make(ask: Ask) -> list[Record]:
            spent.append(Spent(ask))
            return program(spent[0])

        made = write_synthetic(make, writer, folder=Path(folder), fewest=0, progress=progress)
    lines = [line for nth, record in enumerate(_first(made.records), start=1) for line in _example(nth, record)]
    return lines + _estimate(spent[0], made.records, tried, _expected(wanted, made.records, tried, total))


def _expected(wanted: DataFreeConfig, records: Sequence[Record], tried: int, most: int) -> int:
    """Questions that it takes: where a number of kept records is wanted, as many as the share that is kept lets expect."""
    if wanted.kept is None:
        return most
    share = sum(not record.dropped for record in records) / tried
    return min(most, ceil(wanted.kept / share)) if share else most


def _first(records: Sequence[Record]) -> list[Record]:
    """Some that are kept before some that are not, so that there is one of each where there is room."""
    kept = [record for record in records if not record.dropped]
    dropped = [record for record in records if record.dropped]
    return [*kept[: max(SHOWN - 1, SHOWN - len(dropped))], *dropped][:SHOWN]


def _example(number: int, record: Record) -> list[str]:
    verdict = f"dropped: {record.dropped}" if record.dropped else "kept" if record.finished else "kept, cut off"
    lines = [f"example {number}: {verdict}"]
    lines += [f"  {message['role']}: {_indented(message['content'])}" for message in record.messages]
    lines += [f"  text: {_indented(record.text)}"] if not record.messages else []
    scores = ", ".join(f"{name} {value:.3g}" for name, value in record.scores.items())
    return [*lines, *([f"  scores: {scores}"] if scores else []), f"  from: {_origin(record.lineage)}", ""]


def _indented(text: str) -> str:
    return "\n    ".join(text.splitlines())


def _origin(lineage: Any) -> str:
    """Where a question comes from, in a line."""
    named = ("source", "topic", "persona", "way", "row", "parent", "prefix")
    return ", ".join(f"{name} {_short(lineage[name])}" for name in named if name in lineage)


def _short(value: Any) -> str:
    text = " > ".join(value) if isinstance(value, list) else " ".join(str(value).split()) or "nothing"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _estimate(spent: Spent, records: Sequence[Record], tried: int, total: int) -> list[str]:
    kept, times = sum(not record.dropped for record in records), total / tried
    tokens, seconds, cost = (spent.whole(part, times) for part in (spent.tokens, spent.seconds, spent.cost))
    written = round(sum(spent.tokens.values()))
    lines = [
        f"tried: {count(tried)} of {count(total)} questions, {count(written)} tokens in "
        f"{duration(sum(spent.seconds.values()))}; {count(kept)} of {count(len(records))} records kept",
        f"the whole: about {count(round(tokens))} tokens, {duration(seconds)} of writing, "
        f"{count(round(kept * times))} records kept" + (f", cost {cost:,.4f}" if cost else ""),
    ]
    reasons = Counter(reason_of(record) for record in records if record.dropped)
    lines += [f"dropped: {said_of_reasons(dict(reasons.most_common()))}"] if reasons else []
    return [*lines, "nothing of this was written into the run folder."]


def _try_prompts(parts: Parts, wanted: PromptSynthesisConfig) -> list[str]:
    """The first answers to prompts from templates; of a model that may cost money, no more than are shown."""
    prompts = filled_templates(wanted.templates, wanted.slots, seed=wanted.seed)
    some = prompts[: SHOWN if parts.remote else max(SHOWN, wanted.batch_size)]
    started, cost = time.monotonic(), 0.0
    if parts.remote is None:
        answers = first_answers(parts.voice.model, parts.teacher_tokenizer, some, wanted.sampling, seed=wanted.seed)
    else:
        with TemporaryDirectory() as folder:
            writer = remote_teacher(parts.remote, parts.run, parts.progress, ledger=f"data/{LEDGER}")
            ledger = Ledger(Path(folder) / LEDGER, writer, progress=parts.progress)
            answers, cost = first_answers_asking(ledger.ask, some, wanted.sampling, seed=wanted.seed), ledger.cost
    seconds, tokens = time.monotonic() - started, sum(answer["tokens"] for answer in answers)
    lines: list[str] = []
    for number, answer in enumerate(answers[:SHOWN], start=1):
        verdict = f"dropped: {answer['dropped']}" if answer["dropped"] else "kept"
        lines += [f"example {number}: {verdict}", f"  prompt: {_indented(answer['prompt'])}"]
        lines += [f"  text: {_indented(answer['completion'])}", ""]
    lines.append(f"tried: {count(len(some))} prompts, {count(tokens)} tokens in {duration(seconds)}")
    times = wanted.tokens / max(1, tokens)
    whole = f"the whole: {count(wanted.tokens)} tokens, about {duration(seconds * times)} of writing"
    lines.append(whole + (f", cost {cost * times:,.4f}" if cost else ""))
    return [*lines, "nothing of this was written into the run folder."]
