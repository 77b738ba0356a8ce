"""Who plans which recipe: a module each, imported when it is wanted, with `RECIPE`, `planned` and `rehearse`."""

from collections.abc import Mapping
from typing import Any

from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories


def module_of(values: Mapping[str, Any]) -> str:
    """The module that plans a recipe, by the recipe's plain values.

    Raises:
        ModelError: if what a retriever is made with is not installed.
    """
    if is_of_retrieval(values):
        check_installed()
        return "stillhouse.commands.plan.retriever"
    return f"stillhouse.commands.plan.{'story_model' if is_of_stories(values) else 'student'}"
