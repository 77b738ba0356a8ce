"""`stillhouse plan RECIPE`: tokens, memory, disk, hours and money before a run, and what to change where it does not fit."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table

from stillhouse.commands.estimate import estimate, matmul_speed, shape_of
from stillhouse.commands.parts import Parts
from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.plan.forecast import Size, grown, seconds_of, size_of, written_times
from stillhouse.commands.plan.rehearsal import FOUND, STEPS, Rehearsed, rehearsed_of
from stillhouse.commands.plan.saved import VERSION, SavedPlan, recipe_hash, save
from stillhouse.commands.plan.shapes import Change, Memory, Models, changes_that_fit, disk_of, memory_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.stages.training import control_roles
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, read_recipe, to_yaml
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.core.progress import Progress, Silent
from stillhouse.core.room import free_bytes
from stillhouse.core.run import RunFolder
from stillhouse.data.config import RagDataConfig
from stillhouse.models.anatomy import num_layers
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, without_weights
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.formatting import count, duration, si
from stillhouse.teachers import RemoteTeacherConfig

GIGABYTE = 10**9


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take."""

    size: Size | None
    """None where the teacher has yet to write the data, and nothing was rehearsed."""
    memory: Memory
    peak: int
    """The most memory at once: as a rehearsal measured, or by shapes."""
    room: int
    disk: Mapping[str, int]
    seconds: Mapping[str, float]
    """Of each stage; empty where nothing was rehearsed."""
    changes: Sequence[Change]
    counted_seconds: float | None = None
    """By counting operations, where nothing was rehearsed."""

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def show(
    recipe_path: str, overrides: Sequence[str], *, rehearsal: bool, price_per_hour: float | None, memory: float | None
) -> None:
    """Print the plan of a recipe, and keep it in the run folder.

    Raises:
        StillhouseError: for what the run itself would refuse, and for a recipe that cannot be planned.
    """
    recipe = _read(recipe_path, overrides)
    for name, value in (("--price-per-hour", price_per_hour), ("--memory", memory)):
        if value is not None and not 0 < value < float("inf"):
            raise StillhouseError(f"{name} is {value:g}. Give a number above 0.")
    plan = planned(
        recipe,
        rehearsal=rehearsal,
        room=free_bytes() if memory is None else round(memory * GIGABYTE),
        progress=terminal_progress(),
    )
    kept = save(
        SavedPlan(VERSION, recipe_hash(recipe), dict(plan.seconds), plan.peak, sum(plan.disk.values())), recipe.run
    )
    _print(plan, recipe, price_per_hour=price_per_hour, kept=kept)


def _read(recipe_path: str, overrides: Sequence[str]) -> Recipe:
    values = read_recipe(Path(recipe_path), overrides)
    kinds = {"retrieval": is_of_retrieval, "stories": is_of_stories}
    for kind, belongs in kinds.items():
        if belongs(values):
            raise RecipeError(
                [
                    f"data.kind: `stillhouse plan` does not know {kind}, only what one teacher and one student learn from."
                ],
                source=recipe_path,
            )
    return load_recipe(Recipe, Path(recipe_path), overrides)


def planned(recipe: Recipe, *, rehearsal: bool, room: int, progress: Progress) -> Plan:
    """What a recipe will take, beside the bytes of memory that there is room for.

    Raises:
        StillhouseError: for what the run itself would refuse, and if the rehearsal fails.
    """
    Pipeline(recipe, RunFolder(recipe.run), Silent()).check()
    roles = len(control_roles(recipe))
    memory = memory_of(recipe, num_controls=roles)
    program = memory.parts["program and data"]
    if rehearsal:
        _refuse_unrehearsed(recipe)
    # A rehearsal of what cannot fit would be killed, and tell nothing.
    fits = memory.most <= room
    if rehearsal and not fits:
        progress.say("not rehearsed: by its shapes it does not fit")
    found = _rehearsed(recipe, progress) if rehearsal and fits else None
    size = _size(recipe, found)
    label_bytes = None if found is None else found.label_bytes
    disk = disk_of(
        recipe, num_controls=roles, learnt_tokens=0 if size is None else size.tokens, label_bytes=label_bytes
    )
    seconds: dict[str, float] = {}
    if found is not None and size is not None:
        layers = 1 if isinstance(recipe.teacher, RemoteTeacherConfig) else _layers(recipe)
        seconds = seconds_of(recipe, found, size, teacher_layers=layers)
    measured = None if found is None or size is None else found.peak_bytes + _of_longer_rows(recipe, found, size)
    beyond = 0 if measured is None else measured - memory.most

    def needs(changed: Recipe) -> int:
        return memory_of(changed, num_controls=len(control_roles(changed)), program=program).most + beyond

    peak = memory.most if measured is None else measured
    changes = [] if peak <= room else changes_that_fit(recipe, room=room, needs=needs)
    return Plan(size, memory, peak, room, disk, seconds, changes, None if seconds else _counted_seconds(recipe))


def _counted_seconds(recipe: Recipe) -> float | None:
    """By counted operations and the speed of this machine's matrix products; None where that cannot be told."""
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        return None
    told = estimate(recipe, shape_of(recipe.teacher.model, recipe), speed=matmul_speed())
    wanted = recipe.synthesis
    units = recipe.training.epochs
    if recipe.data.path is None:
        units = next((n for name in ("tokens", "kept", "number") if (n := getattr(wanted, name, None))), 0)
    return told.total(units) if told is not None and units else None


