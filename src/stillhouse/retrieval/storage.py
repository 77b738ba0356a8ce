"""Vectors as they are stored: whole, a byte a number, or a bit a number. Queries stay whole, and only documents are coarse."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.files import atomic_path
from stillhouse.retrieval.embed import Vectors

Precision = Literal["float32", "int8", "binary"]
"""4 bytes a number, 1, or an eighth."""

AT_ONCE = 65_536
"""Stored vectors that are unpacked at a time."""


@dataclass(frozen=True)
class StoredVectors:
    """Document vectors in one precision; scores against them are dot products with what each stands for."""

    codes: NDArray[np.generic]
    """[docs, width], or [docs, width / 8] of bits."""
    precision: Precision
    width: int
    ranges: NDArray[np.float32] | None = None
    """[2, width]: lowest and highest number in each dimension, for int8."""

    def __len__(self) -> int:
        return int(self.codes.shape[0])

    @property
    def num_bytes(self) -> int:
        """What the codes take, on disk and in memory."""
        return int(self.codes.nbytes) + (0 if self.ranges is None else int(self.ranges.nbytes))

    def scores(self, queries: Vectors) -> NDArray[np.float32]:
        """[queries, docs]."""
        found = np.empty((len(queries), len(self)), dtype=np.float32)
        for start in range(0, len(self), AT_ONCE):
            found[:, start : start + AT_ONCE] = queries @ self.vectors(start, start + AT_ONCE).T
        return found

    def vectors(self, start: int, end: int) -> Vectors:
        """What the codes of these documents stand for: the middle of a byte's interval, or ±1 for a bit."""
        codes = self.codes[start:end]
        if self.precision == "float32":
            return np.asarray(codes, dtype=np.float32)
        if self.precision == "binary":
            bits = np.unpackbits(np.asarray(codes, dtype=np.uint8), axis=1, count=self.width)
            return np.asarray(bits, dtype=np.float32) * 2 - 1
        assert self.ranges is not None, "int8 vectors have no ranges"
        lowest, highest = self.ranges
        return np.asarray(lowest + (codes.astype(np.float32) + 128.5) * (highest - lowest) / 255, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Keep codes and ranges in a folder."""
        for name, array in {"vectors": self.codes, "ranges": self.ranges}.items():
            if array is not None:
                with atomic_path(folder / f"{name}.npy") as part, part.open("wb") as file:
                    np.save(file, array)

    @classmethod
    def open(cls, folder: Path, *, precision: Precision, width: int) -> "StoredVectors":
        """What `save` kept; the codes by memory map."""
        ranges = np.load(folder / "ranges.npy") if precision == "int8" else None
        return cls(np.load(folder / "vectors.npy", mmap_mode="r"), precision, width, ranges)


def stored(vectors: Vectors, precision: Precision) -> StoredVectors:
    """Vectors in this precision, by sentence-transformers' own quantisation; ranges are those of these vectors."""
    width = vectors.shape[1]
    if precision == "float32":
        return StoredVectors(np.ascontiguousarray(vectors), precision, width)
    from sentence_transformers.util.quantization import quantize_embeddings

    if precision == "binary":
        return StoredVectors(np.asarray(quantize_embeddings(vectors, "ubinary")), precision, width)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)
    codes = np.asarray(quantize_embeddings(vectors, "int8", ranges=ranges))
    return StoredVectors(codes, precision, width, ranges)
