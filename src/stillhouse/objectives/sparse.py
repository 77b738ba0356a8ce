"""A teacher known in part: by its likeliest tokens and one bucket for all others, or by tokens drawn from it.

Below, p is the teacher and q the student. Nothing is dropped and nothing is renormalised, unless `renormalised` is asked:

- **Likeliest tokens.** Both sides become distributions over k + 1 outcomes, the k tokens and "any other", and any
  objective that is a function of two distributions takes them as they are. A KL is at most what it would be over the
  whole vocabulary; where k is the whole vocabulary, every objective is the same.
- **Drawn tokens.** What is linear in the teacher's probabilities is right on average, in value and gradient: forward KL.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.signals import SampledTokens, SparseLogprobs
from stillhouse.objectives.catalogue import Objective
from stillhouse.objectives.logprobs import at_least_float32, log_total, to_logprobs

StoredAnswer = Literal["sparse", "sampled"]
"""How a teacher is known in part: as `SparseLogprobs`, or as `SampledTokens`."""


def in_buckets(
    student_logits: Float[Tensor, "*batch vocab"], teacher: SparseLogprobs
) -> tuple[Float[Tensor, "*batch buckets"], Float[Tensor, "*batch buckets"]]:
    """Logits of student and teacher over k + 1 outcomes: the teacher's likeliest tokens, and last any other token.

    The student's must be at the teacher's temperature. What a store's rounding added to the teacher's mass, or took from
    it, an objective shares out, as it does with any logits.
    """
    student = at_least_float32(student_logits)
    used, ids = teacher.logprobs > -torch.inf, teacher.ids.long()
    listed = torch.zeros_like(student).scatter_add(-1, ids, used.to(student.dtype)) > 0
    tokens = student.gather(-1, ids).masked_fill(~used, -torch.inf)
    others = log_total(student.masked_fill(listed, -torch.inf))
    return torch.cat([tokens, others], -1), teacher_buckets(teacher, student.dtype)


def teacher_buckets(teacher: SparseLogprobs, dtype: torch.dtype) -> Float[Tensor, "*batch buckets"]:
    """The teacher's log-probabilities over the same k + 1 outcomes."""
    return torch.cat([teacher.logprobs, teacher.tail.unsqueeze(-1)], -1).to(dtype)


def sampled_forward_kl(
    student_logits: Float[Tensor, "*batch vocab"], teacher: SampledTokens
) -> Float[Tensor, "*batch"]:
    """KL(teacher || student) per position, in nats, estimated from tokens drawn: right on average, its gradient too.

    The cross-entropy against the drawn tokens, less the teacher's entropy: a single estimate may lie below 0. Infinite
    where the student bans a drawn token.

    Source: Anshumann et al., 2025, arXiv:2503.16870.
    """
    logprobs = to_logprobs(student_logits).gather(-1, teacher.ids.long())
    weights = teacher.weights.to(logprobs.dtype)
    infinite = (logprobs == -torch.inf) & (weights > 0)
    costs = -weights * logprobs.masked_fill(logprobs == -torch.inf, 0.0)
    return costs.masked_fill(infinite, torch.inf).sum(-1) - teacher.entropy.to(logprobs.dtype)


def renormalised(teacher: SparseLogprobs) -> SparseLogprobs:
    """The teacher as if it never said anything but its likeliest tokens: all mass of the bucket goes to them.

    What most tools do with a top k. It makes the teacher surer than it is, and the student with it; reverse KL, to a
    student that may say anything else, becomes infinite.
    """
    return replace(teacher, logprobs=to_logprobs(teacher.logprobs), tail=torch.full_like(teacher.tail, -torch.inf))


def refusal(
    objective: Objective, *, stored: StoredAnswer, temperature: float = 1.0, stored_temperature: float | None = None
) -> str | None:
    """Why an objective cannot be had from such answers, and what to do; None where it can. Without a `stored_temperature`
    the form alone is judged.
    """
    if not objective.reads_teacher:
        return None
    name = objective.name
    if not objective.compares_distributions:
        reads = "the label's own probability" if objective.reads_labels else "the teacher's logits themselves"
        return (
            f"{name} reads {reads}, which {_HOLDS[stored]} do not hold. Use forward_kl, or store the teacher's last hidden "
            "states (labels.signal: last_hidden), which serve every objective on logits."
        )
    if stored == "sampled" and name != "forward_kl":
        return (
            f"{name} is not linear in the teacher's probabilities, so that tokens drawn from it give another gradient, even "
            "on average. Use forward_kl, or store the likeliest tokens (labels.signal: sparse)."
        )
    if stored_temperature not in (None, temperature):
        return (
            f"{name} has a temperature of {temperature:g}, but the teacher was softened by {stored_temperature:g} when it was "
            "stored, and what is left of it cannot be softened again. Set the objective's temperature to "
            f"{stored_temperature:g}, or store the teacher at {temperature:g}."
        )
    return None


_HOLDS = {"sparse": "the teacher's likeliest tokens", "sampled": "tokens drawn from the teacher"}
