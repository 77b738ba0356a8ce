"""Examples in a file, read one at a time: memory holds only where each of them lies."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.files import atomic_path
from stillhouse.data.examples import Example

TOKENS, INDEX = "tokens", "index.npy"
_TOKEN = np.dtype([("id", "<i4"), ("weight", "<f8")])
_PLACE = np.dtype([("end", "<i8"), ("num_bytes", "<i8"), ("part_of", "S32")])
"""Of one example: 48 bytes that stay in memory."""


class Shelf(Sequence[Example]):
    """A sequence of examples like any other, but for where they are kept. What is read is not kept either."""

    def __init__(self, file: BinaryIO, places: NDArray[Any]) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, none of which is read for it."""
        found: NDArray[np.int64] = np.diff(self._places["end"], prepend=0)
        return found

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        place, start = self._places[number], int(self._places["end"][number - 1]) if number else 0
        size = (int(place["end"]) - start) * _TOKEN.itemsize
        # pread: no position that processes or threads would share, and no mapped pages that count as this process's.
        tokens = np.frombuffer(os.pread(self._file.fileno(), size, start * _TOKEN.itemsize), _TOKEN)
        part_of = place["part_of"].decode()
        return Example(tuple(tokens["id"].tolist()), tuple(tokens["weight"].tolist()), int(place["num_bytes"]), part_of)


def shelve(examples: Iterable[Example]) -> Shelf:
    """Put examples down as they come, in a nameless file of the folder for temporary ones (`TMPDIR`), 12 bytes a token: it is
    gone when nobody reads it any more, however that came about."""
    file: BinaryIO = TemporaryFile()  # noqa: SIM115 - open for as long as the shelf is
    return Shelf(file, _put_down(examples, file))


def write_shelf(examples: Iterable[Example], folder: Path) -> None:
    """The same under a name, for other processes and machines."""
    with atomic_path(folder) as part:
        part.mkdir(parents=True)
        with (part / TOKENS).open("wb") as file:
            places = _put_down(examples, file)
        np.save(part / INDEX, places)


def open_shelf(folder: Path) -> Shelf:
    """What `write_shelf` wrote."""
    return Shelf((folder / TOKENS).open("rb"), np.load(folder / INDEX, mmap_mode="r"))


def _put_down(examples: Iterable[Example], file: BinaryIO) -> NDArray[Any]:
    places, end = bytearray(), 0
    for example in examples:
        tokens = np.empty(len(example.ids), _TOKEN)
        tokens["id"], tokens["weight"] = example.ids, example.weights
        file.write(tokens.data)
        end += len(tokens)
        places += np.array((end, example.num_bytes, example.part_of.encode()), _PLACE).tobytes()
    file.flush()
    return np.frombuffer(bytes(places), _PLACE)
