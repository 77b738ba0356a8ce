"""The same documents in the tokens of two tokenizers, and the spans of text that both cut alike."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from stillhouse.core.alignment import align
from stillhouse.data.examples import Example
from stillhouse.data.packing import SidedRows, to_batch
from stillhouse.data.rowset import pad

NOWHERE = -1
"""The end of a token that stands for no text, and the span of one that belongs to none."""


@dataclass(frozen=True)
class PlacedExample:
    """A document in the tokens of one tokenizer, and where in what both sides read each of them ends.

    Places count the bytes of the text, and one for each token that ends a text or a turn; markup of one side alone is nowhere.
    """

    example: Example
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Pair:
    """A document, or a piece of one, on both sides. Spans are numbered from 0, and each is to be predicted."""

    student: Example
    teacher: Example
    """Known by the document that the student's is."""
    student_spans: tuple[int, ...]
    teacher_spans: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of the student's and of the teacher's."""
        return len(self.student.ids), len(self.teacher.ids)

    @property
    def num_spans(self) -> int:
        """Pieces of text that can be compared."""
        return max(self.student_spans, default=NOWHERE) + 1


def pair_pieces(student: PlacedExample, teacher: PlacedExample, *, max_tokens: int) -> Iterator[Pair]:
    """One document on both sides, in pieces of at most `max_tokens` of either that end where both sides have read the same.

    A piece begins with the last span of the piece before, which is read and not learnt again; where tokenizers are equal
    that is its last token, as in `windows`. What has no common boundary for longer than a row is read from its end. A piece
    with nothing to learn on either side is left out. Bytes are shared out as in `windows`, alike on both sides.
    """
    spans = _spans_of(student, teacher)
    sizes = len(student.ends), len(teacher.ends)
    total_weight, judged_weight, told_bytes = sum(student.example.weights[1:]), 0.0, 0
    for start, learnt_from, stop in _cuts(*spans, sizes, max_tokens):
        ours, theirs = (
            _weights(side.example, start[n], learnt_from[n], stop[n]) for n, side in enumerate((student, teacher))
        )
        if not any(ours) and not any(theirs):
            continue
        judged_weight += sum(ours)
        num_bytes = (
            round(student.example.num_bytes * judged_weight / max(total_weight, judged_weight, 1.0)) - told_bytes
        )
        told_bytes += num_bytes
        kept = _kept_spans(spans, ours, theirs, start, learnt_from, stop)
        whole = start == (0, 0) and stop == sizes
        document = student.example.document
        yield Pair(
            Example(
                student.example.ids[start[0] : stop[0]], ours, num_bytes, student.example.part_of if whole else document
            ),
            Example(teacher.example.ids[start[1] : stop[1]], theirs, num_bytes, document),
            *kept,
        )


Ends = tuple[int, int]
"""How many tokens of the student's and of the teacher's stand before a place."""


def _spans_of(student: PlacedExample, teacher: PlacedExample) -> tuple[list[int], list[int]]:
    """The span of each token of both sides, by what they read; prompts have some, too."""
    ends = [torch.tensor(side.ends, dtype=torch.long) for side in (student, teacher)]
    placed = [side >= 0 for side in ends]
    spans = align(ends[0][placed[0]], ends[1][placed[1]])
    ours, theirs = (
        torch.full_like(side, NOWHERE).masked_scatter(where, found).tolist()
        for side, where, found in zip(ends, placed, (spans.student, spans.teacher), strict=True)
    )
    return ours, theirs


def _cuts(
    student: Sequence[int], teacher: Sequence[int], sizes: Ends, max_tokens: int
) -> Iterator[tuple[Ends, Ends, Ends]]:
    """Where each piece begins, from where on it is learnt, and where it ends."""
    if max(sizes) <= max_tokens:
        yield (0, 0), (0, 0), sizes
        return
    (our_begins, our_stops), (their_begins, their_stops) = _bounds(student), _bounds(teacher)
    if (our_stops[-1:], their_stops[-1:]) != ([sizes[0]], [sizes[1]]):  # what ends a document may belong to no span
        our_begins, our_stops = [*our_begins, sizes[0]], [*our_stops, sizes[0]]
        their_begins, their_stops = [*their_begins, sizes[1]], [*their_stops, sizes[1]]
    lasts = our_stops, their_stops
    begins, stops = [*zip(our_begins, their_begins, strict=True)], [*zip(our_stops, their_stops, strict=True)]
    start, learnt_from, number = (0, 0), (0, 0), 0
    while number < len(stops):
        limits = start[0] + max_tokens, start[1] + max_tokens
        fits = min(bisect_right(own, limit) for own, limit in zip(lasts, limits, strict=True))
        number = max(fits, number + 1)
        stop = stops[number - 1]
        start = max(start[0], stop[0] - max_tokens), max(start[1], stop[1] - max_tokens)
        yield start, learnt_from, stop
        start, learnt_from = begins[number - 1], stop


def _bounds(spans: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where the first token of each span stands, and where the one after its last does."""
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    for place, span in enumerate(spans):
        if span != NOWHERE:
            firsts.setdefault(span, place)
            lasts[span] = place + 1
    return [*firsts.values()], [*lasts.values()]


