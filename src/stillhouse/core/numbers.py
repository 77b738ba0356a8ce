"""Numbers in files, as many as there are records: memory holds those alone that are asked for."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Numbers that are read or written at once by whoever goes through all."""
SPARSE = 16
"""Of numbers that are asked for by their places, so many may lie between two for all to be read at once."""


class Opened:
    """A file that is closed when nobody holds it any more: one without a name, where temporary ones lie (`TMPDIR`), which is
    gone then, however that came about, or one of one's own."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file = TemporaryFile() if file is None else file  # noqa: SIM115 - see there
        finalize(self, self.file.close)

    def at(self, start: int, size: int) -> bytes:
        """So many bytes from there."""
        # pread: no position that processes or threads would share, and no mapped pages that count as this process's.
        return os.pread(self.file.fileno(), size, start)


class Numbers(Sequence[Any]):
    """A sequence of numbers, or of rows of them, that are read or computed when they are asked for."""

    def __init__(self, num: int, part: Callable[[int, int], NDArray[Any]]) -> None:
        """`part` gives those from one place up to another, neither of which lies beyond `num`."""
        self._num, self.part = num, part

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Numbers":
        """Numbers that memory holds."""
        return cls(len(values), lambda start, stop: values[start:stop])

    @classmethod
    def stored(cls, opened: Opened, dtype: Any, num: int, *, columns: int | None = None) -> "Numbers":
        """Numbers of a file that holds nothing else, row by row where there are `columns`."""
        kind, width = np.dtype(dtype), 1 if columns is None else columns
        shape, size = (-1,) if columns is None else (-1, width), kind.itemsize * width

        def part(start: int, stop: int) -> NDArray[Any]:
            found = np.frombuffer(opened.at(start * size, (stop - start) * size), kind)
            return found.reshape(shape) if width else np.empty((stop - start, 0), kind)

        return cls(num, part)

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: Any) -> Any:
        """A number, or a row as a list; of a slice, the same numbers without those around them."""
        places = range(self._num)[index]
        if isinstance(places, int):
            return self.part(places, places + 1)[0].tolist()
        assert places.step == 1, "numbers are read as they follow one another"
        first = places.start
        return Numbers(len(places), lambda start, stop: self.part(first + start, first + stop))

    def __iter__(self) -> Iterator[Any]:
        return (number for block in self.blocks() for number in block.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_are_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def blocks(self, size: int | None = None) -> Iterator[NDArray[Any]]:
        """All, so many at once."""
        size = size or BLOCK
        return (self.part(start, min(start + size, self._num)) for start in range(0, self._num, size))

    def array(self) -> NDArray[Any]:
        """All at once, of numbers that are few."""
        return self.part(0, self._num)

    def sum(self) -> int:
        """What all add up to."""
        return sum(int(block.sum()) for block in self.blocks())

    def max(self) -> int:
        """The largest, or 0 where there is none."""
        return max((int(block.max(initial=0)) for block in self.blocks()), default=0)

    def at(self, places: NDArray[Any]) -> NDArray[Any]:
        """Those at these places, in their order."""
        if not len(places):
            return self.part(0, 0)
        first, stop = int(places.min()), int(places.max()) + 1
        if stop - first <= SPARSE * len(places):
            return self.part(first, stop)[places - first]
        return np.concatenate([self.part(place, place + 1) for place in places.tolist()])

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Numbers":
        """What becomes of each, by a function of some at once."""
        return Numbers(self._num, lambda start, stop: change(self.part(start, stop)))

    def those(self, places: "Numbers") -> "Numbers":
        """Those at these places."""
        return Numbers(len(places), lambda start, stop: self.at(places.part(start, stop)))

    def then(self, others: "Numbers") -> "Numbers":
        """All of these, and all of the others behind them."""
        num = self._num

        def part(start: int, stop: int) -> NDArray[Any]:
            ours = self.part(min(start, num), min(stop, num))
            theirs = others.part(max(start - num, 0), max(stop - num, 0))
            return np.concatenate([ours, theirs]) if len(ours) and len(theirs) else ours if len(ours) else theirs

        return Numbers(num + len(others), part)


def _are_equal(one: Any, other: Any) -> bool:
    return bool(one == other)


class Counting:
    """Numbers that are being put down, or rows of equally many: in a `file` of one's own, or a temporary one, where there are
    more than a block of them."""

    def __init__(self, dtype: Any, *, file: BinaryIO | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.columns: int | None = None
        """Numbers in a row; None for single ones."""
        self._open = None if file is None else Opened(file)
        self._few, self._waiting, self._num = list[NDArray[Any]](), list[Any](), 0

    def __len__(self) -> int:
        return self._num + len(self._waiting)

    def add(self, number: Any) -> None:
        """Put one, or a row of them, down behind the others."""
        self._waiting.append(number)
        if len(self._waiting) == BLOCK:
            self._put_waiting()

    def add_all(self, numbers: NDArray[Any]) -> None:
        """The same with some at once."""
        self._put_waiting()
        self._put(np.array(numbers, self.dtype))

    def numbers(self) -> Numbers:
        """All that were added."""
        self._put_waiting()
        if self._open is None:
            # Not `concatenate`, which would turn the bytes of numbers round that begin with their highest.
            few = np.frombuffer(b"".join(few.tobytes() for few in self._few), self.dtype)
            return Numbers.of(few if self.columns is None else few.reshape(self._num, self.columns))
        self._open.file.flush()
        return Numbers.stored(self._open, self.dtype, self._num, columns=self.columns)

    def _put_waiting(self) -> None:
        if self._waiting:
            self._put(np.array(self._waiting, self.dtype))
            self._waiting.clear()

    def _put(self, numbers: NDArray[Any]) -> None:
        self.columns = numbers.shape[1] if numbers.ndim > 1 else None
        self._num += len(numbers)
        self._few.append(numbers)
        if self._open is None and self._num > BLOCK:
            self._open = Opened()
        if self._open is not None:
            self._open.file.writelines(few.tobytes() for few in self._few)
            self._few.clear()


def counted(blocks: Iterable[NDArray[Any]], dtype: Any) -> Numbers:
    """All numbers of these blocks, which are gone through once."""
    counting = Counting(dtype)
    for block in blocks:
        counting.add_all(block)
    return counting.numbers()


def counting(numbers: Iterable[Any], dtype: Any = np.int64) -> Numbers:
    """All of these, each of which is gone through once."""
    found = Counting(dtype)
    for number in numbers:
        found.add(number)
    return found.numbers()


def places_of(is_wanted: Numbers) -> Numbers:
    """The places at which this is so."""
    starts = range(0, len(is_wanted), BLOCK)
    return counted(
        (start + np.flatnonzero(block) for start, block in zip(starts, is_wanted.blocks(), strict=True)), np.int64
    )
