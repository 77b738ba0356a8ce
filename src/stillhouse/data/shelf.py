"""Examples in a file, read one at a time: memory holds none of them, nor where they lie."""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.files import atomic_path
from stillhouse.core.numbers import Counting, Numbers, Opened
from stillhouse.core.objects import Objects
from stillhouse.data.examples import Example
from stillhouse.data.kept import ReadOneByOne

TOKENS, BOUNDS = "tokens", "bounds"
PIECE_BYTES = 2**20
"""Of a shelf elsewhere that are fetched at once."""
_ABOUT = np.dtype([("num_bytes", "<i8"), ("part_of", "S32")])
_TOKEN = np.dtype([("id", "<i4"), ("weight", "<f8")])
"""An example is what is told about it, and its tokens."""
_BOUND = np.dtype("<i8")
"""Where an example begins and the one before ends."""


class _Away:
    """An object that is read in pieces, of which the last is held: whoever reads on asks for few."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects, self._name = objects, name
        self._start, self._piece = 0, b""

    def at(self, start: int, size: int) -> bytes:
        """So many bytes from there."""
        if not self._start <= start <= start + size <= self._start + len(self._piece):
            self._start, self._piece = start, self._objects.part(self._name, start, start + max(size, PIECE_BYTES))
        return self._piece[start - self._start : start - self._start + size]


class Shelf(ReadOneByOne[Example]):
    """A sequence of examples like any other, but for where they are kept. What is read is not kept either."""

    def __init__(self, opened: Opened | _Away, bounds: Numbers) -> None:
        self._open, self._bounds = opened, bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def sizes(self) -> Numbers:
        def part(start: int, stop: int) -> NDArray[np.int64]:
            num_bytes = np.diff(self._bounds.part(start, stop + 1))[:, None]
            return (num_bytes - _ABOUT.itemsize) // _TOKEN.itemsize

        return Numbers(len(self), part)

    def read(self, number: int) -> Example:
        """One example, from the file."""
        start, end = self._bounds.part(number, number + 2).tolist()
        found = self._open.at(start, end - start)
        about, tokens = np.frombuffer(found, _ABOUT, 1)[0], np.frombuffer(found, _TOKEN, offset=_ABOUT.itemsize)
        ids, weights = tuple(tokens["id"].tolist()), tuple(tokens["weight"].tolist())
        return Example(ids, weights, int(about["num_bytes"]), about["part_of"].decode())


class Shelving:
    """A shelf that is being filled, 12 bytes a token: in files of one's own, or in temporary ones."""

    def __init__(self, tokens: BinaryIO | None = None, bounds: BinaryIO | None = None) -> None:
        self._open, self._bounds, self._end = Opened(tokens), Counting(_BOUND, file=bounds), 0
        self._bounds.add(0)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def add(self, example: Example) -> None:
        """Put one down behind the others."""
        tokens = np.empty(len(example.ids), _TOKEN)
        tokens["id"], tokens["weight"] = example.ids, example.weights
        about = np.array((example.num_bytes, example.part_of.encode()), _ABOUT)
        self._end += self._open.file.write(about.tobytes() + tokens.tobytes())
        self._bounds.add(self._end)

    def fill(self, examples: Iterable[Example]) -> "Shelving":
        """Put all of these down."""
        for example in examples:
            self.add(example)
        return self

    def shelf(self) -> Shelf:
        """All that was added."""
        self._open.file.flush()
        return Shelf(self._open, self._bounds.numbers())


def on_shelf(examples: Iterable[Example]) -> Shelf:
    """All of these, each of which is gone through once."""
    return Shelving().fill(examples).shelf()


def write_shelf(examples: Iterable[Example], folder: Path) -> None:
    """The same under a name, for other processes and machines."""
    with atomic_path(folder) as part:
        part.mkdir(parents=True)
        with (part / TOKENS).open("w+b") as tokens, (part / BOUNDS).open("w+b") as bounds:
            Shelving(tokens, bounds).fill(examples).shelf()


def open_shelf(folder: Path) -> Shelf:
    """What `write_shelf` wrote."""
    return Shelf(Opened((folder / TOKENS).open("rb")), _bounds_in(folder))


def put_shelf(examples: Iterable[Example], objects: Objects) -> None:
    """The same as two objects, for machines that share no disk."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "shelf"
        write_shelf(examples, folder)
        for file in (TOKENS, BOUNDS):
            objects.put(folder / file, file)


def shelf_at(objects: Objects) -> Shelf:
    """What `put_shelf` put: where examples lie is fetched, tokens when they are read."""
    with TemporaryDirectory() as name:
        objects.get(BOUNDS, Path(name) / BOUNDS)
        return Shelf(_Away(objects, TOKENS), _bounds_in(Path(name)))


def _bounds_in(folder: Path) -> Numbers:
    opened = Opened((folder / BOUNDS).open("rb"))
    return Numbers.stored(opened, _BOUND, os.fstat(opened.file.fileno()).st_size // _BOUND.itemsize)
