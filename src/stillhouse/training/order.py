"""The order in which rows are learnt."""

from collections.abc import Iterator, Sequence
from random import Random

from torch.utils.data import Sampler

POOL_BATCHES = 50
"""Batches' worth of rows that are sorted together: more saves little more padding, and costs randomness."""


class ByLength(Sampler[int]):
    """Rows in random order, but each batch of rows of like length, so that little of what is computed is padding.

    Random pools are sorted by length, cut into batches, and the batches shuffled. An epoch's order depends on the seed and the
    epoch alone: a run that goes on in the middle of one finds it again.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Become the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        chance = Random(f"{self.seed}, epoch {self.epoch}")
        rows = chance.sample(range(len(self)), len(self))
        pools = _cut(rows, POOL_BATCHES * self.batch_size)
        batches = [batch for pool in pools for batch in _cut(sorted(pool, key=self._length), self.batch_size)]
        # One batch at most is not full. It stays last, or it would take its rows from the next.
        last = [batches.pop()] if len(rows) % self.batch_size else []
        chance.shuffle(batches)
        return (row for batch in [*batches, *last] for row in batch)

    def _length(self, row: int) -> int:
        return self.lengths[row]


def _cut(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