def _of_longer_rows(recipe: Recipe, found: Rehearsed, size: Size) -> int:
    """Bytes that the longest rows of all take more than the longest that were rehearsed: rows of like length share a batch."""
    student, rows = Models(recipe).student, recipe.training.rows_per_micro_batch
    again = recipe.training.gradient_checkpointing
    whole, few = (
        saved_bytes(student, rows=rows, row_tokens=longest, recomputes=again)
        for longest in (size.longest, found.longest)
    )
    return max(0, whole - few)


def _layers(recipe: Recipe) -> int:
    return num_layers(load_config(without_weights(recipe.teacher.model)))


def _refuse_unrehearsed(recipe: Recipe) -> None:
    """What a rehearsal would pay for, or take as long as the run."""
    reason = ""
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        reason = "its teacher is behind an API, and each request costs money"
    elif getattr(getattr(recipe.synthesis, "writer", None), "kind", "teacher") == "remote":
        reason = "who writes its data is behind an API, and each request costs money"
    elif isinstance(recipe.data, RagDataConfig):
        reason = "its documents are embedded and searched as a whole"
    if reason:
        raise StillhouseError(
            f"this recipe cannot be rehearsed: {reason}. Add --no-rehearsal for memory and disk alone."
        )


def _size(recipe: Recipe, found: Rehearsed | None) -> Size | None:
    """How much there is to learn: counted in the data, or reckoned from what a rehearsal wrote."""
    parts = Parts(recipe, RunFolder(recipe.run), Silent())
    if recipe.data.path is not None and not parts.answers_first:
        data = parts.data
        return size_of(
            recipe,
            documents=data.num_train_documents,
            rows=len(data.train),
            held_out=data.num_held_out_documents,
            tokens=sum(data.train.lengths),
            longest=max(data.train.lengths),
        )
    return None if found is None else grown(recipe, found, times=written_times(recipe, found))


def _rehearsed(recipe: Recipe, progress: Progress) -> Rehearsed:
    """What a process of its own found: its memory is that of a run, and what it holds is gone when it ends.

    Raises:
        StillhouseError: what the process could not do.
    """
    progress.say(f"rehearsing: every stage on a few rows, {STEPS} steps of training (leave it out: --no-rehearsal)")
    recipe.run.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{recipe.run.name}-rehearsal-", dir=recipe.run.parent) as name:
        folder = Path(name).absolute()
        (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "stillhouse.commands.plan.rehearsal", str(folder)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"it was ended by signal {-done.returncode}"])[-1]
            raise StillhouseError(f"the rehearsal failed: {last}. --no-rehearsal leaves it out.")
        return rehearsed_of(json.loads((folder / FOUND).read_text(encoding="utf-8")))


# What is printed.


def _print(plan: Plan, recipe: Recipe, *, price_per_hour: float | None, kept: Path) -> None:
    console = Console(highlight=False)
    for line in [*_said_of_size(plan, recipe), *_said_of_time(plan, price_per_hour)]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(_table("memory", plan.memory.parts, "bytes"))
    console.print(_table("disk", plan.disk, "bytes"))
    if plan.seconds:
        console.print(_table("stage", plan.seconds, "seconds"))
    for line in _said_of_fit(plan):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"\nkept in {kept}: `stillhouse distill` says by how much it was wrong.", markup=False, soft_wrap=True
    )


def _table(title: str, parts: Mapping[str, float], unit: str) -> Table:
    written: Callable[[float], str] = duration if unit == "seconds" else lambda size: si(size, "B")
    table = Table(box=box.SIMPLE_HEAD, show_footer=False)
    table.add_column(title)
    table.add_column(unit if unit == "seconds" else "", justify="right")
    for name, value in parts.items():
        if value >= (0.05 if unit == "seconds" else 1):
            table.add_row(name, written(value))
    return table


def _said_of_size(plan: Plan, recipe: Recipe) -> list[str]:
    if plan.size is None:
        return ["the teacher has yet to write the data: how much that is, a rehearsal tells"]
    size, about = plan.size, "about " if recipe.data.path is None else ""
    return [
        f"{about}{count(size.documents)} documents to learn, {count(size.tokens)} tokens in {count(size.rows)} rows, and "
        f"{about}{count(size.held_out)} held out; {count(size.steps)} steps"
    ]


def _said_of_time(plan: Plan, price_per_hour: float | None) -> list[str]:
    seconds = plan.total_seconds if plan.seconds else plan.counted_seconds
    if seconds is None:
        return ["no time is told without a rehearsal"]
    money = ""
    if price_per_hour is not None:
        money = f", {seconds / 3600 * price_per_hour:,.2f} at {price_per_hour:g} an hour"
    how = "as busy as it is now" if plan.seconds else "by counted operations, which is rough"
    return [f"about {duration(seconds)} on this machine, {how}{money}"]


def _said_of_fit(plan: Plan) -> list[str]:
    """Whether there is room, and what makes it."""
    memory = plan.memory
    most = f"at most {si(plan.peak, 'B')} at once, and {si(plan.room, 'B')} are free"
    if plan.peak <= plan.room:
        return [f"it fits: {most}"]
    moments = {"training": memory.training, "measuring": memory.measuring}
    over = [f"{name} ({si(size, 'B')})" for name, size in moments.items() if size > plan.room]
    lines = [f"it does not fit: {most}. What does not: {' and '.join(over) or 'the run as a whole'}."]
    if not plan.changes:
        return [*lines, "no change of one key makes it fit: take a smaller teacher or student, or a larger machine"]
    fits = all(change.memory <= plan.room for change in plan.changes)
    lines.append("each of these makes it fit:" if fits else "these come nearest, together:")
    return lines + [f"  {' '.join(change.overrides)}   then {si(change.memory, 'B')}" for change in plan.changes]
