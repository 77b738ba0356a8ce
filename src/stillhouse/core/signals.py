"""What a teacher can say and a student answer, as types rather than flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]
"""How token states become one embedding: their mean, the first one, or the last one."""


@dataclass(frozen=True)
class FactoredLogits:
    """Logits not yet multiplied out: `softcap(scale * (hidden @ weight.T + bias))`.

    The product has `vocab` numbers a position where `hidden` has a few hundred. Keeping the factors lets a loss build it
    a few positions at a time.
    """

    hidden: Float[Tensor, "*positions hidden"]
    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocab_size(self) -> int:
        """Rows of the head: tokens that can be predicted."""
        return self.weight.shape[0]

    def at(self, mask: Tensor) -> "FactoredLogits":
        """Only the positions where `mask` is true, flattened: hidden becomes [tokens, hidden]."""
        return replace(self, hidden=self.hidden[mask])

    def first(self, num_tokens: int) -> "FactoredLogits":
        """Only the vocabulary's first `num_tokens`: drops rows that pad a head beyond its tokenizer."""
        if num_tokens == self.vocab_size:
            return self
        bias = None if self.bias is None else self.bias[:num_tokens]
        return replace(self, weight=self.weight[:num_tokens], bias=bias)

    def dense(self) -> Float[Tensor, "*positions vocab"]:
        """The logits themselves, in float32 at least."""
        product = self.hidden.to(self.weight.dtype) @ self.weight.T
        if self.bias is not None:
            product = product + self.bias
        # float32: a bfloat16 logit near 20 is only good to 0.06 nats.
        logits = (product.float() if product.itemsize < 4 else product) * self.scale
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


@dataclass(frozen=True)
class DenseLogits:
    """Logits as they are: a classifier's few classes need no factors."""

    values: Float[Tensor, "*positions classes"]

    @property
    def vocab_size(self) -> int:
        """Classes that can be predicted."""
        return self.values.shape[-1]

    def at(self, mask: Tensor) -> "DenseLogits":
        """Only the positions where `mask` is true, flattened."""
        return DenseLogits(self.values[mask])

    def first(self, num_classes: int) -> "DenseLogits":
        """Only the first classes."""
        return DenseLogits(self.values[..., :num_classes])

    def dense(self) -> Float[Tensor, "*positions classes"]:
        """The logits themselves, in float32 at least."""
        return self.values.float() if self.values.itemsize < 4 else self.values


@dataclass(frozen=True)
class Attention:
    """What one layer's attention is made of, after rotary positions: its scores are `scaling * query @ key.T`."""

    query: Float[Tensor, "batch heads seq head_width"]
    key: Float[Tensor, "batch key_heads seq head_width"]
    value: Float[Tensor, "batch key_heads seq head_width"]
    allowed: Bool[Tensor, "batch seq seq"]
    """Which keys (last axis) each query may see."""
    scaling: float
    softcap: float | None = None

    def scores(self) -> Float[Tensor, "batch heads seq seq"]:
        """Attention before the softmax: -inf where a query may not look, or is padding."""
        groups = self.query.shape[1] // self.key.shape[1]
        product = self.scaling * self.query @ self.key.repeat_interleave(groups, dim=1).transpose(-1, -2)
        capped = product if self.softcap is None else self.softcap * (product / self.softcap).tanh()
        return capped.masked_fill(~self.allowed[:, None], -float("inf"))


@dataclass(frozen=True)
class Wanted:
    """What is to be read out of one forward pass. Layer 0 is the embeddings, layer n the output of the n-th block; the
    attention of layer n is that of its block."""

    logits: bool = False
    hidden_states: frozenset[int] = frozenset()
    attentions: frozenset[int] = frozenset()
    pooling: Pooling | None = None
    """How to pool an embedding, where one is wanted."""

    def __or__(self, other: "Wanted") -> "Wanted":
        return Wanted(
            self.logits or other.logits,
            self.hidden_states | other.hidden_states,
            self.attentions | other.attentions,
            self.pooling or other.pooling,
        )


@dataclass(frozen=True)
class Signals:
    """What was read out of one forward pass; a signal that was not wanted is absent."""

    logits: FactoredLogits | DenseLogits | None = None
    hidden_states: Mapping[int, Float[Tensor, "batch seq hidden"]] = field(default_factory=dict)
    attentions: Mapping[int, Attention] = field(default_factory=dict)
    embeddings: Float[Tensor, "batch hidden"] | None = None
