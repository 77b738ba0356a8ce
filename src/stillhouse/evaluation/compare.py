"""One comparison: every model on the same held-out documents, paired."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.errors import DataError
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import (
    HEADLINE,
    Comparison,
    EvaluationResult,
    HeldOut,
    Interval,
    ModelResult,
    Retention,
    Role,
    Sample,
)
from stillhouse.core.signals import Pooling
from stillhouse.core.task import Task
from stillhouse.data.examples import Example
from stillhouse.evaluation.answers import choice_statistics, choose, estimate, estimate_statistics
from stillhouse.evaluation.cost import (
    DOCUMENT_REPEATS,
    REPEATS,
    Timing,
    costs,
    speed_ups,
    time_encoders,
    time_language_models,
)
from stillhouse.evaluation.embeddings import MOST_COMPARED, embed_pairs, embedding_statistics, geometry_statistics
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, jackknifed
from stillhouse.evaluation.language import DocumentSums, language_statistics, measure, say
from stillhouse.models.generate import Sampling, generate

SAMPLE_TOKENS = 60
NEVER_COMPARED = frozenset({"perplexity"})
"""A function of the loss that bits per byte show."""


@dataclass(frozen=True)
class Contestant:
    """A model to be judged: loaded, with the folder of its weights."""

    role: Role
    name: str
    model: PreTrainedModel
    folder: Path


@dataclass(frozen=True)
class Judgement:
    """What every model is worth over the same draws of the same documents."""

    sampled: Mapping[Role, Mapping[str, Sampled]]

    def metrics(self, role: Role) -> dict[str, Interval]:
        """One model's metrics."""
        return {name: found.interval() for name, found in self.sampled[role].items()}

    def comparisons(self) -> list[Comparison]:
        """The student minus each other model, on every metric that both have."""
        student = self.sampled["student"]
        return [
            Comparison(metric, other, found.minus(theirs[metric]).interval())
            for other, theirs in self.sampled.items()
            if other != "student"
            for metric, found in student.items()
            if metric in theirs and metric not in NEVER_COMPARED
        ]

    def retentions(self, metric: str) -> list[Retention]:
        """Each model's share of the teacher's performance; none where the teacher may have nothing to keep."""
        teacher = self.sampled["teacher"][metric]
        if not teacher.interval().low > 0:
            return []
        return [
            Retention(role, metric, found[metric].share_of(teacher).interval())
            for role, found in self.sampled.items()
            if role != "teacher"
        ]


def judgement(
    statistics: Mapping[Role, Mapping[str, Statistic]],
    *,
    num_documents: int,
    sample: Callable[..., Sampled] = bootstrapped,
) -> Judgement:
    """Every statistic of every model over the same draws."""
    return Judgement(
        {
            role: {name: sample(statistic, num_documents=num_documents) for name, statistic in own.items()}
            for role, own in statistics.items()
        }
    )


