"""Objectives on logits as a recipe asks for them, and the plain way to compute them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.signals import DenseLogits
from stillhouse.objectives import BoundObjective, Objective, objective

Where = Literal["targets", "tokens"]
"""At what is to be predicted, or at every real token: a teacher has something to say about each."""


@dataclass(frozen=True)
class Term:
    """One objective of the catalogue that reads logits, and its weight in the total.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """

    name: str
    weight: float = 1.0
    temperature: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)
    where: Where = "targets"

    def __post_init__(self) -> None:
        _ = self.objective  # built at once: a closed form would not say what the objective refuses
        if self.where == "tokens" and _known(self.name).reads_labels:
            raise ValueError(
                f"{self.name} reads labels, which not every token has, but where is tokens. Leave where out: only an objective "
                "that compares with the teacher alone can count everywhere."
            )

    @cached_property
    def objective(self) -> BoundObjective:
        """(student logits, teacher logits or None, target ids) -> one number per token, in nats for most."""
        return _known(self.name).bind(temperature=self.temperature, **self.parameters)

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked."""
        return _known(self.name).reads_teacher


def _known(name: str) -> Objective:
    found = objective(name)
    assert isinstance(found, Objective), f"{name} reads features, not logits"
    return found


def plain_losses(
    student: DenseLogits,
    teacher: DenseLogits | None,
    *,
    terms: Sequence[Term],
    targets: Tensor,
    token_weights: Float[Tensor, "terms answers"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over answers of the weighted terms, and each term's own sum (without its weight, without gradient).

    For the few classes of a classifier, where nothing is gained by taking logits chunk by chunk.
    """
    logits, said = student.dense(), None if teacher is None else teacher.dense()
    sums = weighted_sums(torch.stack([term.objective(logits, said, targets) for term in terms]), token_weights)
    return weighted_total(sums, sums.new_tensor([term.weight for term in terms])), sums.detach()


def weighted_sums(
    values: Float[Tensor, "terms tokens"], weights: Float[Tensor, "terms tokens"]
) -> Float[Tensor, " terms"]:
    """Each term's sum. Where a term has no weight its value is dropped, not multiplied: it may be infinite."""
    return torch.where(weights > 0, values, 0.0).mul(weights).sum(-1)


def weighted_total(sums: Float[Tensor, " terms"], weights: Float[Tensor, " terms"]) -> Float[Tensor, ""]:
    """The loss. A term without a weight is dropped here, too, as a ramp may leave it: its sum may be infinite."""
    return torch.where(weights > 0, sums, 0.0) @ weights
