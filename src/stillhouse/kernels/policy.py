"""Policy gradients: from hidden states and heads to losses, never holding more than a chunk of logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.core.signals import FactoredLogits
from stillhouse.kernels.chunked import chunked_values
from stillhouse.kernels.terms import Term, weighted_sums, weighted_total
from stillhouse.objectives import BoundPolicyObjective, Draws, PolicyObjective, objective

_SURPRISE, _REVERSE_KL = Term("next_token"), Term("reverse_kl")
"""Minus the log-probability of a token; and what is said of all tokens, compared."""


@dataclass(frozen=True)
class PolicyTerm:
    """One objective of the catalogue that learns from draws, and its weight in the total.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """

    name: str
    weight: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.objective

    @cached_property
    def objective(self) -> BoundPolicyObjective:
        """What was drawn -> one number per token."""
        return self._known.bind(**self.parameters)

    @property
    def _known(self) -> PolicyObjective:
        found = objective(self.name)
        assert isinstance(found, PolicyObjective), f"{self.name} does not learn from draws"
        return found

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked: always."""
        return True

    @property
    def reads_distributions(self) -> bool:
        """Whether it reads the whole vocabulary at each token."""
        return self._known.reads_distributions


@dataclass(frozen=True)
class Drawn:
    """The tokens to learn from, as a batch has them: answer after answer."""

    ids: Int[Tensor, " tokens"]
    answers: Int[Tensor, " tokens"]
    """The answer that each belongs to."""
    drawn: Bool[Tensor, " tokens"]
    """Which were drawn at all."""
    logprobs: Float[Tensor, " tokens"]
    """With which probability, in nats."""


def policy_losses(
    student: FactoredLogits,
    teacher: FactoredLogits,
    drawn: Drawn,
    *,
    terms: Sequence[PolicyTerm],
    token_weights: Float[Tensor, " tokens"],
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over tokens of the weighted terms, and each term's own sum (without its weight, without gradient).

    What a token counts for depends on what comes after it, so logits are built once to know that and once for the gradient.
    """
    distributions = any(term.reads_distributions for term in terms)
    draws = _read(student, teacher, drawn, distributions=distributions, chunk_tokens=chunk_tokens)
    values = torch.stack([term.objective(draws) for term in terms])
    sums = weighted_sums(values, token_weights.to(values.dtype).expand_as(values))
    return weighted_total(sums, sums.new_tensor([term.weight for term in terms])), sums.detach()


def _read(
    student: FactoredLogits, teacher: FactoredLogits, drawn: Drawn, *, distributions: bool, chunk_tokens: int | None
) -> Draws:
    """What both sides give the tokens; where distributions are wanted, how far they are apart."""
    terms = [_SURPRISE, _REVERSE_KL] if distributions else [_SURPRISE]
    ours = chunked_values(
        student, teacher if distributions else None, terms=terms, target_ids=drawn.ids, chunk_tokens=chunk_tokens
    )
    with torch.no_grad():
        (theirs,) = chunked_values(teacher, None, terms=[_SURPRISE], target_ids=drawn.ids, chunk_tokens=chunk_tokens)
    said = (drawn.logprobs.to(ours.dtype), drawn.answers, drawn.drawn)
    return Draws(-ours[0], -theirs.to(ours.dtype), *said, ours[1] if distributions else None)
