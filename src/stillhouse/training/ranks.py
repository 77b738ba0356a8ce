"""What processes that train together tell each other, beside their gradients."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

from torch import distributed

Item = TypeVar("Item")


def of_all_ranks(own: Item) -> list[Item]:
    """What each process has, in their order. All of them call this at once."""
    if not distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found


def in_order(own: Sequence[Sequence[Item]]) -> list[Item]:
    """The items of all micro-batches of a step in the order that one process would have them in: micro-batches are dealt to
    processes in turn. All of them call this at once."""
    dealt = zip_longest(*of_all_ranks(own), fillvalue=())
    return list(chain.from_iterable(chain.from_iterable(dealt)))
