"""Examples in a file, read one at a time: memory holds only where each of them lies."""

from array import array
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.files import atomic_path
from stillhouse.core.objects import Objects
from stillhouse.data.examples import Example
from stillhouse.data.kept import Opened, ReadOneByOne

TOKENS, INDEX = "tokens", "index.npy"
PIECE_BYTES = 2**20
"""Of a shelf elsewhere that are fetched at once."""
_ABOUT = np.dtype([("num_bytes", "<i8"), ("part_of", "S32")])
_TOKEN = np.dtype([("id", "<i4"), ("weight", "<f8")])
"""An example is what is told about it, and its tokens. Of each, 8 bytes stay in memory: where it ends."""


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

    def __init__(self, opened: Opened | _Away, ends: NDArray[np.int64]) -> None:
        self._open, self._ends = opened, ends

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def sizes(self) -> NDArray[Any]:
        return (np.diff(self._ends, prepend=0)[:, None] - _ABOUT.itemsize) // _TOKEN.itemsize

    def read(self, number: int) -> Example:
        """One example, from the file."""
        start = int(self._ends[number - 1]) if number else 0
        found = self._open.at(start, int(self._ends[number]) - start)
        about, tokens = np.frombuffer(found, _ABOUT, 1)[0], np.frombuffer(found, _TOKEN, offset=_ABOUT.itemsize)
        ids, weights = tuple(tokens["id"].tolist()), tuple(tokens["weight"].tolist())
        return Example(ids, weights, int(about["num_bytes"]), about["part_of"].decode())


class Shelving:
    """A shelf that is being filled, 12 bytes a token: in a `file` of one's own, or in one without a name, where temporary ones
    lie (`TMPDIR`), which is gone when nobody reads it any more, however that came about."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._open = Opened(TemporaryFile() if file is None else file)  # noqa: SIM115 - see there
        self._ends, self._end = array("q"), 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, example: Example) -> None:
        """Put one down behind the others."""
        tokens = np.empty(len(example.ids), _TOKEN)
        tokens["id"], tokens["weight"] = example.ids, example.weights
        about = np.array((example.num_bytes, example.part_of.encode()), _ABOUT)
        self._end += self._open.file.write(about.tobytes() + tokens.tobytes())
        self._ends.append(self._end)

    def fill(self, examples: Iterable[Example]) -> "Shelving":
        """Put all of these down."""
        for example in examples:
            self.add(example)
        return self

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each ends."""
        return np.array(self._ends, np.int64)

    def shelf(self) -> Shelf:
        """All that was added."""
        self._open.file.flush()
        return Shelf(self._open, self.ends)


def on_shelf(examples: Iterable[Example]) -> Shelf:
    """All of these, each of which is gone through once."""
    return Shelving().fill(examples).shelf()


def write_shelf(examples: Iterable[Example], folder: Path) -> None:
    """The same under a name, for other processes and machines."""
    with atomic_path(folder) as part:
        part.mkdir(parents=True)
        with (part / TOKENS).open("wb") as file:
            filled = Shelving(file).fill(examples)
        np.save(part / INDEX, filled.ends)


def open_shelf(folder: Path) -> Shelf:
    """What `write_shelf` wrote."""
    return Shelf(Opened((folder / TOKENS).open("rb")), np.load(folder / INDEX, mmap_mode="r"))


def put_shelf(examples: Iterable[Example], objects: Objects) -> None:
    """The same as two objects, for machines that share no disk."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "shelf"
        write_shelf(examples, folder)
        for file in (TOKENS, INDEX):
            objects.put(folder / file, file)


def shelf_at(objects: Objects) -> Shelf:
    """What `put_shelf` put: the index is fetched, tokens when they are read."""
    with TemporaryDirectory() as name:
        objects.get(INDEX, Path(name) / INDEX)
        return Shelf(_Away(objects, TOKENS), np.load(Path(name) / INDEX))
