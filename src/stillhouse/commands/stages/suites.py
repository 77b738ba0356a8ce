"""Stages: what the recipe asks to be measured beside the evaluation proper, each suite once."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.held_out import (
    held_out_batches,
    held_out_examples,
    held_out_in_context,
    held_out_in_other_tokens,
)
from stillhouse.commands.questions import held_out_questions
from stillhouse.commands.recipe import EvaluationConfig
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.files import fingerprint_files
from stillhouse.core.suite_results import RESULTS
from stillhouse.core.suites import ALWAYS
from stillhouse.evaluation import Contestant
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.suites import SUITES

FOLDER = "evaluation"
"""Where suites keep what they have done so far, and what models answered."""


def measure_suites(
    shop: Workshop, contestants: Callable[[], list[Contestant]], *, made_from: list[Any]
) -> dict[str, dict[str, Any]]:
    """What every suite of the recipe found, by its name. Models are loaded only for what is not done yet."""
    load = cache(contestants)
    return {name: _measured(shop, name, load, made_from) for name in suites_of(shop.recipe.evaluation.suites)}


def check_suites(evaluation: EvaluationConfig) -> None:
    """Find what is wrong with the suites' settings and the files that they name.

    Raises:
        StillhouseError: naming file and row.
    """
    for name in suites_of(evaluation.suites):
        SUITES[name].check(getattr(evaluation, name, None))


def asked_of(name: str, evaluation: EvaluationConfig) -> list[Any]:
    """What a recipe may ask of a suite otherwise later: its settings, and the files that they name."""
    settings = getattr(evaluation, name, None)
    return [settings, fingerprint_files(SUITES[name].files(settings))]


def suites_of(names: Iterable[str]) -> list[str]:
    """Those that are not a part of every evaluation, each once, in the order in which they are known."""
    wanted = set(names) - set(ALWAYS)
    return [name for name in SUITES if name in wanted]


def _measured(
    shop: Workshop, name: str, contestants: Callable[[], list[Contestant]], made_from: list[Any]
) -> dict[str, Any]:
    suite, settings = SUITES[name], getattr(shop.recipe.evaluation, name, None)

    def work() -> dict[str, Any]:
        found = suite.measure(bench_of(shop.parts, contestants(), name), settings)
        shop.metrics.suite(name, found)
        shop.run.forget("report")
        return {"result": found.to_dict()}

    done = shop.once(name, suite.title, made_from=made_from, work=work, asked=asked_of(name, shop.recipe.evaluation))
    return RESULTS[name].from_dict(done["result"]).to_dict()


def bench_of(parts: Parts, contestants: list[Contestant], name: str) -> Bench:
    """What a suite is given."""
    folder = parts.run.path / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    speaks = parts.recipe.task == "causal_lm"
    context = held_out_in_context(parts) if speaks else None
    others = held_out_in_other_tokens(parts) if speaks else None
    told = context.teacher_reads if context else others.examples if others else None
    return Bench(
        contestants,
        parts.recipe.task,
        parts.tokenizer,
        parts.teacher_tokenizer if speaks else parts.tokenizer,
        folder,
        questions=held_out_questions(parts) if speaks else (),
        examples=held_out_examples(parts) if speaks else (),
        teacher_reads=told,
        batches=() if speaks else held_out_batches(parts),
        progress=parts.progress,
    )
