"""What a student learns that writes nothing itself: the data's own answers, or the teacher's."""

from collections.abc import Sequence
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.data.asked import Asked, packed
from stillhouse.data.context import ContextRows, views_of
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows
from stillhouse.data.paired import PairedRows
from stillhouse.data.rowset import PaddedRows, RowSet


def with_answers(asked: Sequence[Asked], taught: Sequence[Asked], *, keeps_all: bool, file: Path) -> list[Asked]:
    """What is asked, with the teacher's answers. A prompt whose answers cannot be read in the student's tokens is left out, or
    with `keeps_all` keeps the data's own.

    Raises:
        DataError: if none is left.
    """
    if keeps_all:
        return [one if one.answered else other for one, other in zip(taught, asked, strict=True)]
    kept = [one for one in taught if one.answered]
    if not kept:
        raise DataError(
            f"none of the teacher's answers ({file}) can be read in the student's tokens. Raise "
            "source.sampling.max_new_tokens, or choose a student with the teacher's tokenizer."
        )
    return kept


def rows_of(answered: Sequence[Asked], *, is_paired: bool, row_tokens: int) -> RowSet:
    """Rows of these answers: cut for both tokenizers, in what the teacher is told besides, or packed."""
    if is_paired:
        return PairedRows([pair for one in answered for pair in one.pairs], row_tokens=row_tokens)
    if any(one.told for one in answered):
        return ContextRows(views_of(answered), row_tokens=row_tokens)
    return packed(answered, row_tokens=row_tokens)


def examples_of(rows: object) -> list[Example]:
    """Documents of causal text."""
    assert isinstance(rows, PackedRows), "only causal text is packed"
    return list(rows.examples)


def as_the_teacher_reads(rows: object) -> Sequence[Example]:
    """The same in the teacher's tokens and with what it is told besides, where there is either."""
    assert isinstance(rows, PackedRows), "only causal text is packed"
    return rows.teacher_examples if isinstance(rows, PairedRows | ContextRows) else rows.examples


def num_tokens(rows: RowSet) -> int:
    """Tokens to learn from in one epoch: of causal text those that are predicted, else all that are read."""
    if isinstance(rows, PackedRows):
        return round(sum(sum(example.weights) for example in rows.examples))
    assert isinstance(rows, PaddedRows)
    return sum(len(ids) for ids in rows.ids)
