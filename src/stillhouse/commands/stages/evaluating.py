"""A stage: teacher, student, student before training and controls on the held-out data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.held_out import (
    batches_of,
    held_out_batches,
    held_out_elsewhere,
    held_out_examples,
    held_out_in_context,
    held_out_in_other_tokens,
)
from stillhouse.commands.parts.students import saved
from stillhouse.commands.preferences import load_reference
from stillhouse.commands.stages.asking import taught_by
from stillhouse.commands.stages.contamination import contamination
from stillhouse.commands.stages.grounded_answers import judge_answers
from stillhouse.commands.stages.grounding import is_rag
from stillhouse.commands.stages.suites import measure_suites
from stillhouse.commands.stages.training import control_roles, train, train_controls
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.grounded_results import grounded_result
from stillhouse.core.results import EvaluationResult, Role
from stillhouse.core.task import Task
from stillhouse.data.preferences import PreferenceRows
from stillhouse.data.rewards import RewardRows
from stillhouse.evaluation import (
    Contestant,
    ScoredBatches,
    Taught,
    evaluate_embeddings,
    evaluate_encoders,
    evaluate_rewards,
)
from stillhouse.evaluation import evaluate as evaluate_language_models
from stillhouse.evaluation.preferences import HeldOutPairs
from stillhouse.evaluation.suites import SUITES
from stillhouse.models.load import display_name
from stillhouse.teachers.remote_config import UNSEEN


def evaluate(shop: Workshop) -> EvaluationResult:
    """Teacher, student, student before training and controls on the held-out data."""
    train(shop)
    train_controls(shop)
    contamination(shop, made_from=everything(shop))

    def work() -> dict[str, Any]:
        models = contestants(shop)
        result = _judged(shop, models)
        answers = {"grounded": judge_answers(shop, models)} if is_rag(shop) else {}
        shop.metrics.evaluation(result)
        if answers:
            shop.metrics.numbers("grounded", grounded_result(answers["grounded"]).numbers())
        shop.run.forget("report")
        return {"result": result.to_dict(), **answers}

    done = shop.once("evaluate", "everyone is measured", made_from=everything(shop), work=work)
    suites = measure_suites(shop, partial(contestants, shop), made_from=everything(shop))
    return replace(EvaluationResult.from_dict(done["result"]), suites=suites)


def _judged(shop: Workshop, models: list[Contestant]) -> EvaluationResult:
    remote = shop.parts.remote
    if remote is not None:
        return _judge_language_models(shop.parts, models, taught=taught_by(shop, remote))
    return JUDGES[shop.recipe.task](shop.parts, models)


def everything(shop: Workshop) -> list[Any]:
    """The data, and all of the recipe but where it is at work, what it asks for in suites, which have their own
    stages, and what is drawn of training."""
    suites = {"suites", "curves", *SUITES}
    return [
        shop.parts.data_fingerprint,
        shop.parts.student_fingerprint,
        shop.recipe.model_dump(
            mode="json",
            exclude={
                "run": True,
                "report_to": True,
                "synthesis": {"writer"},
                "teacher": set(UNSEEN),
                "evaluation": suites,
            },
        ),
    ]


def contestants(shop: Workshop) -> list[Contestant]:
    """Whoever is measured: the teacher first, the student last."""
    roles: tuple[Role, ...] = ("student_before", *control_roles(shop.recipe), "student")
    own = [Contestant(role, role, saved(shop.parts, role), shop.run.path / role) for role in roles]
    if shop.parts.remote is not None:
        return own
    teacher, name = shop.parts.teacher, display_name(shop.recipe.teacher.model)
    return [Contestant("teacher", name, teacher.model, teacher.folder), *own]


# Who judges: one function for each kind of answer. What is measured of language models besides has its line in the first.


def _judge_language_models(parts: Parts, models: list[Contestant], *, taught: Taught | None = None) -> EvaluationResult:
    return evaluate_language_models(
        models,
        held_out_examples(parts),
        parts.tokenizer,
        num_samples=parts.recipe.evaluation.samples,
        teacher_reads=held_out_in_other_tokens(parts),
        in_context=held_out_in_context(parts),
        elsewhere=held_out_elsewhere(parts),
        preferences=_held_out_pairs(parts),
        taught=taught,
        progress=parts.progress,
    )


def _held_out_pairs(parts: Parts) -> HeldOutPairs | None:
    """The pairs held out, and what tells the teacher's own rewards; None for other data."""
    rows, source = parts.data.held_out, parts.recipe.teacher.reference
    if not isinstance(rows, PreferenceRows):
        return None
    return HeldOutPairs(rows.pairs, None if source is None else partial(load_reference, source))


def _judge_embeddings(parts: Parts, models: list[Contestant]) -> EvaluationResult:
    assert parts.pooling is not None
    pairs = [
        ScoredBatches(found.name, batches_of(found.first), batches_of(found.second), found.scores)
        for found in parts.data.pairs
    ]
    held_out = held_out_batches(parts)
    return evaluate_embeddings(models, held_out, pooling=parts.pooling, pairs=pairs, progress=parts.progress)


def _judge_encoders(parts: Parts, models: list[Contestant]) -> EvaluationResult:
    task = parts.recipe.task
    return evaluate_encoders(
        models,
        held_out_batches(parts),
        task=task,
        vocab_size=parts.num_answers if task == "masked_lm" else None,
        tags=parts.data.labels if task == "token_classification" else (),
        documents=parts.data.held_out_documents,
        tokenizer=parts.tokenizer,
        labels=parts.data.labels,
        progress=parts.progress,
    )


def _judge_rewards(parts: Parts, models: list[Contestant]) -> EvaluationResult:
    rows = parts.data.held_out
    assert isinstance(rows, RewardRows)
    lengths = np.array([[side.answer_tokens for side in pair.sides] for pair in rows.pairs], dtype=float)
    return evaluate_rewards(
        models, held_out_batches(parts), prompts=rows.prompt_numbers, answer_tokens=lengths, progress=parts.progress
    )


JUDGES: Mapping[Task, Callable[[Parts, list[Contestant]], EvaluationResult]] = {
    "causal_lm": _judge_language_models,
    "sentence_embedding": _judge_embeddings,
    "masked_lm": _judge_encoders,
    "sequence_classification": _judge_encoders,
    "token_classification": _judge_encoders,
    "regression": _judge_encoders,
    "reward": _judge_rewards,
}
