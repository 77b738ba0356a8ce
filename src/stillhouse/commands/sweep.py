"""`stillhouse sweep`: a grid of recipes, each an ordinary run, and what all of them say together."""

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from stillhouse.commands import pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.runs_report import entry_of
from stillhouse.commands.stories import pipeline as stories
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.commands.stories.recipe import StoryRecipe
from stillhouse.core import yaml_text
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Interval, Role
from stillhouse.core.run import RunFolder
from stillhouse.evaluation.scaling import Measured, ScalingLaw, scaling_law, why_no_law
from stillhouse.reporting import formatting
from stillhouse.reporting.evidence import Budgeted, Setting, loss_of
from stillhouse.reporting.runs import RunEntry, grouped
from stillhouse.reporting.sweeps import FittedLaw, write_sweep

MOST_RUNS = 200
BUDGETS = ("training.epochs", "synthesis.tokens", "data.number")
"""Keys that say how much is learnt: runs that differ in these and the seed alone are one curve."""
SEED = "training.seed"


@dataclass(frozen=True)
class Trial:
    """One run of the grid: what it is called, what was set, and its recipe."""

    name: str
    settings: Mapping[str, str]
    recipe: Recipe | StoryRecipe


def trials(recipe: Path, overrides: Sequence[str], *, grid: Sequence[str], seeds: int, out: Path) -> list[Trial]:
    """Every run of a grid such as `student.keep=4,8`, checked before any of them begins.

    Raises:
        RecipeError: for a grid that is none, and for the first run whose recipe has faults.
    """
    if seeds < 1:
        raise RecipeError([f"{seeds} seeds are none: name 1 or more."], source="--seeds")
    axes = [_axis(one) for one in grid]
    if seeds > 1:
        axes.append((SEED, [str(number) for number in range(seeds)]))
    keys = [key for key, _ in axes]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise RecipeError([f"{twice} is given twice. Name all of its values at once: {twice}=A,B."], source="--grid")
    chosen = [dict(zip(keys, values, strict=True)) for values in itertools.product(*(values for _, values in axes))]
    if len(chosen) > MOST_RUNS:
        raise RecipeError([f"the grid has {len(chosen)} runs; {MOST_RUNS} is the most."], source="--grid")
    names = [_name(one) for one in chosen]
    if len(set(names)) < len(names):
        raise RecipeError(["two runs have the same settings. Name each value once."], source="--grid")

    def trial(name: str, settings: Mapping[str, str]) -> Trial:
        changes = [f"{key}={value}" for key, value in settings.items()]
        return Trial(name, settings, _read(recipe, [*overrides, *changes, f"run={out / 'runs' / name}"]))

    return [trial(name, settings) for name, settings in zip(names, chosen, strict=True)]


def _read(recipe: Path, overrides: Sequence[str]) -> Recipe | StoryRecipe:
    if is_of_stories(read_recipe(recipe, overrides)):
        return load_recipe(StoryRecipe, recipe, overrides)
    return load_recipe(Recipe, recipe, overrides)


def _axis(text: str) -> tuple[str, list[str]]:
    """`student.keep=4,8` as a key and its values, each as an override would write it."""
    key, equals, rest = text.partition("=")
    try:
        values = yaml_text.from_yaml(f"[{rest}]")
    except yaml.YAMLError:
        values = None
    if not equals or not key or not values:
        raise RecipeError([f"{text!r} is no axis: write key=value,value."], source="--grid")
    if key == "run":
        raise RecipeError(["run: each run has a folder of its own. Leave it out, and name --out."], source="--grid")
    return key, [json.dumps(value) if isinstance(value, dict | list) else str(value) for value in values]


def _name(settings: Mapping[str, str]) -> str:
    parts = [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items()]
    return re.sub(r"[^\w.=,-]+", "-", ",".join(parts))[:120] or "run"


