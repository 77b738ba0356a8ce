"""One comparison: every model on the same held-out documents, paired."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.departures import Departures
from stillhouse.core.errors import DataError
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import (
    HEADLINE,
    MOST_COMPARED,
    Comparison,
    ContextResult,
    EvaluationResult,
    Flips,
    HeldOut,
    Interval,
    ModelResult,
    PreferenceResult,
    ReplayResult,
    Retention,
    Role,
    Sample,
    SpeedUp,
    TaughtResult,
)
from stillhouse.core.signals import Pooling
from stillhouse.core.task import Task
from stillhouse.data.examples import Example
from stillhouse.evaluation.answers import Choices, choice_statistics, choose, estimate, estimate_statistics
from stillhouse.evaluation.context import InContext, judge_context
from stillhouse.evaluation.cost import (
    DOCUMENT_REPEATS,
    REPEATS,
    Timing,
    costs,
    speed_ups,
    stand_ins,
    time_encoders,
    time_language_models,
)
from stillhouse.evaluation.departures import answer_departures, language_departures, texts_of
from stillhouse.evaluation.elsewhere import Elsewhere, judge_elsewhere
from stillhouse.evaluation.embeddings import (
    ScoredBatches,
    cosine_statistics,
    embed,
    geometry_statistics,
    pair_statistics,
    similarities,
)
from stillhouse.evaluation.intervals import Sampled, Statistic, bootstrapped, jackknifed
from stillhouse.evaluation.language import DocumentSums, language_statistics, measure, say
from stillhouse.evaluation.paired import flips
from stillhouse.evaluation.preferences import HeldOutPairs, judge_preferences
from stillhouse.evaluation.remembered import Remember, anew
from stillhouse.evaluation.rewards import judge_rewards
from stillhouse.evaluation.statistics import Embeddings
from stillhouse.evaluation.taught import Taught, judge_taught
from stillhouse.models.generate import Sampling, generate

SAMPLE_TOKENS = 60
NEVER_COMPARED = frozenset({"perplexity"})
"""A function of the loss that bits per byte show."""

Sampler = Callable[[Mapping[tuple[Role, str], Statistic]], Mapping[tuple[Role, str], Sampled]]
"""Draws documents for the statistics of every model and metric."""


@dataclass(frozen=True)
class Contestant:
    """A model to be judged: loaded, with the folder of its weights."""

    role: Role
    name: str
    model: PreTrainedModel
    folder: Path


@dataclass(frozen=True)
class OwnTokens:
    """The held-out documents as one model reads them, one by one and piece by piece the same text as the others do."""

    examples: Sequence[Example]
    tokenizer: PreTrainedTokenizerBase


NOBODY: Mapping[Role, OwnTokens] = {}
NO_BATCHES: Mapping[Role, Sequence[Batch]] = {}
NO_FLIPS: Mapping[Role, Flips] = {}


@dataclass(frozen=True)
class OwnSentences:
    """The held-out sentences and pairs as one model reads them, and how it makes an embedding of its token states."""

    batches: Sequence[Batch]
    pooling: Pooling
    pairs: Sequence[ScoredBatches] = ()


NO_SENTENCES: Mapping[Role, OwnSentences] = {}


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
        teacher = self.sampled["teacher"].get(metric) if "teacher" in self.sampled else None
        if teacher is None or not teacher.interval().low > 0:
            return []
        return [
            Retention(role, metric, found[metric].share_of(teacher).interval())
            for role, found in self.sampled.items()
            if role != "teacher" and metric in found
        ]


def judgement(statistics: Mapping[Role, Mapping[str, Statistic]], sample: Sampler) -> Judgement:
    """Every statistic of every model over the same draws."""
    named = {(role, name): statistic for role, own in statistics.items() for name, statistic in own.items()}
    sampled = sample(named)
    return Judgement({role: {name: sampled[role, name] for name in own} for role, own in statistics.items()})


def drawn_from(*set_sizes: int) -> Sampler:
    """Documents drawn with replacement, each set of them within itself."""
    return partial(bootstrapped, set_sizes=set_sizes)


def evaluate(
    contestants: Sequence[Contestant],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_samples: int = 3,
    teacher_reads: OwnTokens | None = None,
    in_context: InContext | None = None,
    elsewhere: Elsewhere | None = None,
    preferences: HeldOutPairs | None = None,
    taught: Taught | None = None,
    others_read: Mapping[Role, OwnTokens] = NOBODY,
    remember: Remember = anew,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure causal language models on the same examples. One must be the teacher, and one the student.

    A teacher that is not here is none of them: nothing compares with what it would say of the examples, and what it was
    `taught` by, its answers, is measured beside.

    `in_context`, the teacher reads more than the others, who are compared with what it then says; and everyone is measured
    with the context and without.

    A teacher with another tokenizer `teacher_reads` the same documents in its own tokens. Then bits per byte is all that is
    said of it: what counts tokens is told of the others alone, and nothing compares token by token. So it is with
    `others_read`, of models that share their tokens with nobody here.

    Documents of other data, which are `elsewhere`, show what was forgotten.
    With `preferences`, everyone is asked which of two answers it prefers; the examples are then the chosen ones.
    """
    models = _models(contestants)
    own_tokens: dict[Role, OwnTokens] = {**others_read}
    if teacher_reads is not None:
        own_tokens["teacher"] = teacher_reads
    sums = _document_sums(models, examples, len(tokenizer), own_tokens, in_context, remember, progress)
    statistics = {role: language_statistics(own) for role, own in sums.items()}
    if teacher_reads is not None or taught is not None:
        statistics = {role: _beside_other_tokens(own) for role, own in statistics.items()}
    statistics = {role: _in_own_tokens(own) if role in own_tokens else own for role, own in statistics.items()}
    departures = None
    if teacher_reads is None and in_context is None and taught is None:
        student = sums["student"]
        departures = language_departures(
            models["student"],
            models["teacher"],
            examples,
            tokenizer,
            kl_nats=student.kl_nats,
            tokens=student.tokens,
            agreements=student.agreements,
        )
    context = None
    if in_context is not None:
        context = judge_context(models, in_context, vocab_size=len(tokenizer), progress=progress)
        own_tokens["teacher"] = OwnTokens(in_context.teacher_reads, tokenizer)  # in the same tokens
    text = sums["student"]
    judgements, pairs, replay = [judgement(statistics, drawn_from(len(text.tokens)))], None, None
    if elsewhere is not None:
        replay = judge_elsewhere(models, elsewhere, vocab_size=len(tokenizer), progress=progress)
    if preferences is not None:
        found = judge_preferences(models, preferences, vocab_size=len(tokenizer), progress=progress)
        judgements.append(judgement(found.accuracies, drawn_from(found.num_prompts)))
        pairs = found.result
    beside, samples = (None, []) if taught is None else judge_taught(models, taught, tokenizer, progress=progress)
    with working(progress, "timing", len(set(stand_ins(models).values())) * (REPEATS + 1), "runs"):
        timings = time_language_models(models, progress=progress)
    return _result(
        contestants,
        judgements,
        timings,
        cut_otherwise=[*others_read],
        task="causal_lm",
        held_out=HeldOut(len(text.tokens), int(text.tokens.sum()), int(text.bytes.sum())),
        samples=samples[:num_samples] or _samples(models, examples[:num_samples], tokenizer, own_tokens),
        departures=departures,
        teacher_tokens=None if teacher_reads is None or in_context else int(sums["teacher"].tokens.sum()),
        context=context,
        replay=replay,
        preferences=pairs,
        taught=beside,
    )


