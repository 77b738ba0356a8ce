"""A stage: the teacher's signals over the training text, stored."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.learnt import as_the_teacher_reads
from stillhouse.commands.parts.matching import recorder
from stillhouse.commands.parts.replay import is_labelled, replayed_like
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.answering import answer
from stillhouse.commands.stages.asking import labelling_teacher
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.errors import StillhouseError
from stillhouse.core.label_store import damaged
from stillhouse.data.examples import Example
from stillhouse.labelling.cluster import Cluster, RayCrew, check_cluster
from stillhouse.labelling.label import Alone, Crew, label_by
from stillhouse.models.load import load_model, local_path, unpacked_gguf
from stillhouse.teachers import LocalTeacher, RemoteTeacherConfig


def label(shop: Workshop) -> dict[str, Any]:
    """The teacher's signals over the training text, stored."""
    wanted, parts = shop.recipe.labels, shop.parts
    answer(shop)
    if wanted is None:
        return {}

    def work() -> dict[str, Any]:
        examples = _examples(parts)
        outcome = label_by(
            _crew(shop, examples),
            examples,
            shop.run.labels.resolve(),
            made_from=parts.learnt_fingerprint,
            row_tokens=shop.recipe.data.sequence_tokens,
            recorder=recorder(parts, wanted),
            shard_tokens=wanted.shard_tokens,
            progress=shop.progress,
        )
        return asdict(outcome)

    _forget_damaged_labels(shop)
    made_from = [parts.learnt_fingerprint, wanted, shop.recipe.objectives]  # which say what is read
    return shop.once("label", "the teacher labels", made_from=made_from, work=work)


def check_labelled_elsewhere(recipe: Recipe, cluster: Cluster) -> None:
    """Refuse what actors cannot do, before anything begins.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    if recipe.labels is None:
        raise StillhouseError(
            "--ray is for labelling, and the recipe has no labels: the teacher runs in every step. Give both."
        )
    if isinstance(recipe.teacher, RemoteTeacherConfig):
        raise StillhouseError(
            "--ray is for a teacher that actors load, and teacher.kind is remote: its server shares the work."
        )
    check_cluster(cluster)


def _crew(shop: Workshop, examples: Sequence[Example]) -> Crew:
    """Who labels: this process, with the teacher or what its server tells, or actors that each load it."""
    parts = shop.parts
    if shop.cluster is not None:
        return RayCrew(shop.cluster, partial(_loaded, _for_all(shop.recipe.teacher.model)), shop.progress)
    remote = parts.remote
    teacher = LocalTeacher(parts.teacher.model) if remote is None else labelling_teacher(shop, remote, examples)
    return Alone(teacher, shop.progress)


def _for_all(source: str) -> str:
    """What other processes find the model by: unpacked once, and not seen from the folder that this one works in."""
    path = local_path(source)
    if path.is_file():
        return unpacked_gguf(path)
    return str(path.resolve()) if path.is_dir() else source


def _loaded(source: str) -> LocalTeacher:
    return LocalTeacher(load_model(source, "causal_lm").model)


def _examples(parts: Parts) -> Sequence[Example]:
    """All that is learnt of the teacher, as it reads it."""
    examples = as_the_teacher_reads(parts.learnt)
    if is_labelled(parts.recipe):
        assert parts.replayed is not None
        old = replayed_like(parts.learnt, parts.replayed, row_tokens=parts.recipe.data.sequence_tokens)
        examples = [*examples, *as_the_teacher_reads(old)]
    return examples


def _forget_damaged_labels(shop: Workshop) -> None:
    """Labels that were finished and then damaged are made again, the damaged files alone."""
    names = damaged(shop.run.labels) if shop.run.is_done("label") else []
    if names:
        shop.progress.say(f"damaged in {shop.run.labels}, and made again: {', '.join(names)}")
        shop.run.event("warned", stage="label", damaged=names)
        shop.run.forget("label")
