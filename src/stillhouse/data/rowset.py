"""What training and evaluation read: rows in a fixed order, and how some of them become a batch."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerBase

from stillhouse.core.batch import Batch, as_batch, emptied
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.faults import said
from stillhouse.data.kept import ReadOneByOne, lengths_of

Row = TypeVar("Row")

AT_ONCE = 1000
"""Rows that are tokenised together."""


class RowSet(Dataset[Any]):
    """Rows for a data loader. `as_batch(rows.collate([rows[0], rows[1]]))` is the batch of the first two."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Rows as the tensors of one batch."""

    def nothing(self) -> dict[str, Tensor]:
        """The tensors of a batch without rows, of which a step learns nothing: processes that train together take part in
        each, and the last rows of an epoch may be too few for all."""
        return emptied(self.collate([self[0]]))

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """Tokens of each row: a batch is as wide as its longest, so that it wants rows of like length."""

    def set_epoch(self, epoch: int) -> None:
        """Become the rows of this epoch; most are the same in all."""

    @property
    def run_the_student(self) -> bool:
        """Whether a step's rows come from running the student as it then is."""
        return False

    def at_step(
        self, batches: Sequence[dict[str, Tensor]], *, step: int, progress: float = 0.0
    ) -> list[dict[str, Tensor]]:
        """What this step, counted from 1, learns from the batches that were collated for it, when this share of training is
        done: most rows are the same in all."""
        return list(batches)

    def numbers(self) -> dict[str, float]:
        """What moves as training goes on, as it was in the last step."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON, for the next steps to have the same rows; most remember nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in their order, `size` at once; the last batch may have fewer."""
        for start in range(0, len(self), size):
            items = [self[index] for index in range(start, min(start + size, len(self)))]
            yield as_batch(self.collate(items))


class DealtRows(Dataset[Any]):
    """Rows as they are dealt to processes that train together: where an order says None there is no row."""

    def __init__(self, rows: RowSet) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None) -> tuple[Any, ...]:
        """The row, if there is one."""
        return () if index is None else (self.rows[index],)

    def collate(self, dealt: Sequence[tuple[Any, ...]]) -> dict[str, Tensor]:
        """The rows that there are as the tensors of one batch."""
        items = list(chain.from_iterable(dealt))
        return self.rows.collate(items) if items else self.rows.nothing()


class PaddedRows(RowSet):
    """One document a row, padded on the right to the longest of its batch."""

    def __init__(self, ids: Sequence[Sequence[int]], *, pad_id: int) -> None:
        self.ids = ids if isinstance(ids, ReadOneByOne) else [tuple(row) for row in ids]
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self.ids[index]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, special ones included."""
        return lengths_of(self.ids)

    def frame(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The tensors of a plain batch in which nothing carries weight."""
        padded = pad(ids, value=self.pad_id)
        documents = pad([[0] * len(row) for row in ids], value=-1)
        positions = torch.arange(padded.shape[1]).repeat(len(ids), 1)
        return {"ids": padded, "positions": positions, "documents": documents, "weights": torch.zeros(padded.shape)}

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Rows as tensors [batch, seq]."""
        return self.frame(items)


def pad(rows: Sequence[Sequence[int]], *, value: int) -> Int[Tensor, "rows width"]:
    """Rows of different lengths as one tensor, filled up on the right with `value`."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def some_at_once(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """So many rows as a tokenizer is quick with."""
    left = iter(rows)
    while some := list(islice(left, AT_ONCE)):
        yield some


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str] | list[list[str]],
    seconds: list[str] | None,
    *,
    max_tokens: int,
    is_split_into_words: bool = False,
) -> BatchEncoding:
    """Texts, or pairs of them, between the tokenizer's own special tokens, each cut at `max_tokens`.

    Raises:
        DataError: for a text that has no token at all.
    """
    encoded = tokenizer(texts, seconds, truncation=True, max_length=max_tokens, is_split_into_words=is_split_into_words)
    empty = [text for text, ids in zip(texts, encoded["input_ids"], strict=True) if not ids]
    if empty:
        raise DataError(f"the text {said(empty[0])} holds no token that the tokenizer knows. Remove it.")
    return encoded


def refuse_slow(tokenizer: PreTrainedTokenizerBase, *, kind: str) -> None:
    """Some kinds of data need to know which word or text each token came from.

    Raises:
        ModelError: if the tokenizer cannot say.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"data.kind {kind} needs a fast tokenizer, one with a tokenizer.json, and {type(tokenizer).__name__} is none. "
            "Use a model that has one."
        )
