"""A stage: the teacher's signals over the training text, stored."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from stillhouse.commands.labels import forget_damaged
from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.learnt import as_the_teacher_reads
from stillhouse.commands.parts.matching import recorder
from stillhouse.commands.parts.replay import is_labelled, replayed_like
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.answering import answer
from stillhouse.commands.stages.asking import labelling_teacher
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.cluster import Cluster, check_cluster
from stillhouse.core.errors import StillhouseError
from stillhouse.core.label_store import MANIFEST, FetchedFiles, StoreFiles, read_manifest
from stillhouse.core.objects import Objects, as_written
from stillhouse.core.protocols import Teacher
from stillhouse.data.examples import Example
from stillhouse.data.kept import joined
from stillhouse.labelling.cluster import RayCrew
from stillhouse.labelling.config import SparseConfig
from stillhouse.labelling.label import Alone, Crew, label_by, objects_at
from stillhouse.models.load import load_causal_lm, seen_by_all
from stillhouse.teachers import LocalTeacher, RemoteTeacherConfig, RemoteWriterConfig
from stillhouse.teachers.hosted import VllmTeacher, hosted_elsewhere, hosted_teacher, is_hosted
from stillhouse.training.sharding import TeacherHeld
from stillhouse.training.sources import answering_of


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
            store=None if wanted.store is None else as_written(wanted.store),
            progress=shop.progress,
        )
        return asdict(outcome)

    forget_damaged(shop.run, shop.progress, ["label"], objects=_objects(shop), fetches=parts.looks_into_labels)
    made_from = [parts.learnt_fingerprint, wanted, shop.recipe.objectives]  # which say what is read
    return shop.once("label", "the teacher labels", made_from=made_from, work=work)


def check_spread(recipe: Recipe, cluster: Cluster, *, teacher_held: TeacherHeld = "whole") -> None:
    """Refuse what actors cannot do, before anything begins. They may also answer while the student learns (`on_ray`).

    Raises:
        StillhouseError: naming what is to be changed.
    """
    is_remote = isinstance(getattr(recipe.synthesis, "writer", None), RemoteWriterConfig)
    refuse_remote(recipe.teacher)
    beforehand = [recipe.labels, recipe.history, answering_of(recipe.source), None if is_remote else recipe.synthesis]
    if teacher_held != "on_ray" and not any(one is not None for one in beforehand):
        raise StillhouseError(
            "--ray is for what the teacher does beforehand, and this recipe has no labels and lets it write nothing "
            "(synthesis, history, or source.kind teacher): it runs in every step. Leave --ray out, give labels, or "
            "say --teacher-on-ray to let it answer there in every step."
        )
    check_cluster(cluster)


def refuse_remote(teacher: object) -> None:
    """Refuse actors for a teacher that none of them could load.

    Raises:
        StillhouseError: for one behind an API.
    """
    if isinstance(teacher, RemoteTeacherConfig):
        raise StillhouseError(
            "--ray is for a teacher that actors load, and teacher.kind is remote: its server shares the work."
        )


def _crew(shop: Workshop, examples: Sequence[Example]) -> Crew:
    """Who labels: this process, with the teacher or what its server tells, or actors that each load it."""
    parts, teacher = shop.parts, shop.recipe.teacher
    if parts.cluster is not None:
        load: Callable[[], Teacher] = partial(_loaded, seen_by_all(teacher.model))
        if is_hosted(teacher):
            load = partial(hosted_teacher, hosted_elsewhere(teacher), top=_likeliest(shop))
        return RayCrew(parts.cluster, load, shop.progress)
    if is_hosted(teacher):
        vocab_size = len(parts.teacher_tokenizer)
        return Alone(VllmTeacher(parts.hosted, vocab_size=vocab_size, top=_likeliest(shop)), shop.progress)
    remote = parts.remote
    here = LocalTeacher(parts.teacher.model) if remote is None else labelling_teacher(shop, remote, examples)
    return Alone(here, shop.progress)


def _likeliest(shop: Workshop) -> int:
    """How many tokens of a place may be kept, and so are told."""
    assert isinstance(shop.recipe.labels, SparseConfig), "a recipe lets vLLM tell nothing else"
    return shop.recipe.labels.most


def _loaded(source: str) -> LocalTeacher:
    return LocalTeacher(load_causal_lm(source).model)


def _examples(parts: Parts) -> Sequence[Example]:
    """All that is learnt of the teacher, as it reads it."""
    examples = as_the_teacher_reads(parts.learnt)
    if is_labelled(parts.recipe):
        assert parts.replayed is not None
        old = replayed_like(parts.learnt, parts.replayed, row_tokens=parts.recipe.data.sequence_tokens)
        examples = joined(examples, as_the_teacher_reads(old))
    return examples


def store_files(shop: Workshop) -> StoreFiles:
    """The stored labels, from wherever they are kept."""
    labels, folder = shop.recipe.labels, shop.run.labels
    objects = _objects(shop)
    if labels is None or objects is None:
        return StoreFiles(folder)
    return FetchedFiles(folder, objects, most_bytes=int(labels.cache_gib * 2**30))


def _objects(shop: Workshop) -> Objects | None:
    """Where finished labels are kept, if that is not the run folder."""
    wanted = shop.recipe.labels
    if wanted is None or wanted.store is None or not (shop.run.labels / MANIFEST).exists():
        return None
    return objects_at(as_written(wanted.store), read_manifest(shop.run.labels).seal)
