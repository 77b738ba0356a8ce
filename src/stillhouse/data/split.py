"""Two sides that share no text: one to learn from, and one that nobody trains on."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import fields, is_dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import compress
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import DataError
from stillhouse.core.numbers import BLOCK, Counting, Numbers, counted, counting
from stillhouse.core.sorting import Index, in_order, ranked, with_news
from stillhouse.data.tables import DOCUMENT_END

DOCUMENTS_HINT = f"; in a .txt file, {DOCUMENT_END} separates them"


@runtime_checkable
class HasText(Hashable, Protocol):
    """A row that is known again by its text."""

    @property
    def text(self) -> str:
        """What must not stand on both sides."""


AnyRow = TypeVar("AnyRow", bound=HasText)


def split_held_out(
    rows: Sequence[AnyRow],
    *,
    share: float,
    spread_over: Callable[[AnyRow], Any] | None = None,
    hint: str = DOCUMENTS_HINT,
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Rows to train on, and rows held out: this share of the texts, evenly spread over the file, or over what `spread_over`
    says of each, such as its class. Rows with the same text go to the same side, so that nothing is judged that was learnt;
    a row that comes again is left out. The `hint` ends what is said where there are too few.

    Raises:
        DataError: if either side is left empty.
    """
    in_order = rows if spread_over is None else sorted(rows, key=spread_over)
    texts = list(dict.fromkeys(row.text for row in in_order))
    part = Fraction(str(share))  # exactly as it was written: no binary number is 0.1
    judged = {text for number, text in enumerate(texts) if int((number + 1) * part) > int(number * part)}
    unique = list(dict.fromkeys(rows))
    train = [row for row in unique if row.text not in judged]
    held_out = [row for row in unique if row.text in judged]
    _refuse_too_few(train, held_out, num_texts=len(texts), part=part, hint=hint)
    return train, held_out


def _refuse_too_few(train: Sized, held_out: Sized, *, num_texts: int, part: Fraction, hint: str) -> None:
    if not len(held_out) or not len(train):
        raise DataError(
            f"{num_texts} different texts are too few to hold {float(part):.0%} of them out. Give at least "
            f"{math.ceil(1 / part)}{hint}."
        )


def without_texts(rows: Iterable[AnyRow], texts: Iterable[str], *, key: str) -> list[AnyRow]:
    """Each row once, save those whose text is among `texts`, which the recipe names under `key`.

    Raises:
        DataError: if none is left.
    """
    held_out = set(texts)
    left = [row for row in dict.fromkeys(rows) if row.text not in held_out]
    _refuse_none(len(left), key)
    return left


def _refuse_none(num_left: int, key: str) -> None:
    if not num_left:
        raise DataError(f"every text of data.path is in {key} too, so none is left to train on. Give others.")


TRAIN, HELD_OUT = 1, 2
"""On which side a row is; 0 on none."""


class Side(Iterable[AnyRow]):
    """Rows of one side, which are read anew each time they are gone through: which they are, a file says."""

    def __init__(self, read: Callable[[], Iterable[AnyRow]], is_in: Numbers) -> None:
        self._read, self._is_in = read, is_in
        self._num = is_in.sum()

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[AnyRow]:
        return compress(self._read(), self._is_in)

    def without(self, texts: "Texts", *, key: str) -> "Side[AnyRow]":
        """The same save rows whose text is among these, which the recipe names under `key`.

        Raises:
            DataError: if none is left.
        """
        each = zip(self._read(), self._is_in, strict=True)
        found = Side(self._read, counting((is_in and row.text not in texts for row, is_in in each), np.bool_))
        _refuse_none(len(found), key)
        return found


class Texts:
    """Texts that are only known again, by the hash of each in a file."""

    def __init__(self, rows: Iterable[HasText]) -> None:
        self.hashes = Index(counting((hash_of(row.text) for row in rows), "S16"))

    def __contains__(self, text: str) -> bool:
        return hash_of(text) in self.hashes


_ROW = np.dtype([("text", "S16"), ("row", "S16"), ("place", ">u8"), ("number", ">u8")])
"""A row by its hashes; its place where rows are put that are to be spread over something, and its number as they are read."""
_TEXT = np.dtype([("place", ">u8"), ("number", ">u8")])
"""A row by the place where its text comes first."""
_SIDE = np.dtype([("number", ">u8"), ("side", "u1")])


class Known:
    """Rows by their hashes, in files: which come again, and which have one text; and what they are to be spread over."""

    def __init__(self, rows: Iterable[HasText], *, spread_over: Callable[[Any], Any] | None = None) -> None:
        hashes, kinds, named = Counting("S32"), Counting(np.float64), dict[Any, int]()
        for row in rows:
            same = blake2b(repr(_identity(row)).encode(), digest_size=16).digest()
            hashes.add(hash_of(row.text) + same)
            if spread_over is not None:
                kind = spread_over(row)
                kinds.add(kind if isinstance(kind, float) else named.setdefault(kind, len(named)))
        self._hashes = hashes.numbers()
        self._places = _spread(kinds.numbers(), named) if len(kinds) else Numbers(len(hashes), np.arange)

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def is_first(self) -> Numbers:
        """Of each row whether none before is equal to it."""
        return self.is_first_beside(Texts(()))

    def is_first_beside(self, others: Texts) -> Numbers:
        """The same, and of none whose text is among the others."""
        sides = (
            (rows["number"], [TRAIN * (text not in others.hashes) for text in rows["text"]]) for rows in self.texts()
        )
        return _is_on(_sides(sides, len(self)), TRAIN)

    def texts(self) -> Iterator[NDArray[Any]]:
        """Rows that come first, ordered by their texts; all rows of a text in one block."""
        before = np.empty(0, _ROW)
        for block, news in with_news(in_order(self._records(), _ROW), ("text", "row")):
            found = np.concatenate([before, block[news]])
            last = len(found) - int(np.argmax(found["text"][::-1] != found["text"][-1]))
            whole = last if last < len(found) else 0
            yield found[:whole]
            before = found[whole:]
        yield before

    def _records(self) -> Numbers:
        def some(start: int) -> NDArray[Any]:
            stop = min(start + BLOCK, len(self))
            hashes = self._hashes.part(start, stop).view([("text", "S16"), ("row", "S16")])
            found = np.empty(stop - start, _ROW)
            found["text"], found["row"] = hashes["text"], hashes["row"]
            found["place"], found["number"] = self._places.part(start, stop), np.arange(start, stop)
            return found

        return counted(map(some, range(0, len(self), BLOCK)), _ROW)


