"""Texts or pairs of texts, each with a class or a number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import Numbers
from stillhouse.data.config import ClassificationDataConfig, LabelledDataConfig
from stillhouse.data.kept import Ids, Keeping
from stillhouse.data.rowset import PaddedRows, encode, pad, some_at_once
from stillhouse.data.tables import Record, each_record
from stillhouse.models.load import pad_id_of


@dataclass(frozen=True)
class LabelledRow:
    """A text, or a pair of them, and what is to be said about it."""

    first: str
    second: str | None
    label: str | float

    @property
    def text(self) -> str:
        """Text or pair, the latter in either order: the same question."""
        return self.first if self.second is None else "\0".join(sorted((self.first, self.second)))


def each_labelled(path: Path, config: LabelledDataConfig, *, key: str = "data.path") -> Iterator[LabelledRow]:
    """The rows of a file or folder."""
    return (_to_row(record, config) for record in each_record(path, key=key))


def _to_row(record: Record, config: LabelledDataConfig) -> LabelledRow:
    read = record.label if isinstance(config, ClassificationDataConfig) else record.number
    return LabelledRow(
        first=record.text(config.text, key="data.text"),
        second=None if config.pair is None else record.text(config.pair, key="data.pair"),
        label=read(config.label, key="data.label"),
    )


def label_names(labels: Iterable[str], *, answers: Sequence[str] = ()) -> tuple[str, ...]:
    """What a label's number stands for: all `answers` that a model gives, if every label is among them. Else the different
    labels in order: of their values where all are whole numbers, else of their names.

    Raises:
        DataError: if all are the same.
    """
    found = set(labels)
    if len(found) < 2:
        raise DataError(
            f"every training row has the label {min(found)!r}, so there is nothing to tell apart. Add others."
        )
    # A model that never named its answers has numbers for them, and transformers writes those as LABEL_0, LABEL_1, ...
    for spelling in (answers, [f"LABEL_{answer}" for answer in answers]):
        if found <= set(spelling):
            return tuple(spelling)
    return tuple(sorted(found, key=int) if all(_is_number(name) for name in found) else sorted(found))


def _is_number(name: str) -> bool:
    return len(name) <= 100 and name.removeprefix("-").isdecimal() and name == str(int(name))


def label_ids(labels: Iterable[str], names: Sequence[str]) -> Iterator[int]:
    """The place of each label among the names.

    Raises:
        DataError: at the end, for a label that is none of them.
    """
    places, unknown = {name: place for place, name in enumerate(names)}, set[str]()
    for label in labels:
        if label not in places:
            unknown.add(label)
        yield places.get(label, -1)
    if unknown:
        raise DataError(
            f"held-out rows have the label {min(unknown)!r}, which no training row has. Add rows of it to data.path, or leave "
            "it out."
        )


Labels = Int[Tensor, " docs"] | Float[Tensor, " docs"] | Numbers
"""The class or number of each text."""


class LabelledRows(PaddedRows):
    """One text or pair a row, with its class or number."""

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        labels: Labels,
        *,
        pad_id: int,
        segments: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(ids, pad_id=pad_id)
        self.labels, self.segments = labels, segments

    def __getitem__(self, index: int) -> tuple[tuple[int, ...], Tensor, Sequence[int] | None]:
        """Token ids, label, and where a pair's second text stands."""
        return (
            self.ids[index],
            torch.as_tensor(self.labels[index]),
            None if self.segments is None else self.segments[index],
        )

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Rows as tensors: [batch, seq] for tokens, [batch] for labels."""
        ids, labels, segments = zip(*items, strict=True)
        tensors = {**self.frame(ids), "labels": torch.stack(labels), "label_weights": torch.ones(len(items))}
        return tensors if self.segments is None else {**tensors, "segments": pad(segments, value=0)}


def labelled_rows(
    rows: Iterable[LabelledRow],
    tokenizer: PreTrainedTokenizerBase,
    labels: Labels,
    *,
    max_tokens: int,
) -> LabelledRows:
    """Rows as the tokenizer frames a text or a pair; of one that is too long, the end of the longer text is cut."""
    ids, segments = Keeping[tuple[int, ...]](Ids), Keeping[tuple[int, ...]](Ids)
    for some in some_at_once(rows):
        seconds = [row.second for row in some if row.second is not None]
        encoded = encode(tokenizer, [row.first for row in some], seconds or None, max_tokens=max_tokens)
        ids.add_all(encoded["input_ids"])
        segments.add_all(encoded.get("token_type_ids", ()) if seconds else ())
    told = segments.kept() if len(segments) else None
    return LabelledRows(ids.kept(), labels, pad_id=pad_id_of(tokenizer), segments=told)
