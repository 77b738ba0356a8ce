"""Members of a data set in a file, read one at a time: memory holds none of them, nor where they lie."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from pydantic import TypeAdapter

from stillhouse.core.numbers import Counting, Numbers, Opened, counting

Ids = tuple[int, ...]
"""What numbers that stand for the tokens of one row are kept as."""

Member = TypeVar("Member")
Other = TypeVar("Other")


class ReadOneByOne(Sequence[Member]):
    """A sequence whose members are made when they are asked for: `read` makes one, of a number from 0."""

    @abstractmethod
    def read(self, number: int) -> Member: ...

    @property
    def sizes(self) -> Numbers | None:
        """Tokens of each member, on each of its sides, where they are known and no member is read for it."""
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

    def __init__(self, num: int, make: Callable[[int], Member], sizes: Numbers | None = None) -> None:
        self._num, self._make, self._sizes = num, make, sizes

    def __len__(self) -> int:
        return self._num

    @property
    def sizes(self) -> Numbers | None:
        return self._sizes

    def read(self, number: int) -> Member:
        """One of them."""
        return self._make(number)


def seen(members: Sequence[Other], look: Callable[[Other], Member], sizes: Numbers | None = None) -> Made[Member]:
    """One thing of each member, such as a side of it."""
    return Made(len(members), lambda number: look(members[number]), sizes)


def those(members: Sequence[Member], numbers: Numbers) -> Made[Member]:
    """Those of the members that have these numbers."""
    known = members.sizes if isinstance(members, ReadOneByOne) else None
    sizes = None if known is None else known.those(numbers)
    return Made(len(numbers), lambda number: members[numbers[number]], sizes)


def joined(first: Sequence[Member], second: Sequence[Member]) -> Made[Member]:
    """All of the first, and all of the second behind them."""
    num = len(first)
    sizes = sizes_of(first).then(sizes_of(second))
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


def sizes_of(members: Sequence[Any]) -> Numbers:
    """Tokens of each on each of its sides; members that are plain ids have one side."""
    if isinstance(members, ReadOneByOne) and members.sizes is not None:
        return members.sizes
    return counting(map(_sizes_of, members), np.int32) if members else Numbers.of(np.zeros((0, 1), np.int32))


def lengths_of(members: Sequence[Any]) -> Numbers:
    """Tokens of each, on its longest side."""
    return sizes_of(members).each(lambda sizes: sizes.max(axis=1, initial=0).astype(np.int64))


class Kept(ReadOneByOne[Member]):
    """Members of one type in a file."""

    def __init__(self, opened: Opened, codec: Any, bounds: Numbers, sizes: Numbers | None) -> None:
        """Each member lies between two `bounds`."""
        self._open, self._codec, self._bounds, self._sizes = opened, codec, bounds, sizes

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def sizes(self) -> Numbers | None:
        return self._sizes

    def read(self, number: int) -> Member:
        """One of them, from the file."""
        start, end = self._bounds.part(number, number + 2).tolist()
        return self._codec.validate_json(self._open.at(start, end - start))


class Keeping(Generic[Member]):
    """Members that are being put down, as JSON, in a temporary file. Their type, a frozen dataclass or a tuple, says how to
    read them."""

    def __init__(self, of: Any) -> None:
        self._codec, self._open, self._end = _codec(of), Opened(), 0
        self._bounds, self._sizes = Counting(np.int64), Counting(np.int32)
        self._bounds.add(0)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def add(self, member: Member, sizes: tuple[int, ...] | None = None) -> None:
        """Put one down behind the others."""
        self._end += self._open.file.write(self._codec.dump_json(member))
        self._bounds.add(self._end)
        self._sizes.add(_sizes_of(member) if sizes is None else sizes)

    def add_all(self, rows: Iterable[Iterable[Any]]) -> None:
        """Put down tuples of all of these."""
        for row in rows:
            self.add(tuple(row))  # type: ignore[arg-type]

    def kept(self) -> Kept[Member]:
        """All that was added."""
        self._open.file.flush()
        sizes = self._sizes.numbers()
        return Kept(self._open, self._codec, self._bounds.numbers(), sizes if self._sizes.columns else None)


def keep(members: Iterable[Member], *, of: Any) -> Kept[Member]:
    """All of these, of this type, each of which is gone through once."""
    keeping: Keeping[Member] = Keeping(of)
    for member in members:
        keeping.add(member)
    return keeping.kept()


@lru_cache
def _codec(of: Any) -> Any:
    return TypeAdapter(of)
