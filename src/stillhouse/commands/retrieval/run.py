"""The verbs, of a retrieval recipe."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.commands.plan.saved import said_of_plan
from stillhouse.commands.retrieval.pipeline import at_work
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.core.cluster import Cluster, check_cluster
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.retrieval import retrieval_lines


def run(recipe_path: str, overrides: Sequence[str], *, until: str, cluster: Cluster | None = None) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal: the teacher scores and embeds on a
    `cluster`, if there is one.

    Raises:
        RecipeError: for a verb whose stage this recipe does not have.
    """
    recipe = load_recipe(RetrievalRecipe, Path(recipe_path), overrides)
    if until == "synthesize" and recipe.synthesis is None:
        raise RecipeError(
            ["synthesis: it must be given for `stillhouse synthesize`, or there is nothing to do."],
            source=recipe_path,
        )
    if cluster is not None:
        check_cluster(cluster)
    with at_work(recipe, terminal_progress(), cluster=cluster) as pipeline:
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