def sweep(
    recipe: str | Path,
    *,
    grid: Sequence[str],
    seeds: int = 1,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> list[RunEntry]:
    """Run a grid of recipes and write `sweep.html`, `sweep.md` and `sweep.jsonl`; what is done is not done again.

    A stage that another run of the sweep has done from the same is taken over from it: what the teacher wrote, its labels,
    and the controls.

    Raises:
        RecipeError: naming what is wrong with the grid or with a run's recipe, before any run begins.
        StillhouseError: for any other thing that the caller can mend.
    """
    folder = Path(out) if out is not None else _default_folder(Path(recipe), overrides)
    planned = trials(Path(recipe), overrides, grid=grid, seeds=seeds, out=folder)
    entries: list[RunEntry] = []
    for number, trial in enumerate(planned, start=1):
        progress.say(f"run {number} of {len(planned)}: {trial.name}")
        lenders = [one.recipe.run for one in planned if one is not trial]
        _finish(trial.recipe, progress, lenders)
        entries.append(_entry(trial))
        command = command_of(recipe, overrides, grid=grid, seeds=seeds, out=folder)
        _report(folder, planned[:number], entries, planned=len(planned), command=command)
    return entries


def _finish(recipe: Recipe | StoryRecipe, progress: Progress, lenders: Sequence[Path]) -> None:
    """One run from where it is to its report."""
    if isinstance(recipe, StoryRecipe):
        with stories.at_work(recipe, progress, lenders=lenders) as telling:
            telling.report()
    else:
        with pipeline.at_work(recipe, progress, lenders=lenders) as work:
            work.report()


def command_of(recipe: str | Path, overrides: Sequence[str], *, grid: Sequence[str], seeds: int, out: Path) -> str:
    """What a user types for the same sweep."""
    axes = [part for axis in grid for part in ("--grid", axis)]
    times = ["--seeds", str(seeds)] if seeds > 1 else []
    return shlex.join(["stillhouse", "sweep", str(recipe), *axes, *times, "--out", str(out), *overrides])


def _default_folder(recipe: Path, overrides: Sequence[str]) -> Path:
    run = _read(recipe, overrides).run
    return run.with_name(f"{run.name}-sweep")


def _entry(trial: Trial) -> RunEntry:
    """A finished run, together with those that differ from it in their seed alone."""
    others = {key: value for key, value in trial.settings.items() if key != SEED}
    found = entry_of(trial.recipe.run)
    short = {key.rpartition(".")[2]: value for key, value in others.items()}
    return RunEntry(trial.name, found.result, group=json.dumps(others), settings=short)


def _report(folder: Path, done: Sequence[Trial], entries: Sequence[RunEntry], *, planned: int, command: str) -> None:
    """All that can be said of the runs so far: after each of them, as a sweep may take long."""
    tokens = {trial.name: _tokens(trial.recipe.run) for trial in done}
    settings = settings_of(done, entries, tokens)
    write_sweep(folder, settings=settings, runs=entries, laws=laws(settings), planned=planned, command=command)
    lines = [
        {"run": trial.name, "settings": dict(trial.settings), "tokens": tokens[trial.name], **_numbers(entry)}
        for trial, entry in zip(done, entries, strict=True)
    ]
    write_atomic(folder / "sweep.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _tokens(run: Path) -> float:
    """Tokens that the student learnt from, each as often as it was seen."""
    return float(RunFolder(run).stages()["train"]["tokens"])


def _numbers(entry: RunEntry) -> dict[str, Any]:
    return {
        model.role: {name: asdict(interval) for name, interval in model.metrics.items()}
        for model in entry.result.models
    }


def settings_of(done: Sequence[Trial], entries: Sequence[RunEntry], tokens: Mapping[str, float]) -> list[Setting]:
    """Runs as curves: those that differ in budget and seed alone belong to one setting."""
    of_trial = {trial.name: trial for trial in done}
    curves: dict[str, list[Budgeted]] = {}
    for group in grouped(entries):
        settings = of_trial[group.entries[0].name].settings
        name = ", ".join(
            f"{key.rpartition('.')[2]} {value}" for key, value in settings.items() if key not in (*BUDGETS, SEED)
        )
        budget = sum(tokens[entry.name] for entry in group.entries) / len(group.entries)
        curves.setdefault(name, []).append(Budgeted(budget, group))
    return [Setting(name, sorted(found, key=lambda one: one.tokens)) for name, found in curves.items()]


def laws(settings: Sequence[Setting]) -> list[FittedLaw]:
    """A law for each setting and arm where the points allow one, and else why they do not."""
    loss = loss_of(settings)
    if loss is None:
        return []
    arms: tuple[Role, ...] = ("student", "control_hard_labels", "control_from_scratch")
    found = []
    for setting in settings:
        for role in arms:
            points = _points(setting, role, loss)
            if points:
                found.append(_law(setting, role, points))
    return found


def _points(setting: Setting, role: Role, loss: str) -> list[Measured]:
    return [
        Measured(one.tokens, interval)
        for one in setting.budgets
        for entry in one.group.entries
        if (model := entry.result.model(role)) is not None and (interval := model.metrics.get(loss)) is not None
    ]


def _law(setting: Setting, role: Role, points: Sequence[Measured]) -> FittedLaw:
    why = why_no_law(points)
    law: ScalingLaw | None = None if why else scaling_law(points)
    if law is None:
        return FittedLaw(setting.name, role, why)
    largest = max(point.tokens for point in points)
    ahead: dict[str, Interval] = {formatting.count(times * largest): law.at(times * largest) for times in (2, 10)}
    return FittedLaw(setting.name, role, "", law.floor, law.amount, law.exponent, ahead, law.is_open)


def show(recipe: str, overrides: Sequence[str], *, grid: Sequence[str], seeds: int, out: str | None) -> None:
    """The command: run the grid with progress in the terminal, and say where the report lies."""
    from stillhouse.reporting import terminal_progress

    if not grid and seeds < 2:
        raise RecipeError(["it needs at least one axis, --grid key=value,value, or --seeds 2 or more."], source="sweep")
    sweep(recipe, grid=grid, seeds=seeds, overrides=overrides, out=out, progress=terminal_progress())
    folder = Path(out) if out is not None else _default_folder(Path(recipe), overrides)
    print(f"report   {folder / 'sweep.html'}\nsummary  {folder / 'sweep.md'}")
