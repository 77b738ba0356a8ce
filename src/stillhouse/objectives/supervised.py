"""Objectives that need no teacher: the student against the tokens of the data."""

from jaxtyping import Float, Int
from torch import Tensor

from stillhouse.objectives.logprobs import to_logprobs


def next_token(
    student_logits: Float[Tensor, "*batch vocab"],
    target_ids: Int[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Cross-entropy of the target token per position, in nats. The hard-label term, and the control without a teacher.

    Logits and targets are already aligned: the logits at a position predict the id at the same position. Every id must
    be a real token. There is no ignored label: a position that must not count gets weight zero outside.
    """
    return -to_logprobs(student_logits).gather(-1, target_ids.long().unsqueeze(-1)).squeeze(-1)