def _weights(example: Example, start: int, learnt_from: int, stop: int) -> tuple[float, ...]:
    """The weights of a piece: its first token is predicted by nothing, and what the piece before has taught is not taught."""
    first = max(start + 1, learnt_from)
    return (*[0.0] * (min(first, stop) - start), *example.weights[first:stop])


def _kept_spans(
    spans: tuple[Sequence[int], Sequence[int]],
    student_weights: Sequence[float],
    teacher_weights: Sequence[float],
    start: Ends,
    learnt_from: Ends,
    stop: Ends,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spans of a piece that are learnt, whole and on both sides, numbered from 0."""
    pieces = [side[start[n] : stop[n]] for n, side in enumerate(spans)]
    dropped = {
        span
        for piece, weights in zip(pieces, (student_weights, teacher_weights), strict=True)
        for span, weight in zip(piece, weights, strict=True)
        if not weight
    }
    # Of a span whose beginning stands in no piece, the rest must not be taken for all of it.
    dropped |= {side[start[n] - 1] for n, side in enumerate(spans) if start[n]}
    numbers = {span: number for number, span in enumerate(sorted({*chain(*pieces)} - dropped - {NOWHERE}))}
    ours, theirs = (tuple(numbers.get(span, NOWHERE) for span in piece) for piece in pieces)
    return ours, theirs


class PairedRows(SidedRows):
    """Pairs packed into rows."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """All of them."""
        return self.members

    def collate(self, items: Sequence[Sequence[Pair]]) -> dict[str, Tensor]:  # type: ignore[override]
        """Rows as tensors, [batch, seq] of either side, each as wide as its longest row."""
        return collated_pairs(items)


def collated_pairs(rows: Sequence[Sequence[Pair]]) -> dict[str, Tensor]:
    """Rows of pairs as the tensors of a `PairedBatch`."""
    student = to_batch([[pair.student for pair in row] for row in rows])
    teacher = to_batch([[pair.teacher for pair in row] for row in rows])
    return {
        **student.tensors(),
        "spans": _laid_out([[(pair.student_spans, pair.num_spans) for pair in row] for row in rows]),
        "teacher_ids": teacher.ids,
        "teacher_positions": teacher.positions,
        "teacher_documents": teacher.documents,
        "teacher_spans": _laid_out([[(pair.teacher_spans, pair.num_spans) for pair in row] for row in rows]),
    }


def _laid_out(rows: Iterable[Iterable[tuple[Sequence[int], int]]]) -> Tensor:
    """The spans of each row's documents, numbered on from document to document."""
    numbered: list[list[int]] = []
    for row in rows:
        told, spans = 0, list[int]()
        for own, count in row:
            spans += [NOWHERE if span == NOWHERE else span + told for span in own]
            told += count
        numbered.append(spans)
    return pad(numbered, value=NOWHERE)


def share_compared(pairs: Iterable[Pair]) -> tuple[float, float]:
    """Of the student's tokens that are learnt: the share in spans, and the share beside a single token of the teacher."""
    learnt = compared = alone = 0
    for pair in pairs:
        ours, theirs = (
            Counter(span for span in side if span != NOWHERE) for side in (pair.student_spans, pair.teacher_spans)
        )
        learnt += sum(weight > 0 for weight in pair.student.weights[1:])
        compared += ours.total()
        alone += sum(count == theirs[span] == 1 for span, count in ours.items())
    return compared / max(1, learnt), alone / max(1, learnt)
