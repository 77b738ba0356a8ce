"""An order of any number of things that takes no memory: which of them comes at a place is computed."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import isqrt

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
SMALLEST_SIDE = 16
"""Rounds shuffle a few things badly, so that less than 256 are shuffled among as many that are nothing."""


@dataclass(frozen=True)
class Permutation:
    """One order of the numbers below `num`, and another for every seed.

    A Feistel network: a number is a place in a square, of which each round moves one coordinate by a hash of the other, so that
    every round can be undone. What falls beyond `num` is moved on until it does not (cycle walking). Source: Black and Rogaway,
    2002, "Ciphers with arbitrary finite domains", sections 4 and 5.
    """

    num: int
    seed: str

    def __len__(self) -> int:
        return self.num

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that come at these places, each below `num`."""
        found = self._once(places.astype(np.uint64))
        while (beyond := np.flatnonzero(found >= self.num)).size:
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def part(self, start: int, stop: int) -> NDArray[np.int64]:
        """Those that come from one place up to another."""
        return self.at(np.arange(start, min(stop, self.num)))

    @cached_property
    def _side(self) -> np.uint64:
        return np.uint64(max(SMALLEST_SIDE, isqrt(max(0, self.num - 1)) + 1))

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        found = blake2b(self.seed.encode(), digest_size=8 * ROUNDS).digest()
        return np.frombuffer(found, "<u8").astype(np.uint64)

    def _once(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = np.divmod(places, self._side)
        for key in self._keys:
            left, right = right, (left + _hashed(right ^ key) % self._side) % self._side
        return left * self._side + right


def _hashed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finisher, whose products wrap around (Steele et al., 2014, figure 1)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
