"""A stage: the teacher's signals over the training text, stored."""

from dataclasses import asdict
from typing import Any

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.learnt import as_the_teacher_reads
from stillhouse.commands.parts.matching import recorder
from stillhouse.commands.parts.replay import is_labelled, replayed_like
from stillhouse.commands.stages.answering import answer
from stillhouse.commands.stages.asking import labelling_teacher
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.label_store import damaged
from stillhouse.data.examples import Example
from stillhouse.labelling import label as label_examples
from stillhouse.teachers import LocalTeacher


def label(shop: Workshop) -> dict[str, Any]:
    """The teacher's signals over the training text, stored."""
    wanted, parts = shop.recipe.labels, shop.parts
    answer(shop)
    if wanted is None:
        return {}

    def work() -> dict[str, Any]:
        examples = _examples(parts)
        outcome = label_examples(
            LocalTeacher(parts.teacher.model)
            if parts.remote is None
            else labelling_teacher(shop, parts.remote, examples),
            examples,
            shop.run.labels,
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


def _examples(parts: Parts) -> list[Example]:
    """All that is learnt of the teacher, as it reads it."""
    examples = as_the_teacher_reads(parts.learnt)
    if is_labelled(parts.recipe):
        assert parts.replayed is not None
        old = replayed_like(parts.learnt, parts.replayed, row_tokens=parts.recipe.data.sequence_tokens)
        examples += as_the_teacher_reads(old)
    return examples


def _forget_damaged_labels(shop: Workshop) -> None:
    """Labels that were finished and then damaged are made again, the damaged files alone."""
    names = damaged(shop.run.labels) if shop.run.is_done("label") else []
    if names:
        shop.progress.say(f"damaged in {shop.run.labels}, and made again: {', '.join(names)}")
        shop.run.event("warned", stage="label", damaged=names)
        shop.run.forget("label")
