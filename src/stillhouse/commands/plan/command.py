"""`stillhouse plan RECIPE`: tokens, memory, disk, hours and money before a run, and what to change where it does not fit."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.plan.kinds import module_of
from stillhouse.commands.plan.plan import Plan
from stillhouse.commands.plan.saved import VERSION, SavedPlan, recipe_hash, save
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.memory import free_bytes
from stillhouse.core.run import RunFolder
from stillhouse.reporting import terminal_progress
from stillhouse.reporting.formatting import duration, si
from stillhouse.reporting.shapes import words

GIGABYTE = 10**9
WIDEST = 34
"""Columns for the names of parts, so that plans of all kinds look alike."""
LEAST_SECONDS = 0.05
"""Of a stage that is worth a row."""


def show(
    recipe_path: str,
    overrides: Sequence[str],
    *,
    rehearsal: bool,
    price_per_hour: float | None,
    memory: float | None,
    means: Means = BY_ITSELF,
) -> None:
    """Print the plan of a recipe that is run by these means, and keep it in the run folder.

    Raises:
        StillhouseError: for what the run itself would refuse, and for a recipe that cannot be planned.
    """
    values = read_recipe(Path(recipe_path), overrides)
    means.check_options(values)
    kind: Any = importlib.import_module(module_of(values))
    recipe = load_recipe(kind.RECIPE, Path(recipe_path), overrides)
    for name, value in (("--price-per-hour", price_per_hour), ("--memory", memory)):
        if value is not None and not 0 < value < float("inf"):
            raise StillhouseError(f"{name} is {value:g}. Give a number above 0.")
    if fault := RunFolder(recipe.run).fault(recipe):
        raise StillhouseError(fault)
    plan = kind.planned(
        recipe,
        means=means,
        rehearsal=rehearsal,
        room=free_bytes() if memory is None else round(memory * GIGABYTE),
        progress=terminal_progress(),
    )
    disk = sum(plan.disk.values())
    saved = SavedPlan(VERSION, recipe_hash(recipe), dict(plan.seconds), plan.peak, disk, plan.share, means.num_ranks)
    kept = save(saved, recipe.run)
    _print(plan, price_per_hour=price_per_hour, kept=kept)


def _print(plan: Plan, *, price_per_hour: float | None, kept: Path) -> None:
    console = Console(highlight=False)
    for line in [*plan.amount, *_said_of_time(plan, price_per_hour)]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(_table(plan))
    for line in _said_of_fit(plan):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"\nkept in {kept}: `stillhouse distill` says by how much it was wrong.", markup=False, soft_wrap=True
    )


def _table(plan: Plan) -> Table:
    """Memory, disk and time, part by part: all in the same two columns."""
    memory = plan.memory
    most = max(memory.moments, key=memory.at)
    at_once = {f"at most, {most}": memory.most}
    if plan.peak != memory.most:
        at_once["as rehearsed"] = plan.peak
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=WIDEST)
    table.add_column(justify="right")
    _add(table, "memory, by shapes", memory.parts, at_once, written=lambda size: si(size, "B"))
    _add(table, "disk", plan.disk, {"together": sum(plan.disk.values())}, written=lambda size: si(size, "B"))
    if plan.seconds:
        stages = {words(name): seconds for name, seconds in plan.seconds.items() if seconds >= LEAST_SECONDS}
        _add(table, "time", stages, {"together": plan.total_seconds}, written=duration)
    return table


def _add(
    table: Table,
    title: str,
    parts: Mapping[str, float],
    ends: Mapping[str, float],
    *,
    written: Callable[[float], str],
) -> None:
    table.add_row()
    table.add_row(Text(title, style="bold"))
    for name, value in parts.items():
        if value > 0:
            table.add_row(f"  {name}", written(value))
    for name, value in ends.items():
        table.add_row(Text(f"  {name}", style="bold"), Text(written(value), style="bold"))


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
    over = [f"{name} ({si(size, 'B')})" for name in memory.moments if (size := memory.at(name)) > plan.room]
    lines = [f"it does not fit: {most}. What does not: {' and '.join(over) or 'the run as a whole'}."]
    if not plan.changes:
        return [*lines, "no change of one key makes it fit: take a smaller teacher or student, or a larger machine"]
    fits = all(change.memory <= plan.room for change in plan.changes)
    lines.append("each of these makes it fit:" if fits else "these come nearest, together:")
    return lines + [f"  {' '.join(change.overrides)}   then {si(change.memory, 'B')}" for change in plan.changes]
