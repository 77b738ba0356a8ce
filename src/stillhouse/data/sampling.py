"""A few of many rows: the first, as chance has it, or in the proportions of a column; and exact shares."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from random import Random
from typing import Generic, TypeVar

Drawn = TypeVar("Drawn")
Kind = TypeVar("Kind", bound=Hashable)


class Reservoir(Generic[Drawn]):
    """Rows as they come by, of which every `size` are equally likely to be the ones that are kept.

    Source: Vitter, 1985, "Random sampling with a reservoir", algorithm R.
    """

    def __init__(self, size: int, *, chance: Random) -> None:
        self.size, self.chance, self.num_seen = size, chance, 0
        self._kept: list[tuple[int, Drawn]] = []

    def add(self, row: Drawn, *, number: int | None = None) -> None:
        """One more comes by; `number` is its place among all, where others than these are counted."""
        place = self.num_seen if self.num_seen < self.size else self.chance.randrange(self.num_seen + 1)
        numbered = (self.num_seen if number is None else number, row)
        if place == len(self._kept) < self.size:
            self._kept.append(numbered)
        elif place < self.size:
            self._kept[place] = numbered
        self.num_seen += 1

    @property
    def numbered(self) -> list[tuple[int, Drawn]]:
        """What is kept, each with its place, in the order of these."""
        return sorted(self._kept, key=lambda pair: pair[0])


def reservoir(rows: Iterable[Drawn], *, size: int, seed: str) -> list[Drawn]:
    """So many of the rows, all sets of them equally likely, in their order; one pass, and no more is held at once."""
    kept: Reservoir[Drawn] = Reservoir(size, chance=Random(seed))
    for row in rows:
        kept.add(row)
    return [row for _, row in kept.numbered]


def stratified(read: Callable[[], Iterable[tuple[Kind, Drawn]]], *, size: int, seed: str) -> list[Drawn]:
    """So many of the rows, each kind in its proportion to the row, and within a kind all sets equally likely; in their order.

    What `read` gives is passed over twice: to count the kinds, and to draw.
    """
    shares = shared_out(Counter(kind for kind, _ in read()), total=size)
    kept: dict[Kind, Reservoir[Drawn]] = {
        kind: Reservoir(share, chance=Random(f"{seed}, {kind}")) for kind, share in shares.items()
    }
    for number, (kind, row) in enumerate(read()):
        kept[kind].add(row, number=number)
    found = [pair for own in kept.values() for pair in own.numbered]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def shared_out(counts: Mapping[Kind, int], *, total: int) -> dict[Kind, int]:
    """How many of each kind make up the total, or all where there are fewer: its exact share rounded down, and one more for
    those with the largest remainders, of equal ones the first.
    """
    num_all = sum(counts.values())
    exact = {kind: Fraction(min(total, num_all) * count, num_all) for kind, count in counts.items()}
    shares = {kind: int(share) for kind, share in exact.items()}
    left = min(total, num_all) - sum(shares.values())
    for kind in sorted(counts, key=lambda kind: shares[kind] - exact[kind])[:left]:
        shares[kind] += 1
    return shares


def rows_beside(num_rows: int, share: float) -> int:
    """How many rows beside these are this share of all, to the row."""
    part = Fraction(str(share))  # exactly as it was written: no binary number is 0.1
    return round(num_rows * part / (1 - part))
