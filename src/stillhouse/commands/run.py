"""Every verb: run a recipe's stages up to the one that the verb names."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.pipeline import at_work
from stillhouse.commands.plan.saved import said_of_plan
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stages.grounded_answers import grounded_account
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.data.config import RagDataConfig
from stillhouse.reporting import results_table, reward_lines, terminal_progress, written_summary
from stillhouse.reporting.grounded import grounded_lines
from stillhouse.synthesis import CARD


def run(
    recipe_path: str,
    overrides: Sequence[str],
    *,
    until: str,
    means: Means = BY_ITSELF,
    check: bool = False,
) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal, by these means. With `check`, labels that
    lie elsewhere are all looked into."""
    values = read_recipe(Path(recipe_path), overrides)
    means.check_options(values)
    if check and is_of_retrieval(values):
        raise RecipeError(
            [f"data.kind: {values['data']['kind']} has no labels that lie elsewhere. Leave --check out."],
            source=recipe_path,
        )
    if is_of_stories(values):
        stories = importlib.import_module("stillhouse.commands.stories.run")
        stories.run(recipe_path, overrides, until=until, launch=means.launch, cluster=means.cluster)
        return
    if is_of_retrieval(values):
        check_installed()
        retrieval = importlib.import_module("stillhouse.commands.retrieval.run")
        retrieval.run(recipe_path, overrides, until=until, launch=means.launch, cluster=means.cluster)
        return
    recipe = load_recipe(Recipe, Path(recipe_path), overrides)
    refuse_an_idle_verb(recipe, until, source=recipe_path)
    means.check(recipe)
    with at_work(
        recipe, terminal_progress(), launch=means.launch, cluster=means.cluster, teacher_held=means.teacher_held
    ) as pipeline:
        pipeline.parts.looks_into_labels = check
        match until:
            case "report":
                _show(pipeline.report(), pipeline.run, planned=said_of_plan(pipeline.run, recipe))
            case "evaluate":
                Console().print(results_table(pipeline.evaluate()))
            case "synthesize":
                pipeline.synthesize()
                _show_written(pipeline.run)
            case stage:
                getattr(pipeline, stage)()


def refuse_an_idle_verb(recipe: Recipe, until: str, *, source: str) -> None:
    """A verb whose stage this recipe does not have would end at once and say nothing."""
    sections = {
        "synthesize": (
            "synthesis",
            recipe.synthesis or recipe.history or isinstance(recipe.data, RagDataConfig) or None,
        ),
        "label": ("labels", recipe.labels),
    }
    name, section = sections.get(until, ("", recipe))
    if section is None:
        raise RecipeError(
            [f"{name}: it must be given for `stillhouse {until}`, or there is nothing to do."], source=source
        )


def _show_written(folder: RunFolder) -> None:
    """What the teacher wrote and what is left of it, where there is a data card."""
    card = folder.data / CARD
    if card.exists():
        Console(highlight=False).print(written_summary(json.loads(card.read_text(encoding="utf-8"))))


def _said_of_reward(folder: RunFolder) -> list[str]:
    """What a reward did to the data, and how it went in training; nothing where there was none."""
    card = folder.data / CARD
    reward = json.loads(card.read_text(encoding="utf-8")).get("reward") if card.exists() else None
    return reward_lines(reward or {}, MetricsLog(folder).curves().get("student", []))


def _said_of_answers(folder: RunFolder) -> list[str]:
    """How questions are answered over passages; nothing for other data."""
    account = grounded_account(folder.stages()).get("grounded", {})
    return grounded_lines(account) if account.get("result") else []


def _show(result: EvaluationResult, folder: RunFolder, *, planned: Sequence[str]) -> None:
    console = Console()
    console.print(results_table(result))
    for line in [*_said_of_reward(folder), *_said_of_answers(folder), *planned]:
        console.print(f"\n{line}", highlight=False, markup=False)
    console.print(f"\nreport   {folder.report}\nstudent  {folder.student}", highlight=False)
