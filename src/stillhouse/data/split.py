"""Two sides that share no text: one to learn from, and one that nobody trains on."""

import math
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Sized
from dataclasses import fields, is_dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import compress
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import DataError
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


class Side(Iterable[AnyRow]):
    """Rows of one side, which are read anew each time they are gone through: memory holds only which they are."""

    def __init__(self, read: Callable[[], Iterable[AnyRow]], kept: NDArray[np.bool_]) -> None:
        self._read, self._kept = read, kept

    def __len__(self) -> int:
        return int(self._kept.sum())

    def __iter__(self) -> Iterator[AnyRow]:
        return compress(self._read(), self._kept)

    def without(self, texts: "Texts", *, key: str) -> "Side[AnyRow]":
        """The same save rows whose text is among these, which the recipe names under `key`.

        Raises:
            DataError: if none is left.
        """
        kept = self._kept & np.fromiter((row.text not in texts for row in self._read()), np.bool_, len(self._kept))
        _refuse_none(int(kept.sum()), key)
        return Side(self._read, kept)


class Texts:
    """Texts that are only known again, by 16 bytes each."""

    def __init__(self, rows: Iterable[HasText]) -> None:
        found = bytearray()
        for row in rows:
            found += hash_of(row.text)
        self._hashes = np.unique(np.frombuffer(found, "S16"))

    def __contains__(self, text: str) -> bool:
        wanted = np.frombuffer(hash_of(text), "S16")[0]
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and bool(self._hashes[place] == wanted)


class Known:
    """Rows by their hashes, 32 bytes each in their order: which come again, and which have one text; and what they are to be
    spread over."""

    def __init__(self, rows: Iterable[HasText], *, spread_over: Callable[[Any], Any] | None = None) -> None:
        rows_seen, texts_seen, places, kinds = bytearray(), bytearray(), array("d"), dict[Any, int]()
        for row in rows:
            rows_seen += blake2b(repr(_identity(row)).encode(), digest_size=16).digest()
            texts_seen += hash_of(row.text)
            if spread_over is not None:
                kind = spread_over(row)
                places.append(kind if isinstance(kind, float) else kinds.setdefault(kind, len(kinds)))
        self.texts = np.frombuffer(texts_seen, "S16")
        self.is_first = np.zeros(len(self.texts), np.bool_)
        self.is_first[np.unique(np.frombuffer(rows_seen, "S16"), return_index=True)[1]] = True
        self.order: NDArray[np.int64] | slice = slice(None)
        """Numbers of the rows, those together that are alike in what they are spread over."""
        if places:
            spread = np.array(places)
            ranks = {kind: rank for rank, kind in enumerate(sorted(kinds))}
            ranked = np.array([ranks[kind] for kind in kinds])[spread.astype(np.int64)] if kinds else spread
            self.order = np.argsort(ranked, kind="stable")


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
    _, firsts, numbers = np.unique(known.texts[known.order], return_index=True, return_inverse=True)
    above, below = part.as_integer_ratio()
    is_judged = np.empty(len(firsts), np.bool_)
    in_turn = ((n + 1) * above // below > n * above // below for n in range(len(firsts)))
    is_judged[np.argsort(firsts)] = np.fromiter(in_turn, np.bool_, len(firsts))
    on_trial = np.empty(len(known.texts), np.bool_)
    on_trial[known.order] = is_judged[numbers]
    train, held_out = Side(read, known.is_first & ~on_trial), Side(read, known.is_first & on_trial)
    _refuse_too_few(train, held_out, num_texts=len(firsts), part=part, hint=hint)
    return train, held_out


def sides_given(
    read: Callable[[], Iterable[AnyRow]], read_held_out: Callable[[], Iterable[AnyRow]], *, key: str
) -> tuple[Side[AnyRow], Side[AnyRow]]:
    """As `without_texts`, of rows that need not fit in memory, with those that are held out.

    Raises:
        DataError: as there.
    """
    known, judged = Known(read()), Known(read_held_out())
    train = Side(read, known.is_first & ~np.isin(known.texts, judged.texts))
    _refuse_none(len(train), key)
    return train, Side(read_held_out, judged.is_first)
