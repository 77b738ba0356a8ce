"""Examples laid end to end in rows of equal length, so that hardly a position is wasted on padding."""

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.numbers import BLOCK, Counting, Numbers, counted
from stillhouse.data.examples import Example
from stillhouse.data.kept import lengths_of, seen, sizes_of
from stillhouse.data.rowset import RowSet

PACKED_AT_ONCE = 2**15
"""Examples that are packed together. It leaves hardly more room than if all were, and memory holds something of these alone."""


class Packing(Sequence[list[int]]):
    """Which examples share a row."""

    def __init__(self, members: Numbers, bounds: Numbers) -> None:
        """The `members` of each row lie between two `bounds`."""
        self._members, self._bounds = members, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        found: list[int] = self._members.part(*self._bounds.part(row, row + 2).tolist()).tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def totals(self, lengths: Numbers) -> Numbers:
        """What the lengths of each row's examples add up to."""

        def some(start: int) -> NDArray[np.int64]:
            bounds = self._bounds.part(start, min(start + BLOCK, len(self)) + 1)
            own = lengths.at(self._members.part(int(bounds[0]), int(bounds[-1])))
            return np.add.reduceat(own, bounds[:-1] - bounds[0])

        return counted(map(some, range(0, len(self), BLOCK)), np.int64)


def pack(lengths: Numbers | Sequence[int], *, row_tokens: int) -> Packing:
    """Best-fit decreasing: which examples share a row, of some tens of thousands that follow one another. The same lengths
    always give the same rows.

    Raises:
        ValueError: if an example is longer than a row.
    """
    given = lengths if isinstance(lengths, Numbers) else Numbers.of(np.array(lengths, np.int64))
    members, bounds = Counting(np.int64), Counting(np.int64)
    bounds.add(0)
    for block in given.blocks(PACKED_AT_ONCE):
        if block.max() > row_tokens:
            raise ValueError(
                f"an example of {block.max()} tokens does not fit a row of {row_tokens}: cut it with `windows`"
            )
        own, counts = _packed(block, row_tokens)
        bounds.add_all(len(members) + np.cumsum(counts, dtype=np.int64))
        members.add_all(len(members) + own)
    return Packing(members.numbers(), bounds.numbers())


def _packed(lengths: NDArray[np.int64], row_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Examples row by row, and how many each row has."""
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(lengths), np.int32)
    rows_by_room: dict[int, list[int]] = {}
    rooms, num_rows = 0, 0  # a bit for every room that some row has left
    for place, length in enumerate(lengths[order].data):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            rooms ^= 0 if rows_by_room[room] else 1 << room
        else:
            row, room, num_rows = num_rows, row_tokens, num_rows + 1
        row_of[place] = row
        rows_by_room.setdefault(room - length, []).append(row)
        rooms |= 1 << (room - length)
    return order[np.argsort(row_of, kind="stable")], np.bincount(row_of, minlength=num_rows)


def one_each(num: int) -> Packing:
    """Every example in a row of its own."""
    return Packing(Numbers(num, np.arange), Numbers(num + 1, np.arange))


def to_batch(rows: Sequence[Sequence[Example]], *, row_tokens: int | None = None) -> Batch:
    """Packed rows as tensors [batch, seq], `seq` being `row_tokens` or the longest row."""
    width = row_tokens or max(sum(len(example.ids) for example in row) for row in rows)
    shape = (len(rows), width)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    documents, weights = torch.full(shape, -1, dtype=torch.long), torch.zeros(shape)
    for number, row in enumerate(rows):
        end = 0
        for document, example in enumerate(row):
            start, end = end, end + len(example.ids)
            ids[number, start:end] = torch.tensor(example.ids)
            positions[number, start:end] = torch.arange(len(example.ids))
            documents[number, start:end] = document
            weights[number, start + 1 : end] = torch.tensor(example.weights[1:])
        positions[number, end:] = torch.arange(width - end)  # padding is one more document, which nothing reads
    return Batch(ids, positions, documents, weights)


class PackedRows(RowSet):
    """Examples packed into rows of `row_tokens`; one item is the examples of one row."""

    def __init__(self, examples: Sequence[Example], *, row_tokens: int) -> None:
        self.examples, self.row_tokens = examples, row_tokens
        self.rows = pack(lengths_of(examples), row_tokens=row_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.examples[number] for number in self.rows[index]]

    @cached_property
    def lengths(self) -> Numbers:
        """Tokens of each row, few of which fill all `row_tokens` of it."""
        return self.rows.totals(lengths_of(self.examples))

    def collate(self, items: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        """Rows as tensors [batch, seq], `seq` being the longest row."""
        return to_batch(items).tensors()


class SidedRows(PackedRows):
    """Members that student and teacher read each as an example of its own, packed so that neither side is longer than
    `row_tokens`; one item is the members of one row.

    To everything that knows nothing of the teacher's side these are rows of the student's.
    """

    def __init__(self, members: Sequence[Any], *, row_tokens: int) -> None:
        self.members, self.row_tokens = members, row_tokens
        self._sizes = sizes_of(members)
        self.examples = seen(members, attrgetter("student"), self._sizes.each(lambda sizes: sizes[:, :1]))
        self.rows = pack(lengths_of(members), row_tokens=row_tokens)

    @property
    def teacher_examples(self) -> Sequence[Example]:
        """The same documents and pieces as the teacher reads them."""
        return seen(self.members, attrgetter("teacher"), self._sizes.each(lambda sizes: sizes[:, 1:]))

    def __getitem__(self, index: int) -> list[Any]:
        return [self.members[number] for number in self.rows[index]]