def _spread(kinds: Numbers, named: Mapping[Any, int]) -> Numbers:
    """The place of each row where those are together that are of one kind: a number, or a name, in the order of these."""
    ranks = {named[name]: rank for rank, name in enumerate(sorted(named))}
    rank_of = np.array([ranks[number] for number in range(len(ranks))], np.uint64)
    ascending = kinds.each(lambda block: rank_of[block.astype(np.int64)]) if named else kinds.each(_ascending)
    return ranked(ranked(ascending))


def _ascending(numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Whole numbers in the order of these: the bits of a float are, but for its sign."""
    bits = (numbers + 0.0).view(np.uint64)  # there is one zero
    return bits ^ np.where(bits >> np.uint64(63), ~np.uint64(0), np.uint64(1) << np.uint64(63))


def _sides(rows: Iterable[tuple[NDArray[Any], Any]], num: int) -> Numbers:
    """The side of each row, of numbers of rows, in any order, and the sides on which these are."""

    def told() -> Iterator[NDArray[Any]]:
        for numbers, sides in rows:
            found = np.empty(len(numbers), _SIDE)
            found["number"], found["side"] = numbers, sides
            yield found

    def laid_out() -> Iterator[NDArray[np.uint8]]:
        start = 0
        for block in in_order(counted(told(), _SIDE), _SIDE).blocks():
            stop = int(block["number"][-1]) + 1
            found = np.zeros(stop - start, np.uint8)
            found[block["number"].astype(np.int64) - start] = block["side"]
            yield found
            start = stop
        yield np.zeros(num - start, np.uint8)

    return counted(laid_out(), np.uint8)


def hash_of(text: str) -> bytes:
    """What a text is known again by."""
    return blake2b(text.encode(), digest_size=16).digest()


def _identity(value: Any) -> Any:
    """What two rows have in common that are equal."""
    if isinstance(value, frozenset):
        return sorted(value)
    if not is_dataclass(value):
        return value
    return [_identity(getattr(value, field.name)) for field in fields(value) if field.compare]


def sides_held_out(
    read: Callable[[], Iterable[AnyRow]],
    *,
    share: float,
    spread_over: Callable[[AnyRow], Any] | None = None,
    hint: str = DOCUMENTS_HINT,
) -> tuple[Side[AnyRow], Side[AnyRow]]:
    """As `split_held_out`, of rows that need not fit in memory: they are read once to be split, and again by whoever goes
    through a side.

    Raises:
        DataError: as there.
    """
    known, part = Known(read(), spread_over=spread_over), Fraction(str(share))
    texts = _Texts(known)
    sides = _sides(texts.judged(part), len(known))
    train, held_out = (Side(read, _is_on(sides, side)) for side in (TRAIN, HELD_OUT))
    _refuse_too_few(train, held_out, num_texts=texts.num, part=part, hint=hint)
    return train, held_out


def _is_on(sides: Numbers, side: int) -> Numbers:
    return sides.each(lambda block: block == side)


class _Texts:
    """The rows of texts in turn, and how many texts have come."""

    def __init__(self, known: Known) -> None:
        self._known, self.num = known, 0

    def judged(self, part: Fraction) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """The rows of each text, and that they are held out with this part of the texts, evenly spread, or else learnt."""
        above, below = part.as_integer_ratio()
        rows = in_order(counted(map(self._first_places, self._known.texts()), _TEXT), _TEXT)
        for block, news in with_news(rows, ("place",)):
            numbers = self.num + np.cumsum(news)  # of texts, from 1
            first, self.num = int(numbers[0]), int(numbers[-1])
            judged = [n * above // below > (n - 1) * above // below for n in range(first, self.num + 1)]
            yield block["number"], np.where(np.array(judged)[numbers - first], HELD_OUT, TRAIN)

    @staticmethod
    def _first_places(rows: NDArray[Any]) -> NDArray[Any]:
        found = np.empty(len(rows), _TEXT)
        if len(rows):
            starts = np.flatnonzero(np.concatenate([[True], rows["text"][1:] != rows["text"][:-1]]))
            firsts = np.minimum.reduceat(rows["place"].astype(np.int64), starts)
            found["place"] = np.repeat(firsts, np.diff([*starts, len(rows)]))
            found["number"] = rows["number"]
        return found


def sides_given(
    read: Callable[[], Iterable[AnyRow]], read_held_out: Callable[[], Iterable[AnyRow]], *, key: str
) -> tuple[Side[AnyRow], Side[AnyRow]]:
    """As `without_texts`, of rows that need not fit in memory, with those that are held out.

    Raises:
        DataError: as there.
    """
    held_out = Side(read_held_out, Known(read_held_out()).is_first)
    train = Side(read, Known(read()).is_first_beside(Texts(held_out)))
    _refuse_none(len(train), key)
    return train, held_out
