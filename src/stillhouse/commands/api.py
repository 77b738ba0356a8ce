"""The command line's whole job as one function."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import AnyConfig, load_recipe, parse_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import EvaluationResult
from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.core.story_results import StoryResult


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
    values = _values(recipe, overrides, sections)
    if is_of_stories(values):
        raise RecipeError(["data.kind is stories: call distill_stories(...)."], source="distill(...)")
    if is_of_retrieval(values):
        raise RecipeError(["data.kind is retrieval: call distill_retriever(...)."], source="distill(...)")
    with at_work(_read(recipe, overrides, sections), progress) as pipeline:
        return pipeline.report()


def distill_retriever(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> RetrievalResult:
    """The same for a recipe of kind retrieval: the run folder then holds the student, its index, and the report.

    Raises:
        RecipeError: naming every fault of the recipe at once.
        StillhouseError: for any other thing that the caller can mend.
    """
    check_installed()
    from stillhouse.commands.retrieval.pipeline import at_work as retriever_at_work
    from stillhouse.commands.retrieval.recipe import RetrievalRecipe

    with retriever_at_work(_read_as(RetrievalRecipe, recipe, overrides, sections), progress) as pipeline:
        return pipeline.report()


def distill_stories(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> StoryResult:
    """The same for a recipe of kind stories: the run folder then holds a small language model of one world, and the report.

    Raises:
        RecipeError: naming every fault of the recipe at once.
        StillhouseError: for any other thing that the caller can mend.
    """
    from stillhouse.commands.stories.pipeline import at_work as stories_at_work
    from stillhouse.commands.stories.recipe import StoryRecipe

    with stories_at_work(_read_as(StoryRecipe, recipe, overrides, sections), progress) as pipeline:
        return pipeline.report()


def _values(recipe: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Any]) -> Mapping[str, Any]:
    return sections if recipe is None else read_recipe(Path(recipe), overrides)


def _read(recipe: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Any]) -> Recipe:
    return _read_as(Recipe, recipe, overrides, sections)


def _read_as(
    kind: type[AnyConfig], recipe: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Any]
) -> AnyConfig:
    if recipe is not None and not sections:
        return load_recipe(kind, Path(recipe), overrides)
    if recipe is None and not overrides:
        return parse_recipe(kind, sections)
    raise RecipeError(["give a file and overrides, or sections: not some of both."], source="distill(...)")