def _document_sums(
    models: Mapping[Role, PreTrainedModel],
    examples: Sequence[Example],
    vocab_size: int,
    own_tokens: Mapping[Role, OwnTokens],
    in_context: InContext | None,
    remember: Remember,
    progress: Progress,
) -> dict[Role, DocumentSums]:
    """Every model's sums over the documents, in its own tokens, or the teacher's with its context, where these are others."""
    told = examples if in_context is None else in_context.teacher_reads
    is_beside = "teacher" in models and "teacher" not in own_tokens
    says = cache(lambda: say(models["teacher"], told, vocab_size=vocab_size))

    def sums_of(role: Role) -> dict[str, NDArray[np.float64]]:
        own, size = told if role == "teacher" else examples, vocab_size
        if role in own_tokens:
            own, size = own_tokens[role].examples, len(own_tokens[role].tokenizer)
        beside = says() if is_beside and role not in own_tokens else None
        return vars(measure(models[role], own, beside, vocab_size=size, progress=progress))

    with working(progress, "predicting held-out text", len(examples) * len(models), "documents"):
        found = {role: DocumentSums(**remember("language", role, partial(sums_of, role))) for role in models}
    if len(sizes := {len(sums.tokens) for sums in found.values()}) > 1:
        raise DataError(
            f"the models do not read equally many of the documents ({min(sizes)} and {max(sizes)}): some are too short to "
            "predict anything in the tokens of one of them. Give longer documents."
        )
    return found


