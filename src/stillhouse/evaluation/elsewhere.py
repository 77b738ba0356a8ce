"""What a student can still do where nobody taught it: every model on documents of other data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Comparison, Interval, OldDomain, ReplayResult, Role
from stillhouse.data.examples import Example
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, ratio
from stillhouse.evaluation.language import DocumentSums, language_statistics, measure, say

METRICS = ("cross_entropy", "bits_per_byte", "forward_kl", "top1_agreement")
"""What is told of each model, as far as it is known: the loss in nats a token, and how near it is to the teacher."""


@dataclass(frozen=True)
class Elsewhere:
    """Documents of other data."""

    examples: Sequence[Example]
    teacher_reads: Sequence[Example] | None = None
    """The same in the teacher's own tokens, where these are others."""
    teacher_vocab_size: int = 0


def judge_elsewhere(
    models: Mapping[Role, PreTrainedModel], held_out: Elsewhere, *, vocab_size: int, progress: Progress = SILENT
) -> ReplayResult:
    """Every model on the same documents, and the student beside each other. One must be the student."""
    with working(progress, "predicting replayed data", len(held_out.examples) * len(models), "documents"):
        sums = _sums(models, held_out, vocab_size, progress)
    crosses = held_out.teacher_reads is not None or "teacher" not in models
    statistics = {role: _statistics(role, own, crosses) for role, own in sums.items()}
    sampled = sampled_on_the_same(statistics, len(sums["student"].tokens))
    student = {name: found for (role, name), found in sampled.items() if role == "student"}
    return ReplayResult(
        len(sums["student"].tokens),
        [
            OldDomain(role, {name: sampled[role, name].interval() for name in own}, _change(sampled, role))
            for role, own in statistics.items()
        ],
        [
            Comparison(name, role, student[name].minus(sampled[role, name]).interval())
            for role, own in statistics.items()
            for name in own
            if role != "student" and name in student
        ],
    )


def _sums(
    models: Mapping[Role, PreTrainedModel], held_out: Elsewhere, vocab_size: int, progress: Progress
) -> dict[Role, DocumentSums]:
    crosses = held_out.teacher_reads is not None or "teacher" not in models
    says = None if crosses else say(models["teacher"], held_out.examples, vocab_size=vocab_size)
    sums: dict[Role, DocumentSums] = {}
    for role, model in models.items():
        own, size = held_out.examples, vocab_size
        if role == "teacher" and held_out.teacher_reads is not None:
            own, size = held_out.teacher_reads, held_out.teacher_vocab_size
        sums[role] = measure(model, own, says, vocab_size=size, progress=progress)
    return sums


def _statistics(role: Role, sums: DocumentSums, crosses: bool) -> dict[str, Statistic]:
    """Of a teacher with other tokens nothing is known that counts them, and nothing compares with it."""
    found = {**language_statistics(sums), "cross_entropy": ratio(sums.loss_nats, sums.tokens)}
    hidden = set[str]()
    if crosses:
        hidden = set(METRICS) - {"bits_per_byte"} if role == "teacher" else {"forward_kl", "top1_agreement"}
    return {name: found[name] for name in METRICS if name not in hidden}


def sampled_on_the_same(
    statistics: Mapping[Role, Mapping[str, Statistic]], num_documents: int
) -> dict[tuple[Role, str], Sampled]:
    """Every statistic of every model over the same draws of the documents."""
    named = {(role, name): found for role, own in statistics.items() for name, found in own.items()}
    return bootstrapped(named, set_sizes=[num_documents])


def change_of(found: Sampled, before: Sampled) -> Interval:
    """By what share a number has changed: 0.02 is 2 % more."""
    share = found.share_of(before).interval()
    return Interval(share.value - 1, share.low - 1, share.high - 1)


def _change(sampled: Mapping[tuple[Role, str], Sampled], role: Role) -> Interval | None:
    before = sampled.get(("student_before", "bits_per_byte"))
    if role == "teacher" or before is None:
        return None
    return change_of(sampled[role, "bits_per_byte"], before)
