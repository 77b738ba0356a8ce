"""The order in which rows are learnt."""

from collections.abc import Iterator, Sequence
from random import Random

from torch.utils.data import Sampler

POOL_STEPS = 50
"""Steps' worth of rows that are sorted together: more saves little more padding, and costs randomness."""


class ByLength(Sampler[int]):
    """Rows in random order, but each step of rows of like length, so that little of what is computed is padding.

    Random pools are sorted by length, cut into steps, and the steps shuffled: which rows a step learns from does not depend on
    the micro-batches or ranks that it is shared among. An epoch's order depends on the seed and the epoch alone: a run that
    goes on in the middle of one finds it again.
    """

    def __init__(self, lengths: Sequence[int], *, rows_per_step: int, seed: int) -> None:
        self.lengths, self.rows_per_step, self.seed, self.epoch = lengths, rows_per_step, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Become the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        chance = Random(f"{self.seed}, epoch {self.epoch}")
        rows = chance.sample(range(len(self)), len(self))
        pools = _cut(rows, POOL_STEPS * self.rows_per_step)
        steps = [step for pool in pools for step in _cut(sorted(pool, key=self._length), self.rows_per_step)]
        # One step at most is not full. It stays last, or it would take its rows from the next.
        last = [steps.pop()] if len(rows) % self.rows_per_step else []
        chance.shuffle(steps)
        return (row for step in [*steps, *last] for row in step)

    def _length(self, row: int) -> int:
        return self.lengths[row]


def _cut(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
