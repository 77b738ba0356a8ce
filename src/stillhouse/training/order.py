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


def _cut(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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
        self.lengths, self.num_new, self.num_old = [*new_lengths, *old_lengths], len(new_lengths), len(old_lengths)
        self.num_replayed, self.rows_per_step = num_replayed, rows_per_step
        self.seed, self.replay_seed, self.epoch = seed, replay_seed, 0

    def __len__(self) -> int:
        return self.num_new + self.num_replayed

    def set_epoch(self, epoch: int) -> None:
        """Become the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        chance = Random(f"{self.seed}, epoch {self.epoch}")
        total = len(self)
        places = [(n + 1) * self.num_replayed // total > n * self.num_replayed // total for n in range(total)]
        steps = [list(step) for step in _cut(places, self.rows_per_step)]
        shuffled = chance.sample(range(len(steps)), len(steps))
        new = chance.sample(range(self.num_new), self.num_new)
        sides = (self._dealt(new, False, steps, shuffled), self._dealt(self._replayed(), True, steps, shuffled))
        for number, step in enumerate(steps):
            waiting = [iter(side[number]) for side in sides]
            yield from (next(waiting[is_old]) for is_old in step)

    def _dealt(
        self, rows: Sequence[int], is_old: bool, steps: Sequence[Sequence[int]], shuffled: Sequence[int]
    ) -> dict[int, Sequence[int]]:
        """The rows that each step gets of one kind, those of a step alike in length."""
        dealt: dict[int, Sequence[int]] = {}
        start = 0
        for pool in _cut(shuffled, POOL_STEPS):
            wanted = [steps[number].count(is_old) for number in pool]
            alike = sorted(rows[start : start + sum(wanted)], key=self.lengths.__getitem__)
            start, taken = start + sum(wanted), 0
            for number, count in zip(pool, wanted, strict=True):
                dealt[number] = alike[taken : taken + count]
                taken += count
        return dealt

    def _replayed(self) -> list[int]:
        """The old rows of this epoch: all in turn, in another order each time."""
        first = self.epoch * self.num_replayed
        passes = range(first // self.num_old, (first + self.num_replayed - 1) // self.num_old + 1)
        in_turn = [row for number in passes for row in self._shuffled(number)]
        start = first - passes[0] * self.num_old
        return [self.num_new + row for row in in_turn[start : start + self.num_replayed]]

    def _shuffled(self, number: int) -> list[int]:
        return Random(f"{self.replay_seed}, pass {number}").sample(range(self.num_old), self.num_old)
