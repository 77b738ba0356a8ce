"""What a teacher can say and a student answer, as types rather than flags."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Tail = Literal["bucket", "renormalised"]
"""What becomes of the tokens that a sparse distribution leaves out."""

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
class SparseLogprobs:
    """A distribution by its likeliest tokens, with all others in one bucket: nothing is dropped, nothing renormalised.

    A row need not use all k places: an unused one has log-probability -inf, and any id.
    """

    ids: Int[Tensor, "*positions k"]
    """Which tokens; those of a row differ."""
    logprobs: Float[Tensor, "*positions k"]
    """Their log-probabilities, in nats, at `temperature`."""
    tail: Float[Tensor, "*positions"]
    """Log of the probability of all other tokens together: -inf where nothing is left."""
    vocab_size: int
    temperature: float = 1.0
    """At which the teacher's logits were softened. At another one the bucket's mass is not known."""

    def at(self, mask: Tensor) -> "SparseLogprobs":
        """Only the positions where `mask` is true, flattened."""
        return replace(self, ids=self.ids[mask], logprobs=self.logprobs[mask], tail=self.tail[mask])


@dataclass(frozen=True)
class SampledTokens:
    """Tokens drawn from a distribution: on average, their weights are its probabilities.

    Any loss that is linear in the teacher's probabilities, as forward KL is, so has the right gradient on average.
    """

    ids: Int[Tensor, "*positions n"]
    """Which tokens; those of a row differ."""
    weights: Float[Tensor, "*positions n"]
    """What each stands for: its share of the draws, or that over what it was drawn with more often. 0 where unused."""
    entropy: Float[Tensor, "*positions"]
    """Of the distribution that was drawn from, in nats."""
    vocab_size: int
    temperature: float = 1.0
    """At which the teacher's logits were softened."""

    def at(self, mask: Tensor) -> "SampledTokens":
        """Only the positions where `mask` is true, flattened."""
        return replace(self, ids=self.ids[mask], weights=self.weights[mask], entropy=self.entropy[mask])


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

    def of_rows(self, rows: Bool[Tensor, " batch"]) -> "Attention":
        """That of some of the rows."""
        found = {name: getattr(self, name)[rows] for name in ("query", "key", "value", "allowed")}
        return replace(self, **found)

    def to(self, dtype: torch.dtype) -> "Attention":
        """The same in another type."""
        return replace(self, **{name: getattr(self, name).to(dtype) for name in ("query", "key", "value")})

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

    logits: FactoredLogits | DenseLogits | SparseLogprobs | SampledTokens | None = None
    """What a teacher says in any of its forms; a student's answer is one of the first two."""
    hidden_states: Mapping[int, Float[Tensor, "batch seq hidden"]] = field(default_factory=dict)
    attentions: Mapping[int, Attention] = field(default_factory=dict)
    embeddings: Float[Tensor, "batch hidden"] | None = None

    def of_rows(self, rows: Bool[Tensor, " batch"]) -> "Signals":
        """What was said about some of the rows of the batch."""
        return Signals(
            None if self.logits is None else self.logits.at(rows),
            {layer: states[rows] for layer, states in self.hidden_states.items()},
            {layer: attention.of_rows(rows) for layer, attention in self.attentions.items()},
            None if self.embeddings is None else self.embeddings[rows],
        )
