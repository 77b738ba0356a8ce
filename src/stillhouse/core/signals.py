"""What a teacher can say and a student answer, as types rather than flags."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor


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
