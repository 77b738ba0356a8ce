"""Whether a student acts as if it had read what its teacher alone has read, and what learning that has cost elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedModel

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import ContextResult, Drift, Interval, Kept, Reading, Role, StyleResult
from stillhouse.data.context import Views
from stillhouse.data.examples import Example
from stillhouse.evaluation.elsewhere import change_of, sampled_on_the_same
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, ratio
from stillhouse.evaluation.language import DocumentSums, language_statistics, measure, say

KEPT: Mapping[Literal["loss", "kl"], str] = {"loss": "cross_entropy", "kl": "forward_kl"}
"""By what a gain is measured, and the metric that says so."""

Read = tuple[Role, bool]
"""A model, and whether it has read the context."""

TEACHER_WITH: Read = ("teacher", True)
TEACHER_WITHOUT: Read = ("teacher", False)


@dataclass(frozen=True)
class InContext:
    """Held-out documents where the teacher reads more than the others."""

    teacher_reads: Sequence[Example]
    """One by one what the others read, as the teacher does."""
    views: Sequence[Views]
    """The documents under each of the contexts."""
    styles: Sequence[str]
    """What each context is called, in the order of its number."""
    elsewhere: Sequence[Example] = ()
    """Documents about other things, without a context; often none."""


def judge_context(
    models: Mapping[Role, PreTrainedModel], held_out: InContext, *, vocab_size: int, progress: Progress = SILENT
) -> ContextResult:
    """Every model on held-out documents with each context and without, and on the documents elsewhere. One must be the
    teacher, one the student, and one the student before training.
    """
    numbered = [[view for view in held_out.views if view.style == n] for n in range(len(held_out.styles))]
    fitting = [(name, views) for name, views in zip(held_out.styles, numbered, strict=True) if views]
    total = len(models) * (2 * sum(len(views) for _, views in fitting) + len(held_out.elsewhere))
    with working(progress, "with and without the context", total, "documents"):
        styles = [_judge_style(models, *one, vocab_size=vocab_size, progress=progress) for one in fitting]
        drift = _drift(models, held_out.elsewhere, vocab_size, progress) if held_out.elsewhere else []
    return ContextResult(styles, drift, len({example.document for example in held_out.elsewhere}))


def _judge_style(
    models: Mapping[Role, PreTrainedModel], name: str, views: Sequence[Views], *, vocab_size: int, progress: Progress
) -> StyleResult:
    """One context."""
    sides = {False: [view.student for view in views], True: [view.teacher for view in views]}
    says = say(models["teacher"], sides[True], vocab_size=vocab_size)
    sums: dict[Read, DocumentSums] = {
        (role, reads): measure(model, side, says, vocab_size=vocab_size, progress=progress)
        for role, model in models.items()
        for reads, side in sides.items()
    }
    num_documents = len(sums[TEACHER_WITH].tokens)
    named = {(read, metric): found for read, own in sums.items() for metric, found in _statistics(own).items()}
    sampled = bootstrapped(named, set_sizes=[num_documents])
    saved = bootstrapped({"saved": _saved(views)}, set_sizes=[num_documents])["saved"]
    gain = sampled[TEACHER_WITHOUT, "cross_entropy"].minus(sampled[TEACHER_WITH, "cross_entropy"]).interval()
    return StyleResult(
        name,
        num_documents,
        saved.interval(),
        gain,
        [Reading(*read, _metrics(sampled, read)) for read in sums],
        _kept(sampled, [role for role in models if role != "teacher"]),
    )


def _statistics(sums: DocumentSums) -> dict[str, Statistic]:
    """What a model is judged by, with the context and without."""
    return {**language_statistics(sums), "cross_entropy": ratio(sums.loss_nats, sums.tokens)}


def _metrics(sampled: Mapping[tuple[Read, str], Sampled], read: Read) -> dict[str, Interval]:
    return {metric: found.interval() for (own, metric), found in sampled.items() if own == read}


def _kept(sampled: Mapping[tuple[Read, str], Sampled], roles: Sequence[Role]) -> list[Kept]:
    """Of each model without the context; by the loss only where the context lowers the teacher's for certain."""
    found: list[Kept] = []
    for measured_by, metric in KEPT.items():
        without = sampled[TEACHER_WITHOUT, metric]
        gain = without.minus(sampled[TEACHER_WITH, metric])
        if gain.interval().low > 0:
            shares = {role: without.minus(sampled[(role, False), metric]).share_of(gain) for role in roles}
            found += [Kept(role, measured_by, share.interval()) for role, share in shares.items()]
    return found


def _saved(views: Sequence[Views]) -> Statistic:
    """Mean tokens a document that only the teacher reads: both sides end in the same answer."""
    saved: dict[str, list[int]] = {}
    for view in views:
        saved.setdefault(view.student.document, []).append(len(view.teacher.ids) - len(view.student.ids))
    sums = [np.array([function(own) for own in saved.values()], dtype=float) for function in (sum, len)]
    return ratio(*sums)


def _drift(
    models: Mapping[Role, PreTrainedModel], elsewhere: Sequence[Example], vocab_size: int, progress: Progress
) -> list[Drift]:
    """Every model but the teacher where nobody has read anything."""
    says = say(models["teacher"], elsewhere, vocab_size=vocab_size)
    sums = {role: measure(m, elsewhere, says, vocab_size=vocab_size, progress=progress) for role, m in models.items()}
    statistics = {role: language_statistics(own) for role, own in sums.items()}
    sampled = sampled_on_the_same(statistics, len(sums["teacher"].tokens))
    return [
        Drift(
            role,
            sampled[role, "forward_kl"].interval(),
            sampled[role, "bits_per_byte"].interval(),
            change_of(sampled[role, "bits_per_byte"], sampled["student_before", "bits_per_byte"]),
        )
        for role in models
        if role != "teacher"
    ]
