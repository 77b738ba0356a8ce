"""`stillhouse doctor`: what this machine has, what a recipe needs of it, and what to mend. No model is loaded."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from stillhouse import __version__
from stillhouse.commands.checks import tokenizer_source
from stillhouse.commands.estimate import Shape, shape_of
from stillhouse.commands.inspect import pieces_of
from stillhouse.commands.parts import Parts
from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import NEEDED, check_installed, is_of_retrieval
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.stories.pipeline import StoryPipeline
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import cache_folder
from stillhouse.core.progress import Silent
from stillhouse.core.run import RunFolder
from stillhouse.models.load import display_name, load_tokenizer
from stillhouse.reporting.formatting import clean, count, one_line, percent, si
from stillhouse.students.config import CheckpointConfig, FromLayersConfig

Level = Literal["ok", "note", "fix"]
STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "fix": "bold red"}
NOTHING, SOMETHING = 0, 1
"""The exit code, by what must be mended; 2 is for a recipe that cannot be read."""

LITTLE_DISK = 5e9
"""Bytes free below which models, labels and checkpoints soon have no room."""
LEARNING_BYTES, READING_BYTES, KEPT_BYTES = 16, 4, 12
"""A parameter's bytes in float32: learning (weight, gradient, AdamW's two), reading, and in a checkpoint."""
EXTRAS = {
    "retrieval": NEEDED,
    "eval": ("rouge_score", "sacrebleu", "sklearn", "vaderSentiment"),
    "remote": ("openai",),
    "language": ("py3langid",),
}
"""What else can be installed, and how it is known that it is."""
CHECKED = {
    "teacher": "the teacher is there",
    "helpers": "engines, rewards, suites, trackers and compilers are there",
    "models": "teacher, student and objectives fit each other",
    "reference": "the reference fits",
    "synthesis": "what is to be written can be",
    "data": "the data can be read",
    "scores": "the scores can be read",
}
"""The pipeline's own checks, as a line says that one went well."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    level: Level
    about: str
    words: str


def show(recipe: str | None, overrides: Sequence[str]) -> int:
    """Print a line for each thing looked at, and return the exit code: 0 if nothing must be mended, else 1.

    Raises:
        RecipeError: if the recipe cannot be read.
    """
    console = Console(highlight=False, soft_wrap=True)
    lines = list[Line]()
    for line in all_lines(recipe, overrides):
        lines.append(line)
        console.print(Text.assemble((f"{line.level:<5}", STYLES[line.level]), f"{line.about:<12}{clean(line.words)}"))
    num_faults = sum(line.level == "fix" for line in lines)
    print(f"\n{num_faults} to mend." if num_faults else "\nNothing must be mended.")
    return SOMETHING if num_faults else NOTHING


def all_lines(recipe: str | None, overrides: Sequence[str]) -> Iterator[Line]:
    """What is looked at, in order, as it is.

    Raises:
        RecipeError: if the recipe cannot be read.
    """
    yield from environment_lines()
    if recipe is None:
        return
    if is_of_retrieval(read_recipe(Path(recipe), overrides)):
        yield from _retrieval_lines(recipe, overrides)
        return
    if is_of_stories(read_recipe(Path(recipe), overrides)):
        yield from _story_lines(load_recipe(StoryRecipe, Path(recipe), overrides))
        return
    yield from recipe_lines(load_recipe(Recipe, Path(recipe), overrides))


# The machine.


