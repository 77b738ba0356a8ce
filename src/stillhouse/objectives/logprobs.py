"""From raw logits to log-probabilities and their KL: the one place where precision and banned tokens are decided."""

import torch
from jaxtyping import Float
from torch import Tensor


def to_logprobs(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-probabilities over the vocabulary, in nats, in float32 at least (float64 stays float64).

    A logit of -inf bans its token. Where all are banned, every log-probability is -inf: no mass, hence no gradient,
    where a plain log_softmax gives NaN and poisons the backward pass even under a zero weight.
    """
    logits = at_least_float32(logits)
    empty = logits.amax(-1, keepdim=True) == -torch.inf  # [*batch, 1]
    if not empty.any():
        return logits.log_softmax(-1)
    return logits.masked_fill(empty, 0.0).log_softmax(-1).masked_fill(empty, -torch.inf)


def log_total(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch 1"]:
    """Log of the summed exponentials over the vocabulary. Of nothing it is -inf, as it should be, without a NaN gradient."""
    empty = logits.amax(-1, keepdim=True) == -torch.inf
    return logits.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)


def at_least_float32(logits: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The same logits, raised to float32 where they are narrower: bfloat16 near -10 is only good to 0.03 nats."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def paired_logprobs(
    student_logits: Float[Tensor, "*batch vocab"], teacher_logits: Float[Tensor, "*batch vocab"]
) -> tuple[Float[Tensor, "*batch vocab"], Float[Tensor, "*batch vocab"]]:
    """Log-probabilities of student and teacher, in nats. Refuses shapes that would only broadcast."""
    check_same_vocabulary(student_logits, teacher_logits)
    return to_logprobs(student_logits), to_logprobs(teacher_logits)


def check_same_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raises: ValueError unless both sides have as many logits, position by position."""
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"A divergence compares token by token, but the teacher's logits are {list(teacher_logits.shape)} and the "
            f"student's {list(student_logits.shape)}. Cut both vocabularies to the tokenizer's size, or use a "
            "cross_tokenizer objective."
        )


def kl(
    logprobs: Float[Tensor, "*batch vocab"], other_logprobs: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(distribution || other) per position, in nats; 0 log 0 = 0, and infinite terms carry no gradient."""
    log_ratio = (logprobs - other_logprobs).masked_fill(logprobs == -torch.inf, 0.0)
    infinite = log_ratio == torch.inf
    terms = logprobs.exp() * log_ratio.masked_fill(infinite, 0.0)
    return terms.masked_fill(infinite, torch.inf).sum(-1)