def _beside_other_tokens(statistics: Mapping[str, Statistic]) -> dict[str, Statistic]:
    """What may be said of a model whose teacher counts other tokens."""
    return {name: own for name, own in statistics.items() if name not in ("forward_kl", "top1_agreement")}


def _in_own_tokens(statistics: Mapping[str, Statistic]) -> dict[str, Statistic]:
    """What may be said of a model beside others that count other tokens."""
    return {name: own for name, own in statistics.items() if name == "bits_per_byte"}


def evaluate_encoders(
    contestants: Sequence[Contestant],
    batches: Sequence[Batch],
    *,
    task: Task,
    vocab_size: int | None = None,
    tags: Sequence[str] = (),
    documents: Sequence[int] = (),
    own_batches: Mapping[Role, Sequence[Batch]] = NO_BATCHES,
    tokenizer: PreTrainedTokenizerBase | None = None,
    labels: Sequence[str] = (),
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure masked language models, classifiers, taggers or regressors on the same batches.

    One must be the teacher, and one the student. Of a masked language model, `vocab_size` is how many tokens its
    tokenizer has; of a tagger, `tags` are the names of its tags. `documents` says to which document each row belongs,
    where long ones were cut; without it, every row is one. A model with a tokenizer of its own reads its `own_batches`, with
    as many rows and answers as the others. With the `tokenizer` of the batches and the names of the `labels`, the texts in
    which a classifier departs most from its teacher are told.

    Raises:
        DataError: if nothing in the batches carries weight.
    """
    models, judged = _models(contestants), sum(len(batch.targets) for batch in batches)
    if judged == 0:
        raise DataError(
            "no held-out answer carries weight, so there is nothing to judge by. Hold out more: data.held_out."
        )
    with working(progress, "reading held-out text", _num_rows(batches) * len(models), "documents"):
        statistics, num_documents, choices = _judge(
            models,
            {role: own_batches.get(role, batches) for role in models},
            task=task,
            vocab_size=vocab_size,
            tags=tags,
            documents=documents,
            progress=progress,
        )
    num_tokens = sum(int(batch.real.sum()) for batch in batches)
    per_token = task in ("masked_lm", "token_classification")
    return _result(
        contestants,
        [judgement(statistics, drawn_from(num_documents))],
        _time(models, batches, progress, own_batches),
        task=task,
        held_out=HeldOut(num_documents, num_tokens, answers=judged if per_token else None),
        departures=None
        if tokenizer is None or task != "sequence_classification"
        else answer_departures(choices["student"], choices["teacher"], texts_of(batches, tokenizer), labels),
        changed=_flips(choices) if task == "sequence_classification" else {},
    )


def _flips(choices: Mapping[Role, Choices]) -> dict[Role, Flips]:
    """Which documents a classifier has right and its teacher wrong, and the other way round."""
    hits = {role: (own.chosen == own.target).astype(np.float64) for role, own in choices.items()}
    return {role: flips(teacher=hits["teacher"], model=own) for role, own in hits.items() if role != "teacher"}


def evaluate_rewards(
    contestants: Sequence[Contestant],
    batches: Sequence[Batch],
    *,
    prompts: Sequence[int],
    answer_tokens: NDArray[np.float64],
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure reward models on the same pairs of answers. One must be the teacher, and one the student.

    `prompts` says to which prompt each pair belongs: pairs of one are drawn together. `answer_tokens` are [pairs, 2], those of
    the chosen answer and of the other.
    """
    models = _models(contestants)
    with working(progress, "rewarding held-out answers", _num_rows(batches) * len(models), "answers"):
        statistics, pairs = judge_rewards(
            models, batches, prompts=prompts, answer_tokens=answer_tokens, progress=progress
        )
    return _result(
        contestants,
        [judgement(statistics, drawn_from(pairs.prompts))],
        _time(models, batches, progress),
        task="reward",
        held_out=HeldOut(pairs.prompts, sum(int(batch.real.sum()) for batch in batches), answers=pairs.pairs),
        preferences=pairs,
    )


def _judge(
    models: Mapping[Role, PreTrainedModel],
    batches: Mapping[Role, Sequence[Batch]],
    *,
    task: Task,
    vocab_size: int | None,
    tags: Sequence[str],
    documents: Sequence[int],
    progress: Progress,
) -> tuple[dict[Role, dict[str, Statistic]], int, Mapping[Role, Choices]]:
    """Every model's statistics, over how many documents they are, and what was chosen, where there was a choice."""
    if task == "regression":
        estimates = estimate(models, batches, progress=progress)
        statistics = {role: estimate_statistics(found) for role, found in estimates.items()}
        return statistics, len(estimates["teacher"].target), {}
    choices = choose(models, batches, task=task, vocab_size=vocab_size, documents=documents, progress=progress)
    statistics = {role: choice_statistics(found, task=task, tags=tags) for role, found in choices.items()}
    return statistics, len(np.unique(choices["teacher"].document)), choices


def evaluate_embeddings(
    contestants: Sequence[Contestant],
    batches: Sequence[Batch],
    *,
    pooling: Pooling,
    pairs: Sequence[ScoredBatches] = (),
    own_sentences: Mapping[Role, OwnSentences] = NO_SENTENCES,
    progress: Progress = SILENT,
) -> EvaluationResult:
    """Measure sentence embeddings: on held-out sentences beside the teacher's, and on scored pairs, where there are any.

    One must be the teacher, and one the student. Of several sets of pairs the mean is the headline. A model with a tokenizer
    or a pooling of its own reads its `own_sentences`.

    Raises:
        DataError: if there is not one score a pair.
    """
    for chosen in pairs:
        _check_scores(chosen)
    models = _models(contestants)
    num_pairs, num_sentences = sum(len(chosen.scores) for chosen in pairs), _num_rows(batches)
    with working(progress, "embedding", (num_sentences + 2 * num_pairs) * len(models), "sentences"):
        shared = OwnSentences(batches, pooling, pairs)
        reads = {role: own_sentences.get(role, shared) for role in models}
        own = {
            role: embed(models[role], one.batches, pooling=one.pooling, progress=progress)
            for role, one in reads.items()
        }
        cosines = {
            role: similarities(models[role], one.pairs, pooling=one.pooling, progress=progress)
            for role, one in reads.items()
        }
    order = {role: pair_statistics(found, cosines["teacher"], pairs) for role, found in cosines.items()}
    return _result(
        contestants,
        [*([judgement(order, drawn_from(*map(len, cosines["teacher"])))] if pairs else []), *_beside_teacher(own)],
        _time(models, batches, progress, {role: one.batches for role, one in own_sentences.items()}),
        task="sentence_embedding",
        held_out=HeldOut(
            num_sentences, sum(int(batch.real.sum()) for batch in batches), answers=num_pairs if pairs else None
        ),
    )


def _beside_teacher(embeddings: Mapping[Role, Embeddings]) -> list[Judgement]:
    """How near the embeddings of the held-out sentences are to the teacher's, and how alike their geometry."""
    teacher = embeddings["teacher"]
    cosines = {role: cosine_statistics(found, teacher) for role, found in embeddings.items()}
    geometry = {role: geometry_statistics(found, teacher) for role, found in embeddings.items()}
    return [
        judgement(cosines, drawn_from(len(teacher))),
        judgement(geometry, partial(jackknifed, num_documents=min(len(teacher), MOST_COMPARED))),
    ]


def _check_scores(pairs: ScoredBatches) -> None:
    num_first, num_second, num_scores = _num_rows(pairs.first), _num_rows(pairs.second), len(pairs.scores)
    if not num_first == num_second == num_scores > 0:
        raise DataError(
            f"pairs of sentences are scored one by one, but {pairs.name} has {num_first} first sentences, {num_second} "
            f"second ones and {num_scores} scores. Give each pair a score."
        )


def _time(
    models: Mapping[Role, PreTrainedModel],
    batches: Sequence[Batch],
    progress: Progress,
    own_batches: Mapping[Role, Sequence[Batch]] = NO_BATCHES,
) -> Mapping[Role, Timing]:
    num_timed = len(models) if own_batches else len(set(stand_ins(models).values()))
    with working(progress, "timing", num_timed * (DOCUMENT_REPEATS + 1), "runs"):
        return time_encoders(models, batches, own_batches=own_batches, progress=progress)


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
    cut_otherwise: Sequence[Role] = (),
    samples: Sequence[Sample] = (),
    teacher_tokens: int | None = None,
    context: ContextResult | None = None,
    replay: ReplayResult | None = None,
    preferences: PreferenceResult | None = None,
    taught: TaughtResult | None = None,
    departures: Departures | None = None,
    changed: Mapping[Role, Flips] = NO_FLIPS,
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
        retentions=[
            row
            for judgement in judgements
            for row in judgement.retentions(HEADLINE[task] if preferences is None else "preference_accuracy")
        ],
        # A ratio of tokens a second says nothing of two models whose tokens nobody has counted beside each other.
        speeds=_for_text(
            [one for one in speed_ups(timings) if one.role not in cut_otherwise],
            student_tokens=held_out.tokens,
            teacher_tokens=teacher_tokens,
        ),
        teacher_tokens=teacher_tokens,
        context=context,
        replay=replay,
        preferences=preferences,
        taught=taught,
        departures=departures,
        flips=changed,
    )


