"""A teacher that answers on a cluster while the student learns elsewhere: begun, found, and refused where it cannot be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.errors import StillhouseError
from stillhouse.core.protocols import Teacher
from stillhouse.core.task import Task
from stillhouse.models.load import load_model, seen_by_all
from stillhouse.models.together import Interleaved, Mixture
from stillhouse.objectives import objective
from stillhouse.teachers import LocalTeacher, LocalTeacherConfig
from stillhouse.teachers.hosted import is_hosted
from stillhouse.teachers.on_ray import Faculty, faculty, joined
from stillhouse.training.sources import OfflineConfig, TeacherSourceConfig

MEND = "Leave --teacher-on-ray out"


def check_taught_on_ray(recipe: Recipe) -> None:
    """Refuse actors that answer as the student learns where nobody would ask them, or the teacher is needed here all the same.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    if is_hosted(recipe.teacher):
        raise StillhouseError(f"teacher.engine is vllm, which tells nothing while the student learns. {MEND}.")
    if recipe.labels is not None:
        raise StillhouseError(f"labels keep what the teacher says, so nobody asks it as the student learns. {MEND}.")
    if not isinstance(recipe.teacher, LocalTeacherConfig):
        raise StillhouseError(f"teacher.kind is {recipe.teacher.kind!r}, which no actor could load. {MEND}.")
    if not any(objective(chosen.name).reads_teacher for chosen in recipe.objectives):
        raise StillhouseError(f"none of the objectives compares with the teacher, so nobody asks it. {MEND}.")
    needs = _what_needs_it_here(recipe)
    if needs:
        raise StillhouseError(
            f"{' and '.join(needs)} needs the teacher in the process in which the student learns. {MEND}, or {needs[0]}."
        )


def _what_needs_it_here(recipe: Recipe) -> list[str]:
    source = recipe.source
    way = None if isinstance(source, OfflineConfig | TeacherSourceConfig) else source.way
    needs = {
        "source.teacher_share": isinstance(way, Mixture),
        "source.accept_top_k": isinstance(way, Interleaved),
        "evaluation.curves": recipe.evaluation.curves is not None,
        "evaluation.reward": recipe.evaluation.reward is not None,
        "synthesis.choose.reward": recipe.evaluation.reward is None and recipe.watched_reward is not None,
    }
    return [name for name, is_needed in needs.items() if is_needed]


@contextmanager
def faculty_of(shop: Workshop, *, num_asking: int) -> Iterator[Faculty | None]:
    """Actors with the teacher, for so many processes to ask; None where the teacher is in each of these. This process lets go
    of it if it made the student of its layers, or let it write."""
    parts = shop.parts
    if shop.teacher_held != "on_ray":
        yield None
        return
    assert parts.cluster is not None, "the command has refused it without --ray"
    load = partial(_loaded, seen_by_all(shop.recipe.teacher.model), shop.recipe.task, parts.labels)
    parts.let_go_of_the_teacher()
    with faculty(parts.cluster, load, num_asking=num_asking, progress=shop.progress) as begun:
        yield begun


@contextmanager
def teacher_on_ray(shop: Workshop) -> Iterator[Teacher]:
    """Whom this process asks: an actor of its own, or, as one of several processes, one that was begun for all of them."""
    if shop.faculty is not None:
        with joined(shop.faculty):
            yield shop.faculty.teacher(shop.rank)
        return
    with faculty_of(shop, num_asking=1) as begun:
        assert begun is not None
        yield begun.teacher(0)


def _loaded(source: str, task: Task, labels: Sequence[str] | None) -> LocalTeacher:
    return LocalTeacher(load_model(source, task, labels=labels).model)
