"""What a student learns that writes nothing itself: the data's own answers, or the teacher's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import counting, places_of
from stillhouse.data.asked import Asked, packed
from stillhouse.data.context import ContextRows, Views, views_of
from stillhouse.data.examples import Example
from stillhouse.data.kept import Made, keep, sizes_of, those
from stillhouse.data.packing import PackedRows, SidedRows
from stillhouse.data.paired import Pair, PairedRows
from stillhouse.data.rowset import PaddedRows, RowSet


def with_answers(asked: Sequence[Asked], taught: Sequence[Asked], *, keeps_all: bool, file: Path) -> Sequence[Asked]:
    """What is asked, with the teacher's answers. A prompt whose answers cannot be read in the student's tokens is left out, or
    with `keeps_all` keeps the data's own.

    Raises:
        DataError: if none is left.
    """
    is_read = counting((bool(one.answered) for one in taught), np.bool_)
    if keeps_all:
        return Made(len(asked), lambda number: (taught if is_read[number] else asked)[number])
    if not is_read.sum():
        raise DataError(
            f"none of the teacher's answers ({file}) can be read in the student's tokens. Raise "
            "source.sampling.max_new_tokens, or choose a student with the teacher's tokenizer."
        )
    return those(taught, places_of(is_read))


def rows_of(answered: Sequence[Asked], *, is_paired: bool, row_tokens: int) -> RowSet:
    """Rows of these answers: cut for both tokenizers, in what the teacher is told besides, or packed."""
    if is_paired:
        return PairedRows(keep((pair for one in answered for pair in one.pairs), of=Pair), row_tokens=row_tokens)
    if any(one.told for one in answered):
        return ContextRows(keep(views_of(answered), of=Views), row_tokens=row_tokens)
    return packed(answered, row_tokens=row_tokens)


def examples_of(rows: object) -> Sequence[Example]:
    """Documents of causal text."""
    assert isinstance(rows, PackedRows), "only causal text is packed"
    return rows.examples


def as_the_teacher_reads(rows: object) -> Sequence[Example]:
    """The same in the teacher's tokens and with what it is told besides, where there is either."""
    return rows.teacher_examples if isinstance(rows, SidedRows) else examples_of(rows)


def num_tokens(rows: RowSet) -> int:
    """Tokens to learn from in one epoch: of causal text those that are predicted, else all that are read."""
    if isinstance(rows, PackedRows):
        return round(sum(sum(example.weights) for example in rows.examples))
    assert isinstance(rows, PaddedRows)
    return sizes_of(rows.ids).sum()
