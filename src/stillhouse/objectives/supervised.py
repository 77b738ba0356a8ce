"""Objectives that need no teacher: the student against the answers in the data."""

from jaxtyping import Float, Int
from torch import Tensor

from stillhouse.objectives.logprobs import at_least_float32, to_logprobs


def cross_entropy(
    student_logits: Float[Tensor, "*batch vocab"],
    target_ids: Int[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """-log q(target) per position, in nats. The hard-label term, and the control without a teacher.

    A catalogue name says what the target is: `next_token` for text, `masked_token` for the hidden words of a masked
    language model, `hard_label` for the class of a document or the tag of a token. Logits and targets are already
    aligned: the logits at a position predict the id at the same position. Every id must be a real one. There is no
    ignored label: a position that must not count gets weight zero outside.

    Source: maximum likelihood; of masked tokens, Devlin et al., 2019, arXiv:1810.04805, section 3.1.
    """
    return -to_logprobs(student_logits).gather(-1, target_ids.long().unsqueeze(-1)).squeeze(-1)


def squared_error(
    student_logits: Float[Tensor, "*batch 1"],
    target_values: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """The squared distance of the one number estimated from the one given, per position. For regression heads.

    With a teacher, `logit_mse` compares the two estimates in the same unit.

    Source: least squares.
    """
    return (at_least_float32(student_logits).squeeze(-1) - target_values).square()


next_token = cross_entropy
"""The same, where the target is the token that follows."""
