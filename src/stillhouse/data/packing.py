"""Examples laid end to end in rows of equal length, so that hardly a position is wasted on padding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.data.examples import Example
from stillhouse.data.rowset import RowSet


def pack(lengths: Sequence[int], *, row_tokens: int) -> list[list[int]]:
    """Best-fit decreasing: which examples share a row. The same lengths always give the same rows.

    Raises:
        ValueError: if an example is longer than a row.
    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError(
            f"an example of {max(lengths)} tokens does not fit a row of {row_tokens}: cut it with `windows`"
        )
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        room = min((room for room, waiting in rows_by_room.items() if room >= lengths[index] and waiting), default=None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, row_tokens
        else:
            row = rows_by_room[room].pop()
        rows[row].append(index)
        rows_by_room.setdefault(room - lengths[index], []).append(row)
    return rows


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
        self.rows = pack([len(example.ids) for example in examples], row_tokens=row_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Example]:
        return [self.examples[number] for number in self.rows[index]]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, few of which fill all `row_tokens` of it."""
        return [sum(len(self.examples[number].ids) for number in row) for row in self.rows]

    def collate(self, items: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        """Rows as tensors [batch, seq], `seq` being the longest row."""
        return to_batch(items).tensors()
