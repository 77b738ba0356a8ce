"""From what a rehearsal took to what the whole will take: whatever grows with the data is counted on, the rest stays."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stillhouse.commands.launch.config import share_of
from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.plan.clock import Timed
from stillhouse.commands.plan.rehearsal import Rehearsed
from stillhouse.commands.plan.spread import times_as_fast
from stillhouse.commands.recipe import Recipe
from stillhouse.students.config import FromLayersConfig
from stillhouse.students.layer_choice import GREEDY_SHORTLIST

FROM_OWN_FILES = ("answering:", "weighing answers:", "lm-eval:", "timing")
"""How pieces of work begin that are the same however much data there is."""


@dataclass(frozen=True)
class Size:
    """How much a recipe has to learn from, and how long it does."""

    documents: int
    rows: int
    held_out: int
    tokens: int
    """Of all rows to train on, read once."""
    longest: int
    """Tokens of the longest row."""
    steps: int


def size_of(recipe: Recipe, *, documents: int, rows: int, held_out: int, tokens: int, longest: int) -> Size:
    """With the steps that training makes of so many rows."""
    schedule = recipe.training
    steps = math.ceil(schedule.epochs * math.ceil(rows / schedule.rows_per_step))
    return Size(documents, rows, held_out, tokens, longest, steps)


def grown(recipe: Recipe, found: Rehearsed, *, times: float) -> Size:
    """What the teacher will have written, if it goes on as it began."""
    return size_of(
        recipe,
        documents=round(found.documents * times),
        rows=max(1, round(found.rows * times)),
        held_out=round(found.held_out * times),
        tokens=round(found.tokens * times),
        longest=found.longest,
    )


def written_times(recipe: Recipe, found: Rehearsed) -> float:
    """How many times as much is written as in the rehearsal."""
    writing = [work["total"] for work in found.works if work["title"] == "the teacher writes"]
    wanted = recipe.synthesis
    whole = getattr(wanted, "tokens", None)
    if whole is not None and writing:
        return float(whole / writing[0])
    records = getattr(wanted, "kept", None) or getattr(wanted, "number", None)
    return 1.0 if records is None else max(1.0, records / max(1, found.documents + found.held_out))


def by_stage(found: Timed, whole: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
    """Seconds of each stage: each piece of work as long as the `whole` of it takes, what is between the pieces as it was."""
    seconds: dict[str, float] = defaultdict(float, dict.fromkeys(found.stages, 0.0))
    rest = dict(found.stages)
    for work in found.works:
        stage = str(work["stage"])
        rest[stage] = rest.get(stage, 0.0) - work["seconds"]
        seconds[stage] += whole(work)
    for stage, left in rest.items():
        seconds[stage] += max(0.0, left)
    return dict(seconds)


def learning_seconds(work: Mapping[str, Any], *, steps: float, times: float, save_every: int) -> float:
    """Of a training: so many steps, each so many `times` as long as there, and what is done once and at each saving."""
    unit, tail = float(work["unit_seconds"]), float(work["tail_seconds"])
    first = float(work["seconds"]) - float(work["total"]) * unit - tail
    return steps * times * unit + max(1.0, steps / save_every) * tail + max(0.0, first)


def seconds_of(
    recipe: Recipe, found: Rehearsed, size: Size, means: Means = BY_ITSELF, *, teacher_layers: int
) -> dict[str, float]:
    """Seconds of each stage."""
    seconds = by_stage(found, lambda work: _whole(work, recipe, found, size, means))
    chosen = _choice_seconds(recipe, found, teacher_layers)
    return {**seconds, "student": seconds.get("student", 0.0) + chosen}


def _whole(work: Mapping[str, Any], recipe: Recipe, found: Rehearsed, size: Size, means: Means) -> float:
    """One piece of work, as large as it will be."""
    title, seconds = str(work["title"]), float(work["seconds"])
    if work["unit"] == "steps":
        of_each = share_of(recipe.training, means.num_ranks or 1)
        times = of_each.rows_per_step // of_each.rows_per_micro_batch / found.micro_batches
        return learning_seconds(work, steps=size.steps, times=times, save_every=recipe.training.save_every_steps)
    if title.startswith(FROM_OWN_FILES):
        return seconds
    if work["stage"] in ("synthesize", "history"):
        return seconds * written_times(recipe, found) / times_as_fast(means)
    if work["stage"] in ("label", "answer"):
        return seconds * size.tokens / max(1, found.tokens) / times_as_fast(means)
    return seconds * size.held_out / max(1, found.held_out)


def _choice_seconds(recipe: Recipe, found: Rehearsed, layers: int) -> float:
    """Of the greedy choice: a shortlist for each layer that goes, and three ways to end, by trials of which each layer takes
    its share and the head the rest."""
    student = recipe.student
    if not found.all_layers_seconds or not isinstance(student, FromLayersConfig) or not isinstance(student.keep, int):
        return 0.0
    one = found.one_layer_seconds
    a_layer = (found.all_layers_seconds - one) / max(1, layers - 1)
    tried = [left - 1 for left in range(layers, student.keep, -1) for _ in range(GREEDY_SHORTLIST)]
    return sum(one + a_layer * (left - 1) for left in [*tried, *[student.keep] * 3])
