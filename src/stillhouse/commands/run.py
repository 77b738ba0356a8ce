"""Every verb: run a recipe's stages up to the one that the verb names."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from stillhouse.commands.launch.config import check_launch
from stillhouse.commands.launch.launcher import Launcher
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.pipeline import at_work
from stillhouse.commands.plan.saved import said_of_plan
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stages.grounded_answers import grounded_account
from stillhouse.commands.stages.labelling import check_spread
from stillhouse.commands.stages.teaching import check_taught_on_ray
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.data.config import RagDataConfig
from stillhouse.reporting import results_table, reward_lines, terminal_progress, written_summary
from stillhouse.reporting.grounded import grounded_lines
from stillhouse.synthesis import CARD
from stillhouse.training.sharding import Held, TeacherHeld


def run(
    recipe_path: str,
    overrides: Sequence[str],
    *,
    until: str,
    num_ranks: int | None = None,
    launch_config: str | None = None,
    held: Held = "whole",
    teacher_held: TeacherHeld = "whole",
    ray: str | None = None,
    actors: int | None = None,
    check: bool = False,
) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal; arms are trained by `num_ranks` processes,
    if a number is given, each of which holds the student whole or `sharded`, and so the teacher, which labels and writes as
    `actors` of a `ray` cluster, if one is named, and answers there in every step if it is held
    `on_ray`. With `check`, labels that lie elsewhere are all looked into."""
    values = read_recipe(Path(recipe_path), overrides)
    if launch_config is not None and num_ranks is None:
        raise StillhouseError("--launch-config says how --launch N shares the work. Give both.")
    if teacher_held == "sharded" and num_ranks is None:
        raise StillhouseError("--sharded-teacher shares the teacher among the processes of --launch N. Give both.")
    if teacher_held == "on_ray":
        _check_on_ray(values, ray)
    if held == "sharded":
        _check_held(num_ranks, launch_config)
    if actors is not None and ray is None:
        raise StillhouseError("--actors says how many hold the teacher on the cluster of --ray ADDRESS. Give both.")
    if check and is_of_retrieval(values):
        raise RecipeError(
            [f"data.kind: {values['data']['kind']} has no labels that lie elsewhere. Leave --check out."],
            source=recipe_path,
        )
    launch = None if num_ranks is None else Launcher(num_ranks, launch_config, held, teacher_held)
    cluster = None if ray is None else Cluster(ray, actors)
    if is_of_stories(values):
        stories = importlib.import_module("stillhouse.commands.stories.run")
        stories.run(recipe_path, overrides, until=until, launch=launch, cluster=cluster)
        return
    if is_of_retrieval(values):
        check_installed()
        retrieval = importlib.import_module("stillhouse.commands.retrieval.run")
        retrieval.run(recipe_path, overrides, until=until, launch=launch, cluster=cluster)
        return
    recipe = load_recipe(Recipe, Path(recipe_path), overrides)
    refuse_an_idle_verb(recipe, until, source=recipe_path)
    if num_ranks is not None:
        check_launch(recipe, num_ranks, config=launch_config, held=held, teacher_held=teacher_held)
    if teacher_held == "on_ray":
        check_taught_on_ray(recipe)
    if cluster is not None:
        check_spread(recipe, cluster, teacher_held=teacher_held)
    with at_work(recipe, terminal_progress(), launch=launch, cluster=cluster, teacher_held=teacher_held) as pipeline:
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


def _check_on_ray(values: Mapping[str, Any], ray: str | None) -> None:
    if ray is None:
        raise StillhouseError(
            "--teacher-on-ray lets the teacher answer on the cluster of --ray ADDRESS while the student learns. Give both."
        )
    if is_of_stories(values) or is_of_retrieval(values):
        raise StillhouseError(
            f"data.kind is {values['data']['kind']!r}, of which --ray alone lets actors do what the teacher does. Leave "
            "--teacher-on-ray out."
        )


def _check_held(num_ranks: int | None, launch_config: str | None) -> None:
    if num_ranks is None:
        raise StillhouseError("--sharded shares the student among the processes of --launch N. Give both.")
    if launch_config is not None:
        raise StillhouseError(
            "--launch-config says itself whether weights are shared, by distributed_type: FSDP. Leave --sharded "
            "out, or the file."
        )


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
