"""Records of a file in order, and found by their keys: memory holds a part of them at a time."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.numbers import BLOCK, Numbers, counted

RUN = 2**15
"""Records that are sorted in memory."""
PAGE = 256
"""Keys of which an index holds one."""
KEY = "S16"
"""Of an index: as many bytes as a hash has here."""


def in_order(records: Numbers, dtype: Any) -> Numbers:
    """Records as their bytes are in order: fields of text, and numbers from 0 with their highest byte first (`>u8`).

    Some at once are sorted in memory, and then all of these runs merged, a piece of each at a time.
    """
    kind = np.dtype(dtype)
    whole, size = np.dtype(f"S{kind.itemsize}"), max(RUN, 16 * isqrt(len(records)))
    runs = counted((np.sort(block.view(whole)) for block in records.blocks(size)), whole)
    starts = range(0, len(runs), size)
    pieces = [_Run(runs[start : start + size], max(1, size // len(starts))) for start in starts]
    return counted((block.view(kind) for block in _merged(pieces)), kind)


class _Run:
    """What is left of records that are in order, of which a piece is held."""

    def __init__(self, records: Numbers, size: int) -> None:
        self._blocks = records.blocks(size)
        self.piece = next(self._blocks)
        self._next = next(self._blocks, None)

    @property
    def is_last(self) -> bool:
        return self._next is None

    def taken(self, bound: bytes | None) -> NDArray[Any]:
        """All that is held and not above the bound, which then is held no more."""
        count = len(self.piece) if bound is None else int(np.searchsorted(self.piece, np.bytes_(bound), side="right"))
        found, self.piece = self.piece[:count], self.piece[count:]
        if not len(self.piece) and self._next is not None:
            self.piece, self._next = self._next, next(self._blocks, None)
        return found


def _merged(runs: Sequence[_Run]) -> Iterator[NDArray[Any]]:
    """All records in order. Up to the lowest of what ends the pieces that are held, none is missing."""
    left = list(runs)
    while left:
        bound = min((bytes(run.piece[-1]) for run in left if not run.is_last), default=None)
        yield np.sort(np.concatenate([run.taken(bound) for run in left]))
        left = [run for run in left if len(run.piece)]


def ranked(numbers: Numbers) -> Numbers:
    """The places of whole numbers from 0 as these ascend, equal ones in their order. Of places, it is where each has gone."""
    return _with_places(numbers, ">u8").each(lambda block: block["place"].astype(np.int64))


def _with_places(values: Numbers, dtype: str) -> Numbers:
    """Values in order, each with its place; those that are the same in the order of their places."""
    kind = np.dtype([("value", dtype), ("place", ">u8")])

    def placed(start: int) -> NDArray[Any]:
        found = np.empty(min(BLOCK, len(values) - start), kind)
        found["value"] = values.part(start, start + len(found))
        found["place"] = np.arange(start, start + len(found))
        return found

    return in_order(counted(map(placed, range(0, len(values), BLOCK)), kind), kind)


def firsts(keys: Numbers) -> Numbers:
    """The places of keys of 16 bytes that have not come before."""
    kept = (block["place"][news] for block, news in with_news(_with_places(keys, KEY), ("value",)))
    return in_order(counted(kept, ">u8"), ">u8").each(lambda block: block.astype(np.int64))


def with_news(records: Numbers, fields: Sequence[str]) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Blocks of records, and which of them have other `fields` than the one before."""
    before: NDArray[Any] | None = None
    for block in records.blocks():
        key = block[list(fields)]
        behind = key[:-1] if before is None else np.concatenate([before, key[:-1]])
        news = key[len(key) - len(behind) :] != behind
        yield block, news if before is not None else np.concatenate([[True], news])
        before = key[-1:]


class Index:
    """Finds the place of a key of 16 bytes among many: of every few hundred, memory holds one."""

    def __init__(self, keys: Numbers) -> None:
        self._records = _with_places(keys, KEY)

    def __contains__(self, key: bytes) -> bool:
        return self.find(key) is not None

    def find(self, key: bytes) -> int | None:
        """The last place that has this key; None where none has."""
        wanted = np.array([key], KEY)
        page = PAGE * (int(np.searchsorted(self._pages, wanted, side="right")[0]) - 1)
        if page < 0:
            return None
        found = self._records.part(page, min(page + PAGE, len(self._records)))
        place = int(np.searchsorted(found["value"], wanted, side="right")[0]) - 1
        return int(found["place"][place]) if found["value"][place] == wanted[0] else None

    @cached_property
    def _pages(self) -> NDArray[Any]:
        """The first key of each page."""
        found = np.empty(-(-len(self._records) // PAGE), KEY)
        for number in range(len(found)):
            found[number] = self._records.part(number * PAGE, number * PAGE + 1)["value"][0]
        return found
