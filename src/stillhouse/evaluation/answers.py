"""Answers with a right one: hidden tokens, classes, tags and numbers, judged beside the teacher's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Role
from stillhouse.core.signals import DenseLogits, FactoredLogits, Wanted
from stillhouse.core.task import Task
from stillhouse.evaluation.intervals import Statistic, Sums, ratio
from stillhouse.evaluation.judging import Logits, judged
from stillhouse.evaluation.spans import are_spans, span_f1
from stillhouse.evaluation.statistics import (
    calibration_error,
    macro_f1,
    matthews_correlation,
    pearson,
    spearman,
    summed,
)
from stillhouse.models.signals import read_signals


@dataclass(frozen=True)
class Choices:
    """One choice among classes or tokens for each thing that was judged."""

    document: NDArray[np.int64]
    """To which document each belongs."""
    target: NDArray[np.int64]
    chosen: NDArray[np.int64]
    loss_nats: NDArray[np.float64]
    kl_nats: NDArray[np.float64]
    agrees: NDArray[np.float64]
    confidence: NDArray[np.float64]
    """The probability of the choice: of classifiers only, and empty for other models."""


@dataclass(frozen=True)
class Estimates:
    """One number for each document."""

    target: Sums
    answer: Sums
    teacher: Sums


def choose(
    models: Mapping[Role, PreTrainedModel],
    batches: Mapping[Role, Sequence[Batch]],
    *,
    task: Task,
    vocab_size: int | None = None,
    documents: Sequence[int] = (),
    progress: Progress = SILENT,
) -> dict[Role, Choices]:
    """What every model chooses at every place that carries weight, each in batches of its own; `teacher` must be among them.

    Only the first `vocab_size` tokens or classes can be chosen; None leaves all. `documents` says to which document
    each row belongs; without it, every row is one.
    """
    pieces: dict[Role, list[Choices]] = {role: [] for role in models}
    document_of = np.array(documents or range(sum(len(batch.ids) for batch in batches["teacher"])))
    num_before = 0
    for read in zip(*(batches[role] for role in models), strict=True):
        sides = dict(zip(models, read, strict=True))
        batch = sides["teacher"]
        rows = document_of[np.nonzero(batch.predicts.cpu().numpy())[0] + num_before]
        says = {role: _logits(model, sides[role], vocab_size) for role, model in models.items()}
        for role, ours in says.items():
            pieces[role].append(_choices(rows, ours, says["teacher"], batch.targets, task))
            progress.advance(len(batch.ids))
        num_before += len(batch.ids)
    return {role: _joined(found) for role, found in pieces.items()}


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch, vocab_size: int | None) -> Logits:
    logits = read_signals(model, batch, Wanted(logits=True)).logits
    assert isinstance(logits, FactoredLogits | DenseLogits), "a model says all of its logits"
    answers = logits.at(batch.predicts)
    return answers if vocab_size is None else answers.first(vocab_size)


def _choices(rows: NDArray[np.int64], ours: Logits, theirs: Logits, targets: Tensor, task: Task) -> Choices:
    found = list(judged(ours, theirs, targets))

    def whole(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in found]).cpu()

    return Choices(
        document=rows,
        target=whole("target").numpy(),
        chosen=whole("chosen").numpy(),
        loss_nats=whole("loss_nats").double().numpy(),
        kl_nats=whole("kl_nats").double().numpy(),
        agrees=whole("agrees").double().numpy(),
        confidence=_confidence(ours) if task == "sequence_classification" else np.zeros(0),
    )


@torch.no_grad()
def _confidence(logits: Logits) -> NDArray[np.float64]:
    """The probability of the likeliest class; these are few, so that no chunks are needed."""
    confidence: NDArray[np.float64] = logits.dense().cpu().double().softmax(-1).amax(-1).numpy()
    return confidence


def estimate(
    models: Mapping[Role, PreTrainedModel], batches: Mapping[Role, Sequence[Batch]], *, progress: Progress = SILENT
) -> dict[Role, Estimates]:
    """What number every model gives each document that carries weight, each in batches of its own; `teacher` must be among
    them."""
    answers: dict[Role, list[Sums]] = {role: [] for role in models}
    for role, model in models.items():
        for batch in batches[role]:
            answers[role].append(_logits(model, batch, None).dense()[:, 0].cpu().double().numpy())
            progress.advance(len(batch.ids))
    whole = {role: np.concatenate(parts) for role, parts in answers.items()}
    target = np.concatenate([batch.targets.cpu().double().numpy() for batch in batches["teacher"]])
    return {role: Estimates(target, answer, whole["teacher"]) for role, answer in whole.items()}


def choice_statistics(choices: Choices, *, task: Task, tags: Sequence[str] = ()) -> dict[str, Statistic]:
    """The metrics of hidden tokens, of classes, or of tags, whichever the task is about; over the documents judged."""
    _, document = np.unique(choices.document, return_inverse=True)
    num_documents = int(document.max()) + 1
    hits = (choices.chosen == choices.target).astype(np.float64)

    def mean(values: Sums) -> Statistic:
        return ratio(*(summed(part, document, num_documents) for part in (values, np.ones_like(values))))

    found = {"accuracy": mean(hits)}
    if task != "masked_lm":
        counts = _class_counts(choices, document, num_documents)
        found["macro_f1"] = macro_f1(*counts)
        if task == "sequence_classification":
            found["matthews_correlation"] = matthews_correlation(*counts)
        elif are_spans(tags):
            found["span_f1"] = span_f1(choices.chosen, choices.target, document, tags)
    found["cross_entropy"] = mean(choices.loss_nats)
    found["forward_kl"] = mean(choices.kl_nats)
    found["top1_agreement"] = mean(choices.agrees)
    if task == "sequence_classification":
        found["calibration_error"] = calibration_error(choices.confidence, hits, document, num_documents=num_documents)
    return found


def _class_counts(
    choices: Choices, document: NDArray[np.int64], num_documents: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """[docs, classes] each: how often a class was named rightly, was named, and was right."""
    classes = np.union1d(choices.target, choices.chosen)
    named, actual = ((values[:, None] == classes).astype(float) for values in (choices.chosen, choices.target))
    right, named, actual = (summed(part, document, num_documents) for part in (named * actual, named, actual))
    return right, named, actual


def estimate_statistics(estimates: Estimates) -> dict[str, Statistic]:
    """The metrics of numbers."""
    squares = (estimates.answer - estimates.target) ** 2
    return {
        "spearman": spearman(estimates.answer, estimates.target),
        "pearson": pearson(estimates.answer, estimates.target),
        "mean_squared_error": ratio(squares, np.ones_like(squares)),
        "teacher_spearman": spearman(estimates.answer, estimates.teacher),
        "teacher_pearson": pearson(estimates.answer, estimates.teacher),
    }


def _joined(pieces: Sequence[Choices]) -> Choices:
    return Choices(*(np.concatenate([getattr(piece, part.name) for piece in pieces]) for part in fields(Choices)))