def evaluate(
    contestants: Sequence[Contestant],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_samples: int = 3,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure causal language models on the same examples. One must be the teacher, and one the student."""
    models = _models(contestants)
    vocab_size = len(tokenizer)
    says = say(models["teacher"], examples, vocab_size=vocab_size)
    sums: dict[Role, DocumentSums] = {}
    with working(progress, "predicting held-out text", len(examples) * len(models), "documents"):
        for role, model in models.items():
            sums[role] = measure(model, examples, says, vocab_size=vocab_size, progress=progress)
    with working(progress, "timing", len(models) * (REPEATS + 1), "runs"):
        timings = time_language_models(models, progress=progress)
    text = sums["teacher"]
    return _result(
        contestants,
        [judgement({role: language_statistics(own) for role, own in sums.items()}, num_documents=len(text.tokens))],
        timings,
        task="causal_lm",
        held_out=HeldOut(len(text.tokens), int(text.tokens.sum()), int(text.bytes.sum())),
        samples=_samples(models, examples[:num_samples], tokenizer),
    )


def evaluate_encoders(
    contestants: Sequence[Contestant],
    batches: Sequence[Batch],
    *,
    task: Task,
    vocab_size: int | None = None,
    tags: Sequence[str] = (),
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure masked language models, classifiers, taggers or regressors on the same batches, a document a row.

    One must be the teacher, and one the student. Of a masked language model, `vocab_size` is how many tokens its
    tokenizer has; of a tagger, `tags` are the names of its tags.

    Raises:
        DataError: if nothing in the batches carries weight.
    """
    models, judged = _models(contestants), sum(len(batch.targets) for batch in batches)
    if judged == 0:
        raise DataError(
            "no held-out answer carries weight, so there is nothing to judge by. Hold out more: data.held_out."
        )
    with working(progress, "reading held-out text", _num_rows(batches) * len(models), "documents"):
        statistics, num_documents = _judge(
            models, batches, task=task, vocab_size=vocab_size, tags=tags, progress=progress
        )
    num_tokens = sum(int(batch.real.sum()) for batch in batches)
    per_token = task in ("masked_lm", "token_classification")
    return _result(
        contestants,
        [judgement(statistics, num_documents=num_documents)],
        _time(models, batches, progress),
        task=task,
        held_out=HeldOut(num_documents, num_tokens, answers=judged if per_token else None),
    )


def _judge(
    models: Mapping[Role, PreTrainedModel],
    batches: Sequence[Batch],
    *,
    task: Task,
    vocab_size: int | None,
    tags: Sequence[str],
    progress: Progress,
) -> tuple[dict[Role, dict[str, Statistic]], int]:
    """Every model's statistics, and over how many documents they are."""
    if task == "regression":
        estimates = estimate(models, batches, progress=progress)
        statistics = {role: estimate_statistics(found) for role, found in estimates.items()}
        return statistics, len(estimates["teacher"].target)
    choices = choose(models, batches, vocab_size=vocab_size, progress=progress)
    statistics = {role: choice_statistics(found, task=task, tags=tags) for role, found in choices.items()}
    return statistics, len(np.unique(choices["teacher"].document))


def evaluate_sentences(
    contestants: Sequence[Contestant],
    first: Sequence[Batch],
    second: Sequence[Batch],
    scores: Sequence[float],
    *,
    pooling: Pooling,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure sentence embeddings on pairs of sentences with gold scores: the rows of `first` and `second`, in order.

    One must be the teacher, and one the student.

    Raises:
        DataError: if there is not one score a pair.
    """
    if not len(scores) == _num_rows(first) == _num_rows(second) > 0:
        counts = f"{_num_rows(first)} first sentences, {_num_rows(second)} second ones and {len(scores)} scores"
        raise DataError(f"sentence pairs are scored one by one, but {counts} came. Give each pair a score.")
    models, gold = _models(contestants), np.asarray(scores, dtype=np.float64)
    with working(progress, "embedding held-out sentences", 2 * len(gold) * len(models), "sentences"):
        pairs = {
            role: embed_pairs(model, first, second, pooling=pooling, progress=progress)
            for role, model in models.items()
        }
    order = {role: embedding_statistics(own, pairs["teacher"], gold) for role, own in pairs.items()}
    geometry = {role: geometry_statistics(own, pairs["teacher"]) for role, own in pairs.items()}
    return _result(
        contestants,
        [
            judgement(order, num_documents=len(gold)),
            judgement(geometry, num_documents=min(len(gold), MOST_COMPARED), sample=jackknifed),
        ],
        _time(models, first, progress),
        task="sentence_embedding",
        held_out=HeldOut(len(gold), sum(int(batch.real.sum()) for batch in [*first, *second])),
    )


def _time(
    models: Mapping[Role, PreTrainedModel], batches: Sequence[Batch], progress: Progress
) -> Mapping[Role, Timing]:
    with working(progress, "timing", len(models) * (DOCUMENT_REPEATS + 1), "runs"):
        return time_encoders(models, batches, progress=progress)


def _models(contestants: Sequence[Contestant]) -> dict[Role, PreTrainedModel]:
    return {contestant.role: contestant.model for contestant in contestants}


def _num_rows(batches: Sequence[Batch]) -> int:
    return sum(len(batch.ids) for batch in batches)


def _result(
    contestants: Sequence[Contestant],
    judgements: Sequence[Judgement],
    timings: Mapping[Role, Timing],
    *,
    task: Task,
    held_out: HeldOut,
    samples: Sequence[Sample] = (),
) -> EvaluationResult:
    folders = {contestant.role: contestant.folder for contestant in contestants}
    priced = costs(_models(contestants), folders, timings)

    def metrics(role: Role) -> dict[str, Interval]:
        return {name: found for judgement in judgements for name, found in judgement.metrics(role).items()}

    return EvaluationResult(
        held_out=held_out,
        models=[ModelResult(c.role, c.name, metrics(c.role), priced[c.role]) for c in contestants],
        comparisons=[row for judgement in judgements for row in judgement.comparisons()],
        samples=list(samples),
        machine=machine(),
        task=task,
        retentions=judgements[0].retentions(HEADLINE[task]),
        speeds=speed_ups(timings),
    )


def _samples(
    models: Mapping[Role, PreTrainedModel], examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[Sample]:
    """What each model writes, greedily, where the judged text of each example begins."""
    prompts = [example.ids[: _first_judged(example)] for example in examples]
    greedy = Sampling(temperature=0, max_new_tokens=SAMPLE_TOKENS)
    written = {role: generate(model, prompts, sampling=greedy, seed=0) for role, model in models.items()}

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return [
        Sample(decode(prompt), {role: decode(texts[number]) for role, texts in written.items()})
        for number, prompt in enumerate(prompts)
    ]


def _first_judged(example: Example) -> int:
    return next(position for position, weight in enumerate(example.weights) if weight > 0)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
