"""What the command line does, as functions: each takes plain values, returns what it found, and prints nothing by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.commands.any_models import evaluate_models
from stillhouse.commands.distillation import AnyResult, Distillation
from stillhouse.commands.doctor import Line, all_lines
from stillhouse.commands.init import write_recipe
from stillhouse.commands.inspect import show as show_tokens
from stillhouse.commands.pipeline import at_work
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import check_installed, is_of_retrieval
from stillhouse.commands.serve import command_of, default_engine, model_of
from stillhouse.commands.shipped import found
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import AnyConfig, load_recipe, parse_recipe, read_recipe
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import EvaluationResult
from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.core.story_results import StoryResult
from stillhouse.models.load import check_exists
from stillhouse.models.tokenizers import TokenizerVerdict, compare_tokenizers, read_speaker


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


def synthesize(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> Path:
    """Let the teacher write a recipe's data, and return its folder: see `Distillation.synthesize`."""
    return Distillation(recipe, overrides=overrides, progress=progress, **sections).synthesize()


def label(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> Path:
    """Store what the teacher says about a recipe's data, and return the folder: see `Distillation.label`."""
    return Distillation(recipe, overrides=overrides, progress=progress, **sections).label()


def train(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> Path:
    """Train a recipe's student, and return its folder: see `Distillation.train`."""
    return Distillation(recipe, overrides=overrides, progress=progress, **sections).train()


def evaluate(
    source: str | Path,
    *,
    teacher: str | None = None,
    data: str | Path | None = None,
    baselines: Sequence[str] = (),
    kind: str = "text",
    suites: Sequence[str] = (),
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> AnyResult:
    """Measure what a recipe makes; or, where a `teacher` is named, any student beside it on `data`: see `evaluate_models`.

    Raises:
        StillhouseError: for what the caller can mend.
    """
    if teacher is None:
        if data is not None or baselines or suites or out is not None or kind != "text":
            raise StillhouseError("data, baselines, kind, suites and out are for two models: name a teacher, too.")
        return Distillation(source, overrides=overrides, progress=progress).evaluate()
    if data is None:
        raise StillhouseError(f"evaluate({str(source)!r}, teacher={teacher!r}) needs data: a file to measure both on.")
    return evaluate_models(
        str(source),
        teacher=teacher,
        data=data,
        baselines=baselines,
        kind=kind,
        suites=suites,
        overrides=overrides,
        out=out,
        progress=progress,
    )


def report(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), progress: Progress = SILENT, **sections: Any
) -> Path:
    """Do what is not done yet of a recipe, and return `report.html`; of several runs: `report_runs`."""
    work = Distillation(recipe, overrides=overrides, progress=progress, **sections)
    work.report()
    return work.run.report


def inspect(recipe: str | Path, *, overrides: Sequence[str] = (), examples: int = 3) -> None:
    """Print what would be learnt of the data, token by token; in a notebook, in colours. No model is loaded."""
    show_tokens(found(str(recipe)), overrides, num_examples=examples)


def tokenizers(teacher: str, student: str) -> TokenizerVerdict:
    """Whether two models read the same tokens, why that is so, and what the way is if not.

    Raises:
        ModelError: if either has no tokenizer that can be read.
    """
    for source in (teacher, student):
        check_exists(source)
    return compare_tokenizers(read_speaker(teacher), read_speaker(student))


def doctor(recipe: str | Path | None = None, *, overrides: Sequence[str] = ()) -> list[Line]:
    """What was looked at on this machine and of a recipe, line by line; a line's level is ok, note or fix.

    Raises:
        RecipeError: if the recipe cannot be read.
    """
    return list(all_lines(None if recipe is None else found(str(recipe)), overrides))


def init(
    file: str | Path,
    *,
    teacher: str,
    have: str,
    out: str,
    time: str,
    data: str | Path = "",
    questions: str | Path = "",
    student: str = "",
    force: bool = False,
) -> Path:
    """Write a recipe for this teacher, data and time, as `stillhouse init` does with flags, and return the file.

    Raises:
        StillhouseError: for an answer that is none, or a file that is in the way.
    """
    answers = {"teacher": teacher, "have": have, "out": out, "time": time}
    answers |= {"data": str(data), "questions": str(questions), "student": student}
    write_recipe(Path(file), answers, force=force)
    return Path(file)


def server_command(source: str | Path, *, engine: str = "", host: str = "127.0.0.1", port: int = 8000) -> list[str]:
    """What starts an OpenAI-compatible server of a run's student, for `subprocess.Popen`.

    Raises:
        StillhouseError: if there is nothing to serve, or no server.
    """
    model = model_of(str(source))
    return command_of(engine or default_engine(model), model, host=host, port=port)


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
