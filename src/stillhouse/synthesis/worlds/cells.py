"""Where a world is weak: cells of which filters leave too little, or in which a student predicts worse than elsewhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

NO_FEATURE = "none"
"""The cell of texts that were asked to have no feature."""

FEWEST_ASKED = 5
"""Prompts below which nothing is said of what filters leave of a cell."""
FEWEST_HELD_OUT = 8
"""Held-out texts below which nothing is said of how well a cell is predicted."""
CHANCE = 0.01
"""How often, over all cells together, so few texts may be left by chance alone."""
DEVIATIONS = 3.0
"""Standard errors by which a cell must be harder than all else: some dozens of cells are looked at."""


@dataclass(frozen=True, order=True)
class Cell:
    """One value of one axis: a feature, a length, or a word of some kind."""

    axis: str
    name: str

    @property
    def title(self) -> str:
        """As a report and a record name it."""
        return f"{self.axis} {self.name}"


@dataclass(frozen=True)
class Weak:
    """A cell that more is asked for in."""

    cell: Cell
    why: str
    weight: float
    """How weak, to share out prompts by: the share of its texts that is missing, or of bits that it has too many."""


@dataclass(frozen=True)
class Asked:
    """One prompt: its cells, and whether its text was kept."""

    cells: frozenset[Cell]
    kept: bool
    drawn_for: str = ""
    """The title of the weak cell that it was drawn for, if any."""


@dataclass(frozen=True)
class Judged:
    """One held-out text: its cells, and how many bits a byte of it takes the student."""

    cells: frozenset[Cell]
    bits_per_byte: float


AnyRow = TypeVar("AnyRow", Asked, Judged)


def weak_cells(asked: Sequence[Asked], held_out: Sequence[Judged], *, most: int = 8) -> list[Weak]:
    """The weakest first. A cell is starved where filters leave so few of its texts that chance does not explain it, and hard
    where the student's bits per byte of held-out texts lie clearly above those of all others. Of a cell that was found, all
    prompts and texts leave the count, so that none is called weak for what it shares with a weaker one.
    """
    found: dict[Cell, Weak] = {}
    while len(found) < most and (weak := _most_starved(asked)) is not None:
        found[weak.cell] = weak
        asked = [row for row in asked if weak.cell not in row.cells]
    held_out = [row for row in held_out if not row.cells & found.keys()]
    while len(found) < most and (weak := _hardest(held_out)) is not None:
        found[weak.cell] = weak
        held_out = [row for row in held_out if weak.cell not in row.cells]
    return list(found.values())


def _most_starved(asked: Sequence[Asked]) -> Weak | None:
    """The cell whose few texts are the least likely, if they are too unlikely. Prompts that were drawn for a cell are no
    chance that it had, but what came of them fills it."""
    counted: dict[Cell, tuple[int, int, float]] = {}
    refilled = {row.drawn_for for row in asked} - {""}
    # What a cell lost before it was filled up again is no fault of the other cells that those prompts were in.
    untouched = [row for row in asked if not any(cell.title in refilled for cell in row.cells)]
    for cell in {cell for row in asked for cell in row.cells}:
        pool = asked if cell.title in refilled else untouched
        rows = [row for row in pool if cell in row.cells]
        chances = sum(row.drawn_for != cell.title for row in rows)
        if chances >= FEWEST_ASKED:
            # What the others keep: a large cell would pull down its own measure.
            counted[cell] = min(chances, sum(row.kept for row in rows)), chances, _share_outside(pool, cell)
    if not counted:
        return None
    likely = {cell: binomial_tail(*found) for cell, found in counted.items()}
    cell = min(likely, key=lambda one: (likely[one], one))
    kept, chances, share = counted[cell]
    if likely[cell] * len(counted) >= CHANCE:
        return None
    wanted = chances * share
    return Weak(cell, f"{kept} of {chances} kept, where others would leave {wanted:.0f}", 1 - kept / wanted)


def _share_outside(asked: Sequence[Asked], cell: Cell) -> float:
    others = [one.kept for one in asked if cell not in one.cells]
    return sum(others) / len(others) if others else 0.0


def _hardest(held_out: Sequence[Judged]) -> Weak | None:
    """The cell that lies the most standard errors above all others, if these are enough."""
    best: tuple[float, Weak] | None = None
    for cell, rows in sorted(_by_cell(held_out).items()):
        inside = np.array([row.bits_per_byte for row in rows])
        outside = np.array([row.bits_per_byte for row in held_out if cell not in row.cells])
        if min(len(inside), len(outside)) < FEWEST_HELD_OUT:
            continue
        excess = float(inside.mean() - outside.mean())
        error = math.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
        if excess > DEVIATIONS * error and (best is None or excess / max(error, 1e-12) > best[0]):
            why = f"{inside.mean():.3f} bits per byte, {excess:.3f} above others"
            best = excess / max(error, 1e-12), Weak(cell, why, excess / float(outside.mean()))
    return None if best is None else best[1]


def _by_cell(rows: Sequence[AnyRow]) -> Mapping[Cell, list[AnyRow]]:
    found: dict[Cell, list[AnyRow]] = {}
    for row in rows:
        for cell in row.cells:
            found.setdefault(cell, []).append(row)
    return found


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """How likely so few successes, or fewer, are among so many trials."""
    return math.fsum(
        math.comb(trials, number) * share**number * (1 - share) ** (trials - number) for number in range(successes + 1)
    )


def shared_out(weak: Sequence[Weak], number: int) -> list[Cell]:
    """So many prompts over the weak cells, by their weights: each has a share to the nearest prompt, and they take turns, so
    that any beginning of the list is shared out like all of it."""
    total = sum(one.weight for one in weak)
    given = dict.fromkeys((one.cell for one in weak), 0)
    chosen: list[Cell] = []
    for place in range(number if weak else 0):
        behind = {one.cell: one.weight / total * (place + 1) - given[one.cell] for one in weak}
        cell = max(behind, key=lambda one: behind[one])
        given[cell] += 1
        chosen.append(cell)
    return chosen