def environment_lines() -> Iterator[Line]:
    """What stillhouse stands on here."""
    yield Line("ok", "stillhouse", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    yield from _library_lines()
    yield _extras_line()
    yield _memory_line()
    yield _thread_line()
    yield _device_line()
    yield _disk_line("cache", cache_folder())


def _library_lines() -> Iterator[Line]:
    """Each library that stillhouse asks for, where it is missing or of another version; else one line for all."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("stillhouse") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Line("note", "libraries", "stillhouse itself is not installed, so its requirements are not known")
        return
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [fault for one in wanted if (fault := library_fault(one))]
    yield from (Line("fix", "libraries", fault) for fault in faults)
    if not faults:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
        yield Line("ok", "libraries", f"{versions}; all {len(wanted)} are as wanted")


def library_fault(wanted: Requirement) -> str:
    """What is wrong with an installed library; empty where nothing is."""
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is missing: pip install '{wanted}'"
    fits = wanted.specifier.contains(version, prereleases=True)
    return "" if fits else f"{wanted.name} is {version}, wanted {wanted.specifier}: pip install '{wanted}'"


def _extras_line() -> Line:
    has = {name: all(find_spec(module) for module in modules) for name, modules in EXTRAS.items()}
    there = ", ".join(name for name in has if has[name]) or "none"
    missing = [name for name in has if not has[name]]
    more = f"; not: {', '.join(missing)} (pip install 'stillhouse[NAME]')" if missing else ""
    return Line("ok", "extras", there + more)


def _memory_line() -> Line:
    memory = psutil.virtual_memory()
    return Line("ok", "memory", f"{si(memory.available, 'B')} free of {si(memory.total, 'B')}")


def _thread_line() -> Line:
    """Threads beyond the processors that this process may use wait for each other."""
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads > may_use:
        return Line("fix", "threads", f"{threads} on {may_use} processors: set OMP_NUM_THREADS={may_use}")
    if threads < may_use and "OMP_NUM_THREADS" in os.environ:
        return Line("note", "threads", f"{threads} of {may_use} processors, by OMP_NUM_THREADS={threads}")
    return Line("ok", "threads", f"{threads} on {may_use} processors")


def _device_line() -> Line:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Line("ok", "GPU", f"{torch.cuda.get_device_name()}, {si(free, 'B')} free of {si(total, 'B')}")
    if torch.version.cuda is not None and shutil.which("nvidia-smi"):
        return Line(
            "fix", "GPU", f"there is one, but torch {torch.__version__} cannot use it: compare nvidia-smi's CUDA"
        )
    return Line("note", "GPU", "none that torch can use: everything runs on the processor")


def _disk_line(about: str, place: Path, needed: float = LITTLE_DISK) -> Line:
    """Room where something will be written, which may not be there yet."""
    there = next(parent for parent in [place.absolute(), *place.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return Line("fix", about, f"{there} may not be written by this user")
    if free < needed:
        return Line("fix", about, f"{si(free, 'B')} free at {there}, about {si(needed, 'B')} wanted: free some space")
    return Line("ok", about, f"{si(free, 'B')} free at {there}")


# A recipe.


class _Listening(Silent):
    """Keeps what a check says, for the line that tells how it went."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _tried(about: str, words: str, check: Callable[[], object], heard: _Listening) -> Line:
    """One check of the pipeline's; what a user can mend is the line."""
    heard.said.clear()
    try:
        check()
    except StillhouseError as error:
        return Line("fix", about, one_line(str(error)))
    return Line("ok", about, "; ".join([words, *heard.said]))


def recipe_lines(recipe: Recipe) -> Iterator[Line]:
    """What a recipe needs, in the order in which each thing stands on those before it; ends at what must be mended first."""
    heard = _Listening()
    pipeline = Pipeline(recipe, RunFolder(recipe.run), heard)
    yield Line("ok", "recipe", f"teaches {recipe.data.kind}, by {', '.join(one.name for one in recipe.objectives)}")
    for name, check in pipeline.checks().items():
        line = _tried(name, CHECKED[name], check, heard)
        if line.level == "fix" or name in ("teacher", "models", "data", "helpers"):
            yield line
        if line.level == "fix" and name in ("teacher", "models"):
            yield Line("note", "the rest", "is looked at when this is mended")
            return
        if name == "models":
            yield from _model_lines(recipe)
        if name == "data" and line.level == "ok":
            yield from _mask_lines(pipeline.parts)
    yield _run_line(recipe)


def _model_lines(recipe: Recipe) -> Iterator[Line]:
    source = tokenizer_source(recipe)
    ours = f"{display_name(source)}, {count(len(load_tokenizer(source)))} tokens"
    if recipe.teacher.kind != "remote" and source != recipe.teacher.model:
        yield Line("ok", "tokenizer", f"{ours}: another than the teacher's; see stillhouse tokenizers TEACHER STUDENT")
    else:
        yield Line("ok", "tokenizer", ours if recipe.teacher.kind == "remote" else f"{ours}, of teacher and student")
    if recipe.teacher.kind == "remote":
        return
    teacher = shape_of(recipe.teacher.model, recipe)
    student = student_parameters(recipe, teacher)
    yield memory_line(teacher.parameters, student, available=_available())
    yield _disk_line("disk", recipe.run, needed=student * (3 * READING_BYTES + 2 * KEPT_BYTES))


def student_parameters(recipe: Recipe, teacher: Shape) -> int:
    """Of the student to be; of one from a configuration at most the teacher's."""
    student = recipe.student
    if isinstance(student, CheckpointConfig):
        return shape_of(student.model, recipe).parameters
    if isinstance(student, FromLayersConfig):
        kept = student.keep if isinstance(student.keep, int) else len(student.keep)
        return teacher.parameters - int((teacher.layers - kept) * teacher.layer_flops / 2)
    return teacher.parameters


def _available() -> int:
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else int(psutil.virtual_memory().available)


def memory_line(teacher: int, student: int, *, available: int) -> Line:
    """Weights, gradients and AdamW's moments beside what is free; what a batch takes comes on top, and is not known."""
    needed = teacher * READING_BYTES + student * LEARNING_BYTES
    words = (
        f"{si(needed, 'B')} for a teacher of {si(teacher)} and a student of {si(student)} parameters, and its batches on top; "
        f"{si(available, 'B')} are free"
    )
    if needed > available:
        return Line("fix", "memory", f"{words}: take a smaller teacher or student, or student.lora")
    return Line("ok", "memory", words)


def _mask_lines(parts: Parts) -> Iterator[Line]:
    """Whether there is something to learn on both sides, where that is decided token by token."""
    if not parts.data_path.exists() or parts.answers_first:
        yield Line("note", "masks", "the teacher has yet to write the data: stillhouse inspect shows it then")
        return
    sides = {"train": parts.data.train, "held out": parts.data.held_out}
    for name, rows in sides.items():
        pieces = list(pieces_of(rows, parts))
        read, learnt = sum(len(piece.ids) for piece in pieces), sum(sum(piece.learnt) for piece in pieces)
        if not pieces:
            yield Line("fix", "masks", f"{name}: no row is left. Bring more data, or change data.held_out")
        elif learnt:
            share = percent(learnt / read, 1)
            yield Line("ok", "masks", f"{name}: {count(read)} tokens, {share} supervised ({count(learnt)})")
        elif parts.recipe.task in ("causal_lm", "masked_lm"):
            yield Line("fix", "masks", f"{name}: nothing of {count(read)} tokens is learnt; see stillhouse inspect")
        else:
            yield Line("ok", "masks", f"{name}: {count(len(pieces))} rows, each learnt as a whole")


def _run_line(recipe: Recipe | StoryRecipe) -> Line:
    folder = RunFolder(recipe.run)
    if not recipe.run.exists():
        return Line("ok", "run", f"{recipe.run} will be made")
    fault = folder.fault(recipe)
    if fault:
        return Line("fix", "run", fault)
    return Line("ok", "run", f"{recipe.run} goes on: {', '.join(folder.stages()) or 'nothing'} is done")


def _story_lines(recipe: StoryRecipe) -> Iterator[Line]:
    """World, filters and teacher of a story model, which are looked at together."""
    heard = _Listening()
    pipeline = StoryPipeline(recipe, RunFolder(recipe.run), heard)
    yield Line("ok", "recipe", f"teaches {recipe.data.kind}, by {', '.join(one.name for one in recipe.objectives)}")
    line = _tried("world", "world, filters and teacher are there", pipeline.check, heard)
    yield line
    if line.level == "ok":
        yield _run_line(recipe)


def _retrieval_lines(path: str, overrides: Sequence[str]) -> Iterator[Line]:
    """A retriever's own checks, which are made together."""
    heard = _Listening()
    installed = _tried("libraries", "what retrievers need is there", check_installed, heard)
    yield installed
    if installed.level == "fix":
        return
    from stillhouse.commands.retrieval.pipeline import RetrievalPipeline  # what it imports may not be there
    from stillhouse.commands.retrieval.recipe import RetrievalRecipe

    recipe = load_recipe(RetrievalRecipe, Path(path), overrides)
    pipeline = RetrievalPipeline(recipe, RunFolder(recipe.run), heard)
    yield _tried("models", "teacher and student are there", pipeline.parts.check_models, heard)
    yield _tried("data", "documents and questions can be read", pipeline.check, heard)
    yield _disk_line("disk", recipe.run)
