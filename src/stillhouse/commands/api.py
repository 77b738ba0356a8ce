"""The command line's whole job as one function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe, parse_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import EvaluationResult


def distill(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> EvaluationResult:
    """Run a recipe from beginning to end and return what the evaluation found.

    Give the recipe as a file (with `overrides` such as `"training.epochs=2"`), or its sections as keyword arguments. The
    run folder then holds the student, the report, and every number.

    Raises:
        RecipeError: naming every fault of the recipe at once.
        StillhouseError: for any other thing that the caller can mend.
    """
    with at_work(_read(recipe, overrides, sections), progress) as pipeline:
        return pipeline.report()


def _read(recipe: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Any]) -> Recipe:
    if recipe is not None and not sections:
        return load_recipe(Recipe, Path(recipe), overrides)
    if recipe is None and not overrides:
        return parse_recipe(Recipe, sections)
    raise RecipeError(["give a file and overrides, or sections: not some of both."], source="distill(...)")
