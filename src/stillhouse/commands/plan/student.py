"""The plan of one teacher and one student, whatever they learn from."""

from collections.abc import Callable
from dataclasses import replace

import torch

from stillhouse.commands.estimate import estimate, matmul_speed, shape_of
from stillhouse.commands.launch.config import share_of
from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.commands.parts import Parts
from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.plan.apart import rehearsed_apart
from stillhouse.commands.plan.forecast import Size, grown, seconds_of, size_of, written_times
from stillhouse.commands.plan.plan import MOST_CHANGES, Change, Plan, changes_that_fit, program_bytes, refuse_rehearsal
from stillhouse.commands.plan.rehearsal import Rehearsed, rehearse
from stillhouse.commands.plan.shapes import Models, disk_of, savings_of
from stillhouse.commands.plan.spread import check_plannable, memory_by
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.training import control_roles
from stillhouse.core.progress import Progress, Silent
from stillhouse.core.run import RunFolder
from stillhouse.data.config import RagDataConfig
from stillhouse.models.anatomy import num_layers
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, without_weights
from stillhouse.reporting.formatting import count
from stillhouse.teachers import RemoteTeacherConfig

__all__ = ["RECIPE", "planned", "rehearse"]

RECIPE = Recipe


def planned(recipe: Recipe, *, means: Means = BY_ITSELF, rehearsal: bool, room: int, progress: Progress) -> Plan:
    """What a recipe will take by these means, beside the bytes of memory that there is room for.

    Raises:
        StillhouseError: for what the run itself would refuse, and if the rehearsal fails.
    """
    Pipeline(recipe, RunFolder(recipe.run), Silent()).check()
    means.check(recipe)
    check_plannable(means)
    roles = len(control_roles(recipe))
    program = program_bytes()
    memory = memory_by(recipe, means, num_controls=roles, program=program)
    if rehearsal:
        _refuse_unrehearsed(recipe)
    # A rehearsal of what cannot fit would be killed, and tell nothing.
    fits = memory.most <= room
    if rehearsal and not fits:
        progress.say("not rehearsed: by its shapes it does not fit")
    found = Rehearsed(**rehearsed_apart(recipe, means, recipe.run, progress)) if rehearsal and fits else None
    size = _size(recipe, found)
    label_bytes = None if found is None else found.label_bytes
    disk = disk_of(
        recipe, num_controls=roles, learnt_tokens=0 if size is None else size.tokens, label_bytes=label_bytes
    )
    seconds: dict[str, float] = {}
    if found is not None and size is not None:
        layers = 1 if isinstance(recipe.teacher, RemoteTeacherConfig) else _layers(recipe)
        seconds = seconds_of(recipe, found, size, means, teacher_layers=layers)
    measured = None if found is None or size is None else found.peak_bytes + _of_longer_rows(recipe, means, found, size)
    beyond = 0 if measured is None else measured - memory.most

    def needs(changed: Recipe, by: Means) -> int:
        return memory_by(changed, by, num_controls=len(control_roles(changed)), program=program).most + beyond

    peak = memory.most if measured is None else measured
    changes = [] if peak <= room else _changes(recipe, means, room=room, needs=needs)
    return Plan(
        _amount(recipe, size),
        memory,
        peak,
        room,
        disk,
        seconds,
        changes,
        1.0 if found is None else found.share,
        None if seconds else _counted_seconds(recipe),
    )


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


def _changes(recipe: Recipe, means: Means, *, room: int, needs: Callable[[Recipe, Means], int]) -> list[Change]:
    """What makes it fit: keys of the recipe, and weights that are shared by processes of which each holds all of them now."""
    found = changes_that_fit(recipe, savings_of(recipe), room=room, needs=lambda changed: needs(changed, means))
    is_whole = (means.num_ranks or 1) > 1 and means.student_held == "whole" and means.launch_config is None
    if not is_whole:
        return found
    sharded = replace(means, held="sharded")
    alone = Change(("--sharded",), needs(recipe, sharded))
    if alone.memory <= room:
        return [alone, *found][:MOST_CHANGES]
    if any(change.memory <= room for change in found):
        return found
    together = changes_that_fit(recipe, savings_of(recipe), room=room, needs=lambda changed: needs(changed, sharded))
    return [replace(change, overrides=("--sharded", *change.overrides)) for change in together]


def _of_longer_rows(recipe: Recipe, means: Means, found: Rehearsed, size: Size) -> int:
    """Bytes that the longest rows of all take more than the longest that were rehearsed: rows of like length share a batch."""
    ranks = means.num_ranks or 1
    student, rows = Models(recipe).student, share_of(recipe.training, ranks).rows_per_micro_batch
    again = recipe.training.gradient_checkpointing
    whole, few = (
        saved_bytes(student, rows=rows, row_tokens=longest, recomputes=again)
        for longest in (size.longest, found.longest)
    )
    return max(0, whole - few) * (1 if torch.cuda.is_available() else ranks)


def _layers(recipe: Recipe) -> int:
    return num_layers(load_config(without_weights(recipe.teacher.model)))


def _refuse_unrehearsed(recipe: Recipe) -> None:
    """What a rehearsal would pay for, or take as long as the run."""
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        refuse_rehearsal("its teacher is behind an API, and each request costs money")
    if getattr(getattr(recipe.synthesis, "writer", None), "kind", "teacher") == "remote":
        refuse_rehearsal("who writes its data is behind an API, and each request costs money")
    if isinstance(recipe.data, RagDataConfig):
        refuse_rehearsal("its documents are embedded and searched as a whole")


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


def _amount(recipe: Recipe, size: Size | None) -> list[str]:
    if size is None:
        return ["the teacher has yet to write the data: how much that is, a rehearsal tells"]
    about = "about " if recipe.data.path is None else ""
    return [
        f"{about}{count(size.documents)} documents to learn from, and {about}{count(size.held_out)} held out",
        f"{about}{count(size.tokens)} tokens in {count(size.rows)} rows: {count(size.steps)} steps",
    ]
