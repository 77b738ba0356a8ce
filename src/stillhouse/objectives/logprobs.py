"""From raw logits to log-probabilities: the one place where precision and banned tokens are decided."""

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


def at_least_float32(logits: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The same logits, raised to float32 where they are narrower: bfloat16 near -10 is only good to 0.03 nats."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
