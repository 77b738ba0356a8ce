"""The order in which rows are learnt: computed pool by pool, so that memory holds a pool and not an epoch."""

from collections.abc import Iterable, Iterator, Sequence
from random import Random

import numpy as np
from torch.utils.data import Sampler

from stillhouse.core.permutation import Permutation

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
        seed, pool = f"{self.seed}, epoch {self.epoch}", POOL_STEPS * self.rows_per_step
        order = Permutation(len(self), seed)
        for start in range(0, len(self), pool):
            rows = _by_length(order.part(start, start + pool).tolist(), self.lengths)
            steps = [rows[first : first + self.rows_per_step] for first in range(0, len(rows), self.rows_per_step)]
            # One step at most is not full. It stays last, or it would take its rows from the next.
            last = [steps.pop()] if len(rows) % self.rows_per_step else []
            Random(f"{seed}, steps from {start}").shuffle(steps)
            yield from (row for step in [*steps, *last] for row in step)


def _by_length(rows: Iterable[int], lengths: Sequence[int]) -> list[int]:
    return sorted(rows, key=lengths.__getitem__)


class Dealt(Sampler[int | None]):
    """An order of rows in which the last batches of an epoch, one for each process, are filled up with None: so each process
    has as many batches, and no row comes twice."""

    def __init__(self, order: "ByLength | MixedByLength", *, rows_together: int) -> None:
        """`rows_together` are those of a micro-batch of every process."""
        self.order, self.rows_together = order, rows_together

    def __len__(self) -> int:
        return -(-len(self.order) // self.rows_together) * self.rows_together

    def set_epoch(self, epoch: int) -> None:
        """Become the order of this epoch."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int | None]:
        yield from self.order
        yield from [None] * (len(self) - len(self.order))


class MixedByLength(Sampler[int]):
    """The same of rows of two kinds: all new ones and `num_replayed` of the old in an epoch, these spread so evenly that up to
    any row the share is exact to one. Old rows are numbered on from the new ones.

    An epoch's order, and which old rows are in it, depend on the seeds and the epoch alone.
    """

    def __init__(
        self,
        new_lengths: Sequence[int],
        old_lengths: Sequence[int],
        *,
        num_replayed: int,
        rows_per_step: int,
        seed: int,
        replay_seed: int,
    ) -> None:
        self.new_lengths, self.old_lengths = new_lengths, old_lengths
        self.num_replayed, self.rows_per_step = num_replayed, rows_per_step
        self.seed, self.replay_seed, self.epoch = seed, replay_seed, 0

    def __len__(self) -> int:
        return len(self.new_lengths) + self.num_replayed

    def set_epoch(self, epoch: int) -> None:
        """Become the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        seed = f"{self.seed}, epoch {self.epoch}"
        new, num_new = Permutation(len(self.new_lengths), seed), len(self.new_lengths)
        for start in range(0, len(self), POOL_STEPS * self.rows_per_step):
            steps = self._steps(start)
            shuffled = Random(f"{seed}, steps from {start}").sample(range(len(steps)), len(steps))
            num_old, stop = self._old_before(start), start + sum(map(len, steps))
            old_rows = self._replayed(num_old, self._old_before(stop))
            new_rows = new.part(start - num_old, stop - self._old_before(stop)).tolist()
            sides = (
                _dealt(_by_length(new_rows, self.new_lengths), False, steps, shuffled),
                _dealt([num_new + row for row in _by_length(old_rows, self.old_lengths)], True, steps, shuffled),
            )
            for number, step in enumerate(steps):
                waiting = [iter(side[number]) for side in sides]
                yield from (next(waiting[is_old]) for is_old in step)

    def _old_before(self, place: int) -> int:
        """How many of the rows before this place are old ones."""
        return place * self.num_replayed // len(self)

    def _steps(self, start: int) -> list[list[bool]]:
        """Which rows of each step of the pool that begins here are old ones."""
        ends = range(start, min(start + POOL_STEPS * self.rows_per_step, len(self)))
        is_old = [self._old_before(place + 1) > self._old_before(place) for place in ends]
        return [is_old[first : first + self.rows_per_step] for first in range(0, len(is_old), self.rows_per_step)]

    def _replayed(self, start: int, stop: int) -> list[int]:
        """The old rows of this epoch from one of them up to another: all in turn, in another order each time."""
        num_old, before = len(self.old_lengths), self.epoch * self.num_replayed
        passes, places = np.divmod(np.arange(before + start, before + stop), num_old)
        return [
            row
            for number in np.unique(passes).tolist()
            for row in Permutation(num_old, f"{self.replay_seed}, pass {number}").at(places[passes == number]).tolist()
        ]


def _dealt(
    rows: Sequence[int], is_old: bool, steps: Sequence[Sequence[bool]], shuffled: Sequence[int]
) -> dict[int, Sequence[int]]:
    """The rows that each step of a pool gets of one kind, those of a step alike in length."""
    dealt: dict[int, Sequence[int]] = {}
    taken = 0
    for number in shuffled:
        count = steps[number].count(is_old)
        dealt[number] = rows[taken : taken + count]
        taken += count
    return dealt
