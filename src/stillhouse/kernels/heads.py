"""The matrix products of a head: from hidden states to logits, and from slopes to gradients, in float32 at least."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stillhouse.core.signals import FactoredLogits

TILE_TOKENS = 2048
"""Rows of a head's weight that a CPU multiplies at once: they stay in cache, and 1,000 to 4,000 of them take 6 to 15 %
less time than the whole head does. Of a narrower type they are widened here, a few megabytes at a time."""


def project(
    head: FactoredLogits, hidden: Float[Tensor, "tokens hidden"], *, out: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, "tokens vocab"]:
    """The logits of these hidden states, written over `out`."""
    for tile in _tiles(head.weight):
        _multiply(hidden, head.weight[tile].T, out=out[:, tile])
    if head.bias is not None:
        out.add_(head.bias)
    if head.scale != 1:
        out.mul_(head.scale)
    return out if head.softcap is None else out.div_(head.softcap).tanh_().mul_(head.softcap)


def through_cap(
    slope: Float[Tensor, "tokens vocab"], logits: Float[Tensor, "tokens vocab"], head: FactoredLogits
) -> Float[Tensor, "tokens vocab"]:
    """From the gradient at the logits to the gradient at the product that they came from. Overwrites `slope`."""
    if head.softcap is not None:
        slope.mul_((logits / head.softcap).square_().neg_().add_(1))
    return slope if head.scale == 1 else slope.mul_(head.scale)


@dataclass(frozen=True)
class HeadGradients:
    """Where chunks add up; None where nobody asks."""

    hidden: Float[Tensor, "tokens hidden"] | None
    weight: Float[Tensor, "vocab hidden"] | None
    bias: Float[Tensor, " vocab"] | None

    @classmethod
    def of(
        cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, wanted: Sequence[bool], learns: bool
    ) -> "HeadGradients":
        """Nothing added yet, and room where somebody asks."""
        asked = zip((hidden, weight, bias), wanted, strict=True)
        return cls(
            *(_total_like(one) if one is not None and learns and is_wanted else None for one, is_wanted in asked)
        )

    def scaled(self, upstream: Float[Tensor, ""]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of a loss that counts for so much in another: a head's is large, so it is scaled where it is. Autograd
        brings it to its tensor's precision.
        """
        hidden, weight, bias = (
            None if total is None else total.mul_(upstream) for total in (self.hidden, self.weight, self.bias)
        )
        return hidden, weight, bias

    @property
    def wanted(self) -> bool:
        """Whether anybody asks."""
        return any(total is not None for total in (self.hidden, self.weight, self.bias))

    def add(self, slope: Float[Tensor, "tokens vocab"], head: FactoredLogits, piece: slice) -> None:
        """Add the share of the positions in this piece, of which `slope` is the gradient at the product."""
        if self.bias is not None:
            self.bias.add_(slope.sum(0))
        if self.hidden is not None:
            for tile in _tiles(head.weight, whole=head.weight.dtype == slope.dtype):
                _add_product(self.hidden[piece], slope[:, tile], head.weight[tile])
        if self.weight is not None:
            _add_product(self.weight, slope.T, head.hidden[piece])


def precision_of(student: FactoredLogits, teacher: object) -> torch.dtype:
    """The type of all arithmetic: float32 at least, and as good as the better of both sides."""
    ours = torch.promote_types(student.weight.dtype, torch.float32)
    return torch.promote_types(ours, teacher.weight.dtype) if isinstance(teacher, FactoredLogits) else ours


def _total_like(tensor: Tensor) -> Tensor:
    """In float32 at least: in bfloat16, what the last chunks add would be rounded away."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _tiles(weight: Float[Tensor, "vocab hidden"], *, whole: bool = False) -> Iterator[slice]:
    """Rows to multiply at once."""
    num_rows = TILE_TOKENS if weight.device.type == "cpu" and not whole else len(weight)
    return (slice(start, start + num_rows) for start in range(0, len(weight), num_rows))


def _multiply(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """out = left @ right. A GPU multiplies in the narrower type: its tensor cores add up in float32 all the same."""
    if out.device.type == "cpu" or out.dtype == right.dtype:
        torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)
    else:
        out.copy_(left.to(right.dtype) @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a copy of the product where types allow it."""
    if total.device.type == "cpu" or total.dtype == right.dtype:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
    else:
        total.add_(left.to(right.dtype) @ right)
