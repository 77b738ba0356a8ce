"""Members of a data set in a file, read one at a time: memory holds only where each of them lies."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, overload, runtime_checkable
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

Ids = tuple[int, ...]
"""What numbers that stand for the tokens of one row are kept as."""

Member = TypeVar("Member")
Other = TypeVar("Other")


class Opened:
    """A file that is closed when nobody holds it any more."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        finalize(self, file.close)

    def at(self, start: int, size: int) -> bytes:
        """So many bytes from there."""
        # pread: no position that processes or threads would share, and no mapped pages that count as this process's.
        return os.pread(self.file.fileno(), size, start)


class ReadOneByOne(Sequence[Member]):
    """A sequence whose members are made when they are asked for: `read` makes one, of a number from 0."""

    @abstractmethod
    def read(self, number: int) -> Member: ...

    @property
    def sizes(self) -> NDArray[Any] | None:
        """Tokens of each member [members, sides], where they are known and no member is read for it."""
        return None

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> list[Member]: ...
    def __getitem__(self, index: int | slice) -> Member | list[Member]:
        numbers = range(len(self))[index]
        return self.read(numbers) if isinstance(numbers, int) else list(map(self.read, numbers))


class Made(ReadOneByOne[Member]):
    """Members that a function makes of their numbers, and holds no longer than whoever asked."""

    def __init__(self, num: int, make: Callable[[int], Member], sizes: NDArray[Any] | None = None) -> None:
        self._num, self._make, self._sizes = num, make, sizes

    def __len__(self) -> int:
        return self._num

    @property
    def sizes(self) -> NDArray[Any] | None:
        return self._sizes

    def read(self, number: int) -> Member:
        """One of them."""
        return self._make(number)


def seen(members: Sequence[Other], look: Callable[[Other], Member], sizes: NDArray[Any] | None = None) -> Made[Member]:
    """One thing of each member, such as a side of it."""
    return Made(len(members), lambda number: look(members[number]), sizes)


def those(members: Sequence[Member], numbers: NDArray[np.int64]) -> Made[Member]:
    """Those of the members that have these numbers."""
    known = members.sizes if isinstance(members, ReadOneByOne) else None
    sizes = None if known is None else known[numbers]
    return Made(len(numbers), lambda number: members[int(numbers[number])], sizes)


def joined(first: Sequence[Member], second: Sequence[Member]) -> Made[Member]:
    """All of the first, and all of the second behind them."""
    num = len(first)
    sizes = np.concatenate([sizes_of(first), sizes_of(second)])
    return Made(num + len(second), lambda n: first[n] if n < num else second[n - num], sizes)


@runtime_checkable
class HasSizes(Protocol):
    """A member that has tokens."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many, on each of its sides."""


def _sizes_of(member: object) -> tuple[int, ...]:
    if isinstance(member, HasSizes):
        return member.sizes
    return (len(member),) if isinstance(member, Sequence) else ()


def sizes_of(members: Sequence[Any]) -> NDArray[Any]:
    """Tokens of each [members, sides]; members that are plain ids have one side."""
    if isinstance(members, ReadOneByOne) and members.sizes is not None:
        return members.sizes
    found = [_sizes_of(member) for member in members]
    return np.array(found, np.int64) if found else np.zeros((0, 1), np.int64)


def lengths_of(members: Sequence[Any]) -> NDArray[np.int64]:
    """Tokens of each, on its longest side."""
    return sizes_of(members).max(axis=1, initial=0).astype(np.int64)


class Kept(ReadOneByOne[Member]):
    """Members of one type in a file: 8 bytes of each stay in memory, and 4 for each of its sides."""

    def __init__(self, opened: Opened, codec: Any, ends: NDArray[np.int64], sizes: NDArray[Any]) -> None:
        self._open, self._codec, self._ends, self._sizes = opened, codec, ends, sizes

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def sizes(self) -> NDArray[Any] | None:
        return self._sizes if self._sizes.shape[1] else None

    def read(self, number: int) -> Member:
        """One of them, from the file."""
        start = int(self._ends[number - 1]) if number else 0
        return self._codec.validate_json(self._open.at(start, int(self._ends[number]) - start))


class Keeping(Generic[Member]):
    """Members that are being put down, as JSON, in a file without a name where temporary ones lie (`TMPDIR`), which is gone
    when nobody reads it any more, however that came about. Their type, a frozen dataclass or a tuple, says how to read them."""

    def __init__(self, of: Any) -> None:
        self._codec = _codec(of)
        self._open = Opened(TemporaryFile())  # noqa: SIM115 - see there
        self._ends, self._sizes, self._end = bytearray(), bytearray(), 0

    def __len__(self) -> int:
        return len(self._ends) // 8

    def add(self, member: Member, sizes: tuple[int, ...] | None = None) -> None:
        """Put one down behind the others."""
        self._end += self._open.file.write(self._codec.dump_json(member))
        self._ends += np.int64(self._end).tobytes()
        self._sizes += np.array(_sizes_of(member) if sizes is None else sizes, np.int32).tobytes()

    def add_all(self, rows: Iterable[Iterable[Any]]) -> None:
        """Put down tuples of all of these."""
        for row in rows:
            self.add(tuple(row))  # type: ignore[arg-type]

    def kept(self) -> Kept[Member]:
        """All that was added."""
        self._open.file.flush()
        sizes = np.frombuffer(self._sizes, np.int32)
        sides = len(sizes) // max(1, len(self))
        return Kept(self._open, self._codec, np.frombuffer(self._ends, np.int64), sizes.reshape(len(self), sides))


def keep(members: Iterable[Member], *, of: Any) -> Kept[Member]:
    """All of these, of this type, each of which is gone through once."""
    keeping: Keeping[Member] = Keeping(of)
    for member in members:
        keeping.add(member)
    return keeping.kept()


@lru_cache
def _codec(of: Any) -> Any:
    return TypeAdapter(of)
