"""Pairs of answers: from hidden states and heads to losses, never holding more than a chunk of logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.chunked import chunked_values
from stillhouse.kernels.terms import Term, weighted_total
from stillhouse.objectives import AnswerPairs, BoundPreferenceObjective, PreferenceObjective, objective

_SURPRISE = Term("next_token")
"""Minus the log-probability of a token."""


@dataclass(frozen=True)
class PreferenceTerm:
    """One objective of the catalogue that learns from pairs of answers, and its weight in the total.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """

    name: str
    weight: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.objective

    @cached_property
    def objective(self) -> BoundPreferenceObjective:
        """Pairs of answers -> one number per pair."""
        found = objective(self.name)
        assert isinstance(found, PreferenceObjective), f"{self.name} does not learn from pairs of answers"
        return found.bind(**self.parameters)

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked in a step: never, what it thinks of whole answers is found before."""
        return False


@dataclass(frozen=True)
class Known:
    """What is known of each answer before the student is asked: the chosen one's number, then the rejected one's."""

    reference_logprobs: Float[Tensor, " answers"]
    teacher_ratios: Float[Tensor, " answers"] | None = None
    scores: Float[Tensor, " answers"] | None = None


def answer_logprobs(
    student: FactoredLogits,
    ids: Int[Tensor, " tokens"],
    answers: Int[Tensor, " tokens"],
    *,
    num_answers: int,
    chunk_tokens: int | None = None,
) -> Float[Tensor, " answers"]:
    """How likely the student finds each answer, in nats: the sum over its tokens. `answers` says whose each token is.

    Logits are built a chunk at a time, and once more when a gradient is asked for, with what each answer then counts for.
    """
    (surprise,) = chunked_values(student, None, terms=[_SURPRISE], target_ids=ids, chunk_tokens=chunk_tokens)
    return surprise.new_zeros(num_answers).index_add(0, answers, -surprise)


def preference_losses(
    student: FactoredLogits,
    ids: Int[Tensor, " tokens"],
    answers: Int[Tensor, " tokens"],
    known: Known,
    *,
    terms: Sequence[PreferenceTerm],
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over pairs of the weighted terms, and each term's own sum (without its weight, without gradient)."""
    num_answers = len(known.reference_logprobs)
    said = answer_logprobs(student, ids, answers, num_answers=num_answers, chunk_tokens=chunk_tokens)

    def paired(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(said.dtype).view(-1, 2)

    reference = known.reference_logprobs.to(said.dtype)
    pairs = AnswerPairs(said.view(-1, 2), reference.view(-1, 2), paired(known.teacher_ratios), paired(known.scores))
    sums = torch.stack([term.objective(pairs).sum() for term in terms])
    return weighted_total(sums, sums.new_tensor([term.weight for term in terms])), sums.detach()
