"""One side's last states in the other side's space: what both say there, by one head."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.objectives.divergences import check_temperature, forward_kl, tempered
from stillhouse.objectives.supervised import cross_entropy


def dual_space_student(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    target_ids: Int[Tensor, " tokens"],
    is_learnt: Bool[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " tokens"]:
    """In the student's space, per token, in nats: the teacher's states, mapped there and read by the student's head, learn the
    target, and the student learns what they say where `is_learnt`, times the temperature's square.

    Source: Zhang et al., 2024, arXiv:2406.17328, section 3.
    """
    check_temperature(temperature)
    said = tempered(forward_kl, temperature)(student_logits, teacher_logits.detach())
    return cross_entropy(teacher_logits, target_ids) + said.masked_fill(~is_learnt, 0.0)


def dual_space_teacher(
    student_logits: Float[Tensor, "tokens vocab"],
    teacher_logits: Float[Tensor, "tokens vocab"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " tokens"]:
    """In the teacher's space, per token, in nats: KL(teacher || student's states, mapped there and read by the teacher's head),
    times the temperature's square.

    Source: Zhang et al., 2024, arXiv:2406.17328, section 3.
    """
    check_temperature(temperature)
    return tempered(forward_kl, temperature)(student_logits, teacher_logits)


def cross_model_scores(
    query: Float[Tensor, "student_tokens width"], key: Float[Tensor, "teacher_tokens width"]
) -> Float[Tensor, "student_tokens teacher_tokens"]:
    """How much each token of the student's has to do with each of the teacher's, before any softmax.

    Source: Zhang et al., 2024, arXiv:2406.17328, section 3.
    """
    scores: Tensor = query @ key.T / query.shape[-1] ** 0.5
    return scores


def of_unit_spread(states: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
    """The states of a document, divided by the standard deviation of all their numbers."""
    spread = states.std(correction=0)
    return states / torch.where(spread > 0, spread, 1.0)
