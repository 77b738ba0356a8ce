"""The verbs, of a recipe of kind stories."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.commands.launch.config import check_compiled, check_held, check_ranks
from stillhouse.commands.launch.launcher import Launcher
from stillhouse.commands.plan.saved import said_of_plan
from stillhouse.commands.stages.labelling import refuse_remote
from stillhouse.commands.stories.pipeline import at_work
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.cluster import Cluster, check_cluster
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.reporting import terminal_progress, written_summary
from stillhouse.reporting.stories import story_lines
from stillhouse.synthesis import CARD
from stillhouse.synthesis.worlds import draw_wishes, load_world, opening_of, prompt_of

SHOWN = 5


def run(
    recipe_path: str,
    overrides: Sequence[str],
    *,
    until: str,
    launch: Launcher | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal: students learn by a `launch`, and the
    teacher writes and labels on a `cluster`, if there is one.

    Raises:
        RecipeError: for a verb whose stage this recipe does not have.
    """
    recipe = load_recipe(StoryRecipe, Path(recipe_path), overrides)
    if until == "label" and recipe.labels is None:
        raise RecipeError(
            [
                "labels are left out, so that the teacher runs in every step, where it is read at all. Use `stillhouse train`."
            ],
            source=recipe_path,
        )
    if launch is not None:
        check_launch(recipe, launch)
    if cluster is not None:
        refuse_remote(recipe.teacher)
        check_cluster(cluster)
    console = Console(highlight=False, soft_wrap=True)
    with at_work(recipe, terminal_progress(), launch=launch, cluster=cluster) as pipeline:
        match until:
            case "synthesize":
                pipeline.synthesize()
                console.print(written_summary(json.loads((pipeline.run.data / CARD).read_text(encoding="utf-8"))))
            case "label":
                pipeline.label()
            case "train":
                pipeline.train()
            case _:
                found = pipeline.report() if until == "report" else pipeline.evaluate()
                for line in story_lines(found):
                    console.print(line, markup=False)
        if until == "report":
            for line in said_of_plan(pipeline.run, recipe):
                console.print(f"\n{line}", markup=False)
            console.print(f"report   {pipeline.run.report}\nstudent  {pipeline.run.student}", markup=False)


def check_launch(recipe: StoryRecipe, launch: Launcher) -> None:
    """Refuse what so many processes cannot do together, before anything is loaded.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    check_ranks(launch.num_ranks, {"training.rows_per_step": recipe.training.rows_per_step})
    check_compiled(recipe.training, check_held(launch.config, launch.held))
    if launch.teacher_held == "sharded" and (recipe.labels is not None or not recipe.reads_teacher):
        raise StillhouseError(
            "--sharded-teacher is for a teacher that answers as the student learns, and no process asks this one. Leave it out."
        )


def dry_run(recipe_path: str, overrides: Sequence[str]) -> None:
    """Print the first prompts; nobody is asked.

    Raises:
        StillhouseError: as the run itself, before anything is loaded.
    """
    recipe = load_recipe(StoryRecipe, Path(recipe_path), overrides)
    world = load_world(recipe.data.world)
    console = Console(highlight=False, soft_wrap=True)
    for wish in draw_wishes(world, SHOWN, seed=recipe.data.seed):
        opening = opening_of(world, wish)
        console.print(f"{prompt_of(world, wish)}\n" + (f"  {opening} ...\n" if opening else ""), markup=False)
    tokens = recipe.data.number * recipe.data.sampling.max_new_tokens
    console.print(
        f"{recipe.data.number:,} texts of at most {recipe.data.sampling.max_new_tokens} tokens: {tokens:,} at most, and up to "
        f"{recipe.rounds.most * recipe.rounds.number:,} texts more in later rounds. Nothing was asked.",
        markup=False,
    )
