"""Every verb: run a recipe's stages up to the one that the verb names."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.models.load import check_exists
from stillhouse.reporting import results_table, terminal_progress


def run(recipe_path: str, overrides: Sequence[str], *, until: str) -> None:
    """Read the recipe, then do what is not done yet, with progress in the terminal."""
    recipe = load_recipe(Recipe, Path(recipe_path), overrides)
    check_exists(recipe.teacher.model)
    folder = RunFolder(recipe.run)
    folder.open(recipe)
    pipeline = Pipeline(recipe, folder, terminal_progress())
    match until:
        case "report":
            _show(pipeline.report(), folder)
        case "evaluate":
            Console().print(results_table(pipeline.evaluate()))
        case stage:
            getattr(pipeline, stage)()


def _show(result: EvaluationResult, folder: RunFolder) -> None:
    console = Console()
    console.print(results_table(result))
    console.print(f"\nreport   {folder.report}\nstudent  {folder.student}", highlight=False)
