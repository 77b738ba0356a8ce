"""Objectives on logits as a recipe asks for them, and the plain way to compute them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.errors import ModelError
from stillhouse.core.signals import DenseLogits, FactoredLogits, SampledTokens, SparseLogprobs
from stillhouse.objectives import BoundObjective, Objective, objective
from stillhouse.objectives.logprobs import at_least_float32
from stillhouse.objectives.sparse import StoredAnswer, in_buckets, refusal, sampled_forward_kl

Where = Literal["targets", "tokens"]
"""At what is to be predicted, or at every real token: a teacher has something to say about each."""

Whose = Literal["all", "student", "teacher", "data"]
"""Whose answers an objective is about: what the student writes while it trains, or what the teacher or the data said before."""

Average = Literal["tokens", "answers"]
"""Whether every token counts alike, or every answer, however long."""

Said = Tensor | SparseLogprobs | SampledTokens | None
"""What a teacher says about some positions, as an objective reads it: logits, a part of them, or nothing."""

TeacherAnswer = FactoredLogits | DenseLogits | SparseLogprobs | SampledTokens | None
"""What a teacher says about all positions, as it comes."""


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
    answers: Whose = "all"
    average: Average = "tokens"

    def __post_init__(self) -> None:
        _ = self.objective  # built at once: a closed form would not say what the objective refuses
        if self.where == "tokens" and _known(self.name).reads_labels:
            raise ValueError(
                f"{self.name} reads labels, which not every token has, but where is tokens. Leave where out: only an objective "
                "that compares with the teacher alone can count everywhere."
            )
        if self.where == "tokens" and (self.answers, self.average) != ("all", "tokens"):
            raise ValueError(
                f"{self.name} counts at all tokens (where: tokens), and answers and average are about answers. Leave where out."
            )

    @cached_property
    def objective(self) -> BoundObjective:
        """(student logits, teacher logits or None, target ids) -> one number per token, in nats for most."""
        return _known(self.name).bind(temperature=self.temperature, **self.parameters)

    @cached_property
    def untempered(self) -> BoundObjective:
        """The same of logits that are softened already, and without the squared temperature."""
        return _known(self.name).bind(**self.parameters)

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher must be asked."""
        return _known(self.name).reads_teacher

    def refusal(self, *, stored: StoredAnswer, temperature: float) -> str | None:
        """Why it cannot be had from answers that were stored so, at this temperature, and what to do; None where it can."""
        return refusal(_known(self.name), temperature=self.temperature, stored=stored, stored_temperature=temperature)

    def values(
        self, logits: Float[Tensor, "tokens vocab"], said: Said, targets: Tensor | None
    ) -> Float[Tensor, " tokens"]:
        """One number per token from whatever the teacher said, the plain way."""
        if isinstance(said, Tensor) or said is None or not self.reads_teacher:
            return self.objective(logits, said if isinstance(said, Tensor) else None, targets)
        softened = at_least_float32(logits) / self.temperature
        if isinstance(said, SampledTokens):
            return self.temperature**2 * sampled_forward_kl(softened, said)
        return self.temperature**2 * self.untempered(*in_buckets(softened, said), targets)


@cache
def _known(name: str) -> Objective:
    found = objective(name)
    assert isinstance(found, Objective), f"{name} reads features, not logits"
    return found


def check_answer(terms: Sequence[Term], answer: TeacherAnswer, *, vocab_size: int) -> None:
    """Raises: ModelError where a term cannot be had from what the teacher said, or that is about other tokens."""
    if answer is None or not any(term.reads_teacher for term in terms):
        return
    if answer.vocab_size != vocab_size:
        raise ModelError(
            f"The teacher speaks of {answer.vocab_size} tokens, but the student of {vocab_size}. Cut both vocabularies to the "
            "tokenizer's size, or store the teacher's answers again with the student's tokenizer."
        )
    if isinstance(answer, FactoredLogits | DenseLogits):
        return
    stored: StoredAnswer = "sparse" if isinstance(answer, SparseLogprobs) else "sampled"
    for term in terms:
        if message := term.refusal(stored=stored, temperature=answer.temperature):
            raise ModelError(message)


def plain_losses(
    student: DenseLogits,
    teacher: DenseLogits | SparseLogprobs | SampledTokens | None,
    *,
    terms: Sequence[Term],
    targets: Tensor,
    token_weights: Float[Tensor, "terms answers"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over answers of the weighted terms, and each term's own sum (without its weight, without gradient).

    For the few classes of a classifier, where nothing is gained by taking logits chunk by chunk.
    """
    check_answer(terms, teacher, vocab_size=student.vocab_size)
    logits, said = student.dense(), teacher.dense() if isinstance(teacher, DenseLogits) else teacher
    sums = weighted_sums(torch.stack([term.values(logits, said, targets) for term in terms]), token_weights)
    return weighted_total(sums, sums.new_tensor([term.weight for term in terms])), sums.detach()


def weighted_sums(
    values: Float[Tensor, "terms tokens"], weights: Float[Tensor, "terms tokens"]
) -> Float[Tensor, " terms"]:
    """Each term's sum. Where a term has no weight its value is dropped, not multiplied: it may be infinite."""
    return torch.where(weights > 0, values, 0.0).mul(weights).sum(-1)


def weighted_total(sums: Float[Tensor, " terms"], weights: Float[Tensor, " terms"]) -> Float[Tensor, ""]:
    """The loss. A term without a weight is dropped here, too, as a ramp may leave it: its sum may be infinite."""
    return torch.where(weights > 0, sums, 0.0) @ weights
