"""Processes that train a retriever together: each embeds its share of a micro-batch, and all know what the others made."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def own_rows(rows: int, *, rank: int, ranks: int) -> slice:
    """Which of a micro-batch's rows are a rank's: each has the next so many, the last ones fewer, or none."""
    each = -(-rows // ranks)
    return slice(min(rank * each, rows), min((rank + 1) * each, rows))


def num_ranks() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_share(rows: int) -> slice:
    """Which of a micro-batch's rows are this process's."""
    ranks = num_ranks()
    return own_rows(rows, rank=dist.get_rank() if ranks > 1 else 0, ranks=ranks)


def of_all(own: Float[Tensor, "own *rest"], rows: int) -> Float[Tensor, "rows *rest"]:
    """What all ranks made of a micro-batch's rows, in the order of the rows.

    What this one made has its gradient, and the others' are numbers. Every rank computes the same loss of all rows, so its
    gradient is what its own rows have of it, and the sum over ranks is that of one process, whatever a loss compares.
    """
    ranks = num_ranks()
    if ranks == 1:
        return own
    each = -(-rows // ranks)
    filled = torch.cat([own, own.new_zeros(each - len(own), *own.shape[1:])])
    parts = [torch.empty_like(filled) for _ in range(ranks)]
    dist.all_gather(parts, filled.detach())
    parts[dist.get_rank()] = filled
    return torch.cat(parts)[:rows]


class OwnRows:
    """Makes a batch of this process's share of the rows, with the numbers of them all. Where there is none, it is of the first
    row, which counts for nothing."""

    def __init__(self, collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate, self.valid_label_columns = collate, getattr(collate, "valid_label_columns", ["label"])

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the student reads."""
        batch = self.collate(rows[own_share(len(rows))] or rows[:1])
        return {**batch, "label": torch.tensor([row["label"] for row in rows])}


class Together(nn.Module):
    """Around a student whose gradients are added up by `add_gradients`, and not as it is run: a loss may run it several times,
    and parts of it never."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: Any = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the student says."""
        return self.module(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        found: torch.device = self.module.device
        return found


def add_gradients(model: nn.Module) -> None:
    """Of all ranks, in each."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for under_way in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        assert under_way is not None, "it was asked for asynchronously"
        under_way.wait()


def total(number: int, *, device: torch.device) -> int:
    """A number of each rank, added up."""
    if num_ranks() == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found)
    return int(found)
