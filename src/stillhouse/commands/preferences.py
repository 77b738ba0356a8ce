"""Pairs of answers: what a recipe must not say of them, and what is known of each before training."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.students import start
from stillhouse.commands.recipe import Recipe
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.progress import working
from stillhouse.data.preferences import AnswerPair, PreferenceRows, Weighed
from stillhouse.labelling import weigh
from stillhouse.models.adapters import adapter_off
from stillhouse.models.load import (
    check_serves,
    check_weights,
    load_config,
    load_model,
    load_tokenizer,
    vocabulary_fingerprint,
)


def check_scores(parts: Parts) -> None:
    """Refuse data without scores for an objective that learns by how much an answer is better, where no teacher tells.

    Raises:
        DataError: naming the objective.
    """
    reads = [chosen.name for chosen in parts.recipe.objectives if chosen.reads_rewards]
    if not reads or parts.recipe.teacher.reference is not None:
        return
    pairs = _pairs(parts)
    without = sum(pair.scores is None for pair in pairs)
    if without:
        raise DataError(
            f"{reads[0]} learns by how much an answer is better, but {without:,} of {len(pairs):,} pairs have no scores. Give "
            "each 'chosen_score' and 'rejected_score', name what the teacher was before it was tuned (teacher.reference), or "
            "use dpo."
        )


def check_reference(recipe: Recipe) -> None:
    """Refuse a teacher's reference that is not there, or reads other tokens.

    Raises:
        ModelError: naming the key of the recipe.
    """
    source = recipe.teacher.reference
    if source is None:
        return
    check_weights(source)
    check_serves(load_config(source), recipe.task, source=source)
    ours, theirs = (vocabulary_fingerprint(load_tokenizer(name)) for name in (recipe.teacher.model, source))
    if ours != theirs:
        raise ModelError(
            f"teacher.reference {source!r} has another tokenizer than teacher.model, so what the two give an answer cannot be "
            "compared. Name what the teacher was before it was tuned."
        )


def weighed_by(parts: Parts) -> Weighed:
    """What the student before training, and where an objective reads it the teacher, give each answer to learn from. Models are
    loaded one after the other, and none but the teacher stays."""
    pairs, reads_rewards = _pairs(parts), any(chosen.reads_rewards for chosen in parts.recipe.objectives)
    student = start(parts)
    with adapter_off(student):
        reference = _said(parts, student, pairs, "the student before training")
    del student
    source = parts.recipe.teacher.reference
    if source is None or not reads_rewards:
        return Weighed(reference)
    before = load_reference(source)
    ratios = _said(parts, parts.teacher.model, pairs, "the teacher") - _said(parts, before, pairs, "its reference")
    return Weighed(reference, ratios)


def load_reference(source: str) -> PreTrainedModel:
    """What the teacher was before it was tuned."""
    return load_model(source, "causal_lm").model


def _pairs(parts: Parts) -> Sequence[AnswerPair]:
    rows = parts.data.train
    assert isinstance(rows, PreferenceRows)
    return rows.pairs


def _said(parts: Parts, model: PreTrainedModel, pairs: Sequence[AnswerPair], who: str) -> Tensor:
    with working(parts.progress, f"{who} reads the answers", len(pairs), "pairs"):
        return weigh(model, pairs, vocab_size=parts.num_answers, progress=parts.progress)
