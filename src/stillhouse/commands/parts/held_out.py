"""What is held out, as teacher and student read it."""

from collections.abc import Sequence

from stillhouse.commands.parts.learnt import examples_of
from stillhouse.commands.parts.parts import Parts
from stillhouse.core.batch import Batch
from stillhouse.data.context import ContextRows
from stillhouse.data.examples import Example
from stillhouse.data.paired import PairedRows
from stillhouse.data.rowset import RowSet
from stillhouse.evaluation import Elsewhere, OwnTokens
from stillhouse.evaluation.context import InContext

DOCUMENTS_PER_BATCH = 32
"""Documents in one batch of an evaluation: each has a row of its own, as long as the longest."""


def batches_of(rows: RowSet) -> list[Batch]:
    """All rows, for an evaluation."""
    return list(rows.batches(DOCUMENTS_PER_BATCH))


def held_out_batches(parts: Parts) -> list[Batch]:
    """Held-out rows of any model that predicts no text."""
    return batches_of(parts.data.held_out)


def held_out_examples(parts: Parts) -> Sequence[Example]:
    """Documents of causal text held out."""
    return examples_of(parts.data.held_out)


def held_out_in_context(parts: Parts) -> InContext | None:
    """The same as the teacher reads them, where it reads more than the student."""
    rows, held_out = parts.data.held_out, parts.data.context
    if held_out is None:
        return None
    assert isinstance(rows, ContextRows)
    return InContext(rows.teacher_examples, held_out.views, held_out.styles, held_out.elsewhere)


def held_out_in_other_tokens(parts: Parts) -> OwnTokens | None:
    """The same in the teacher's tokens, where these are others."""
    rows = parts.data.held_out
    if not parts.crosses or not isinstance(rows, PairedRows):
        return None
    return OwnTokens(rows.teacher_examples, parts.teacher_tokenizer)


def held_out_elsewhere(parts: Parts) -> Elsewhere | None:
    """What is held out of the replayed data."""
    found = parts.replayed
    if found is None:
        return None
    told = found.held_out_told if parts.crosses else None
    return Elsewhere(found.held_out, told, len(parts.teacher_tokenizer))