def _for_text(speeds: Sequence[SpeedUp], *, student_tokens: int, teacher_tokens: int | None) -> list[SpeedUp]:
    """Ratios of tokens a second as ratios of text a second, where the teacher's tokens are others."""
    share = 1.0 if teacher_tokens is None else teacher_tokens / student_tokens
    scaled = (Interval(*(share * bound for bound in astuple(speed.ratio))) for speed in speeds)
    return [replace(speed, ratio=ratio) for speed, ratio in zip(speeds, scaled, strict=True)]


def _samples(
    models: Mapping[Role, PreTrainedModel],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    own_tokens: Mapping[Role, OwnTokens] = NOBODY,
) -> list[Sample]:
    """What each model writes, greedily, where the judged text of each example begins."""
    sides = dict.fromkeys(models, OwnTokens(examples, tokenizer))
    sides |= {role: OwnTokens(own.examples[: len(examples)], own.tokenizer) for role, own in own_tokens.items()}
    written = {role: _written(model, sides[role]) for role, model in models.items()}
    return [
        Sample(_decoded(tokenizer, _beginning(example)), {role: texts[number] for role, texts in written.items()})
        for number, example in enumerate(examples)
    ]


def _written(model: PreTrainedModel, reads: OwnTokens) -> list[str]:
    """One model's continuations."""
    prompts = [_beginning(example) for example in reads.examples]
    greedy = Sampling(temperature=0, max_new_tokens=SAMPLE_TOKENS)
    return [_decoded(reads.tokenizer, ids) for ids in generate(model, prompts, sampling=greedy, seed=0)]


def _beginning(example: Example) -> tuple[int, ...]:
    return example.ids[: _first_judged(example)]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _first_judged(example: Example) -> int:
    return next(position for position, weight in enumerate(example.weights) if weight > 0)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor(about: Path = Path("/proc/cpuinfo")) -> str:
    """Its name where the system tells it, else its kind."""
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())
