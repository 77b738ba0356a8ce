"""A recipe and its run folder as one object: the command line's verbs as methods, for scripts and notebooks."""

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers.utils import logging as bars

from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.run import refuse_an_idle_verb
from stillhouse.commands.shipped import found
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import Config, load_recipe, parse_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.progress import Progress
from stillhouse.core.results import EvaluationResult
from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.core.run import RunFolder
from stillhouse.core.story_results import StoryResult
from stillhouse.reporting import terminal_progress

AnyResult = EvaluationResult | RetrievalResult | StoryResult
"""What an evaluation found, by the kind of data."""

SOURCE = "Distillation(...)"
FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 720px; border: 1px solid #ccc"></iframe>'


class Distillation:
    """A recipe at work in its run folder. Each method first does what it stands on, and nothing twice: stopped at any
    instant, the same call goes on.

    Give the recipe as a file or the name of a shipped one (with `overrides` such as `"training.epochs=2"`), or its sections
    as keyword arguments. In a notebook the object itself shows the report once there is one. Progress goes to standard error
    unless another is given.

    Raises:
        RecipeError: naming every fault of the recipe at once.
    """

    def __init__(
        self,
        recipe: str | Path | None = None,
        *,
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
        **sections: Any,
    ) -> None:
        self.progress = terminal_progress() if progress is None else progress
        self.recipe = read_any(recipe, overrides, sections)

    @property
    def run(self) -> RunFolder:
        """The run folder, with the place of everything in it."""
        folder: Path = getattr(self.recipe, "run")  # noqa: B009, which every kind of recipe has
        return RunFolder(folder)

    @property
    def student(self) -> Path:
        """The result: a plain Hugging Face folder, once it is trained."""
        return self.run.student

    def synthesize(self) -> Path:
        """Let the teacher write the data, and return its folder.

        Raises:
            RecipeError: if the recipe has none to write.
            StillhouseError: for what the caller can mend, as all of these do.
        """
        self._go_on_to("synthesize")
        return self.run.data

    def label(self) -> Path:
        """Run the teacher over the data once, store what it says, and return the folder.

        Raises:
            RecipeError: if the recipe stores nothing.
        """
        self._go_on_to("label")
        return self.run.labels

    def train(self) -> Path:
        """Make the student, train it, and return its folder."""
        self._go_on_to("train")
        return self.student

    def evaluate(self) -> AnyResult:
        """Measure teacher, student and controls on what was held out."""
        result: AnyResult = self._go_on_to("evaluate")
        return result

    def report(self) -> AnyResult:
        """All of it, with `report.html` and the student's model card; returns what was measured."""
        result: AnyResult = self._go_on_to("report")
        return result

    distill = report

    def metrics(self) -> list[dict[str, Any]]:
        """Every number so far, as in `metrics.jsonl`: a table for pandas, a loss curve for a plot."""
        return self.run.metric_lines()

    def _go_on_to(self, stage: str) -> Any:
        _refuse_idle(self.recipe, stage)
        with _no_other_bars(), _at_work(self.recipe, self.progress) as pipeline:
            return getattr(pipeline, stage)()

    def __repr__(self) -> str:
        done = ", ".join(self.run.stages()) if self.run.path.exists() else ""
        return f"Distillation(run={str(self.run.path)!r}, done: {done or 'nothing yet'})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the report, pictures and all; before there is one, what is done."""
        if self.run.report.exists():
            return FRAME.format(html.escape(self.run.report.read_text(encoding="utf-8"), quote=True))
        return f"<code>{html.escape(repr(self))}</code>"


def read_any(recipe: str | Path | None, overrides: Sequence[str], sections: Mapping[str, Any]) -> Config:
    """A recipe of whatever kind its data says.

    Raises:
        RecipeError: naming every fault of the recipe at once.
    """
    if (recipe is None) == (not sections) or (overrides and recipe is None):
        raise RecipeError(["give a file and overrides, or sections: not some of both."], source=SOURCE)
    path = None if recipe is None else Path(found(str(recipe)))
    kind = _kind_of(sections if path is None else read_recipe(path, overrides))
    return parse_recipe(kind, sections) if path is None else load_recipe(kind, path, overrides)


def _kind_of(values: Mapping[str, Any]) -> type[Config]:
    if is_of_stories(values):
        from stillhouse.commands.stories.recipe import StoryRecipe

        return StoryRecipe
    if is_of_retrieval(values):
        check_installed()
        from stillhouse.commands.retrieval.recipe import RetrievalRecipe  # what it imports may not be there

        return RetrievalRecipe
    return Recipe


@contextmanager
def _no_other_bars() -> Iterator[None]:
    """transformers' bars for each file that is read or written would stand between our lines; whoever had them has them again,
    and a user's own setting stays."""
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    were_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            bars.enable_progress_bar()


def _at_work(recipe: Config, progress: Progress) -> AbstractContextManager[Any]:
    """The recipe's own pipeline, which knows its stages."""
    if isinstance(recipe, Recipe):
        return at_work(recipe, progress)
    if type(recipe).__name__ == "StoryRecipe":
        from stillhouse.commands.stories import pipeline as stories

        return stories.at_work(recipe, progress)  # type: ignore[arg-type]
    from stillhouse.commands.retrieval import pipeline as retrieval

    return retrieval.at_work(recipe, progress)  # type: ignore[arg-type]


def _refuse_idle(recipe: Config, stage: str) -> None:
    """A stage that this recipe does not have would end at once and say nothing."""
    if isinstance(recipe, Recipe):
        refuse_an_idle_verb(recipe, stage, source=SOURCE)
    elif stage == "synthesize" and getattr(recipe, "synthesis", stage) is None:
        raise RecipeError(["synthesis: it must be given, or there is nothing to write."], source=SOURCE)
    elif stage == "label" and type(recipe).__name__ == "StoryRecipe":
        raise RecipeError(["labels: a recipe of kind stories stores none. Call train()."], source=SOURCE)
