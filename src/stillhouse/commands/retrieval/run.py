"""The verbs, of a retrieval recipe."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.commands.launch.config import check_held, check_ranks
from stillhouse.commands.launch.launcher import Launcher
from stillhouse.commands.plan.saved import said_of_plan
from stillhouse.commands.retrieval.pipeline import at_work
from stillhouse.commands.retrieval.recipe import EmbeddingImitationConfig, RetrievalRecipe, StatesImitationConfig
from stillhouse.core.cluster import Cluster, check_cluster
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.retrieval import retrieval_lines


def run(
    recipe_path: str,
    overrides: Sequence[str],
    *,
    until: str,
    launch: Launcher | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal: students learn by a `launch`, and the
    teacher scores and embeds on a `cluster`, if there is one.

    Raises:
        RecipeError: for a verb whose stage this recipe does not have.
    """
    recipe = load_recipe(RetrievalRecipe, Path(recipe_path), overrides)
    if until == "synthesize" and recipe.synthesis is None:
        raise RecipeError(
            ["synthesis: it must be given for `stillhouse synthesize`, or there is nothing to do."],
            source=recipe_path,
        )
    if launch is not None:
        check_launch(recipe, launch)
    if cluster is not None:
        check_cluster(cluster)
    with at_work(recipe, terminal_progress(), launch=launch, cluster=cluster) as pipeline:
        found = getattr(pipeline, until)()
        if until not in ("report", "evaluate"):
            return
        console = Console(highlight=False, soft_wrap=True)
        for line in retrieval_lines(found):
            console.print(line, markup=False)
        if until == "report":
            for line in said_of_plan(pipeline.run, recipe):
                console.print(f"\n{line}", markup=False)
            places = {"report": pipeline.run.report, "student": pipeline.run.student, "index": pipeline.index_folder}
            for name, place in places.items():
                if place.exists():
                    console.print(f"{name:<8} {place}", markup=False)


def check_launch(recipe: RetrievalRecipe, launch: Launcher) -> None:
    """Refuse what so many processes cannot do together, before anything is loaded.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    shared = {"training.rows_per_micro_batch": recipe.training.rows_per_micro_batch}
    match recipe.imitation:
        case EmbeddingImitationConfig(training=training):
            shared["imitation.training.rows_per_micro_batch"] = training.rows_per_micro_batch
        case StatesImitationConfig(training=training):
            shared["imitation.training.rows_per_step"] = training.rows_per_step
    check_ranks(launch.num_ranks, shared)
    if launch.teacher_held != "whole" or check_held(launch.config, launch.held) != "whole":
        raise StillhouseError(
            "a retriever is small, and each process of --launch holds it whole. Leave --sharded and --sharded-teacher out, or "
            "let the file of --launch-config say distributed_type: MULTI_GPU."
        )
