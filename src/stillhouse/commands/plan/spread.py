"""Memory and time where several processes train together, or actors hold the teacher: of what one takes, shares and copies."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from stillhouse.commands.launch.config import share_of
from stillhouse.commands.means import Means
from stillhouse.commands.plan.plan import NUMBER, PROGRAM, Memory
from stillhouse.commands.plan.shapes import BEFOREHAND, HOSTED, Models, memory_of
from stillhouse.commands.recipe import Recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.models.anatomy import layers_of, num_layers, parameter_count

TEACHER, STUDENT = "teacher's weights", "student's weights"
STATE = ("gradients", "optimizer")
LAYERS_AT_ONCE = 2
"""That are gathered: the one that is computed, and the next."""


def check_plannable(means: Means) -> None:
    """Refuse what nothing can be reckoned from.

    Raises:
        StillhouseError: naming what is to be given.
    """
    if means.ray not in (None, "local") and means.actors is None:
        raise StillhouseError(
            f"--ray {means.ray} is not asked how many actors it has room for, as nothing begins yet. Give --actors N."
        )


def actors_of(means: Means) -> int:
    """How many hold the teacher; 0 where none do."""
    if means.ray is None:
        return 0
    return means.actors or max(1, torch.cuda.device_count())


def times_as_fast(means: Means) -> int:
    """As one process, that actors label and write, each on a device of its own: on one machine without GPUs they share its
    processor, as one process would use all of it. Those that also answer in training are rehearsed themselves."""
    has_own_devices = means.ray != "local" or torch.cuda.is_available()
    return actors_of(means) if means.ray and has_own_devices and means.teacher_held != "on_ray" else 1


def memory_by(recipe: Recipe, means: Means, *, num_controls: int, program: int) -> Memory:
    """What each part of a run takes where models run: on the GPU of one of the processes, or, where there are none, on the
    machine that all of them share."""
    if means.num_ranks is not None:
        recipe = recipe.model_copy(update={"training": share_of(recipe.training, means.num_ranks)})
    alone = memory_of(recipe, num_controls=num_controls, program=program)
    found = alone if means.num_ranks is None else _launched(alone, means, Models(recipe))
    return _with_actors(found, means, each=alone.parts.get(HOSTED, alone.parts[TEACHER]) + program)


def _launched(alone: Memory, means: Means, models: Models) -> Memory:
    """The first process makes the student and measures it; as many as there are train, each with a program of its own."""
    assert means.num_ranks is not None
    copies = 1 if torch.cuda.is_available() else means.num_ranks
    place = "in each process" if copies == 1 else f"in {copies} processes"
    ways = _ways(means)
    held = {name: alone.parts[name] for name in alone.moments["training"]}
    if means.teacher_held == "on_ray":
        held[TEACHER] = 0
    whole = held[PROGRAM] + held[TEACHER] + held[STUDENT]
    each = {name: size // ways.get(name, 1) for name, size in held.items()}
    each["gathered weights"] = _gathered(ways, models)
    learning = {f"{name}, {place}": copies * size for name, size in each.items()}
    loading = {f"whole models, {place}": copies * whole} if {TEACHER, STUDENT} & set(ways) else {}
    moments = {**alone.moments, "training": (PROGRAM, *learning)}
    if loading:
        moments["loading"] = (PROGRAM, *loading)
    by_first = {name: alone.parts[name] for name in alone.parts if any(name in held for held in moments.values())}
    return Memory({**by_first, **learning, **loading}, moments)


def _ways(means: Means) -> Mapping[str, int]:
    """Among how many processes each part is shared, of those that are."""
    held = means.student_held
    student = () if held == "whole" else STATE if held == "zero2" else (STUDENT, *STATE)
    teacher = (TEACHER,) if means.teacher_held == "sharded" else ()
    return dict.fromkeys((*student, *teacher), means.num_ranks or 1)


def _gathered(ways: Mapping[str, int], models: Models) -> int:
    """Bytes that a process has whole of what is shared: all that is outside of layers, and a few of these. Of what learns, the
    gradient, too."""
    student = _at_once(models.student) if STUDENT in ways else 0
    teacher = _at_once(models.teacher) if TEACHER in ways and models.teacher is not None else 0
    return student * NUMBER * (2 if models.recipe.student.lora is None else 1) + teacher * NUMBER


def _at_once(model: PreTrainedModel) -> int:
    in_layers = parameter_count(layers_of(model))
    return parameter_count(model) - in_layers + LAYERS_AT_ONCE * in_layers // num_layers(model)


def _with_actors(memory: Memory, means: Means, *, each: int) -> Memory:
    """Those of a cluster on this machine take of the same memory, where there are no GPUs."""
    if means.ray != "local" or torch.cuda.is_available():
        return memory
    name = f"{actors_of(means)} actors with the teacher"
    parts = {**memory.parts, name: actors_of(means) * each}
    moment = "training" if means.teacher_held == "on_ray" else BEFOREHAND
    held = (*(memory.moments[moment] if moment == "training" else (PROGRAM,)), name)
    return replace(memory, parts=parts, moments={**memory.moments, moment: held})
