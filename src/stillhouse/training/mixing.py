"""Rows of other data among those to train on, by an exact ratio: so that a student forgets less, or learns a corpus too."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.batch import as_batch
from stillhouse.core.numbers import Numbers
from stillhouse.data.asked import Asked
from stillhouse.data.context import collated, views_of
from stillhouse.data.kept import sizes_of
from stillhouse.data.packing import to_batch
from stillhouse.data.rowset import RowSet
from stillhouse.data.sampling import rows_beside
from stillhouse.training.order import MixedByLength
from stillhouse.training.ranks import of_all_ranks

NEW, OLD = "new.", "old."
"""Before the names of the tensors of either side, until a step is made of them."""

PADDING: Mapping[str, float] = {
    "documents": -1,
    "spans": -1,
    "teacher_documents": -1,
    "teacher_spans": -1,
    "draw_logprobs": math.nan,
}
"""What rows are filled up with on the right; all else with 0."""


class DocumentRows(RowSet):
    """Documents with the answers that the data has, one a row, to stand among those that a student answers."""

    def __init__(self, asked: Sequence[Asked], *, in_context: bool) -> None:
        """`in_context`, the teacher is shown each on a side of its own, as it is the documents among which they stand."""
        self.asked, self.in_context = asked, in_context

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> Asked:
        return self.asked[index]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each document."""
        return sizes_of(self.asked).each(lambda sizes: sizes[:, 0])

    def collate(self, items: Sequence[Asked]) -> dict[str, Tensor]:
        """Each document as a row, a long one as several."""
        if self.in_context:
            return collated([[view] for view in views_of(items)])
        return to_batch([[piece] for one in items for piece in one.answered]).tensors()


class MixedRows(RowSet):
    """Rows to train on, and among them rows of other data, `share` of all: exactly over an epoch, to the row, and in each step
    as near to it as whole rows can be.

    Every epoch has all of the new rows. The others come in turn, shuffled anew each time that all have come: which, depends on
    the seed and the epoch alone. Each batch says which of its rows are `replayed`.
    """

    def __init__(self, new: RowSet, old: RowSet, *, share: float, seed: int = 0) -> None:
        self.new, self.old, self.seed = new, old, seed
        self.num_replayed = max(1, rows_beside(len(new), share))
        self._in_step = 0

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.new) + self.num_replayed

    def __getitem__(self, index: int) -> tuple[bool, Any]:
        """Whether a row is replayed, and the row: behind those of the new data are all of the old."""
        is_old = index >= len(self.new)
        return is_old, self.old[index - len(self.new)] if is_old else self.new[index]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, of the new data and then of all of the old."""
        return _numbers(self.new.lengths).then(_numbers(self.old.lengths))

    def order(self, *, rows_per_step: int, seed: int) -> MixedByLength:
        """The order in which they are learnt."""
        return MixedByLength(
            self.new.lengths,
            self.old.lengths,
            num_replayed=self.num_replayed,
            rows_per_step=rows_per_step,
            seed=seed,
            replay_seed=self.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Become the rows of this epoch."""
        self.new.set_epoch(epoch)
        self.old.set_epoch(epoch)

    @property
    def run_the_student(self) -> bool:
        """Where the new rows do."""
        return self.new.run_the_student

    def collate(self, items: Sequence[tuple[bool, Any]]) -> dict[str, Tensor]:
        """The tensors of both sides, apart from each other: what is in them, the step decides."""
        new, old = ([item for side, item in items if side is is_old] for is_old in (False, True))
        sides = {NEW: self.new.collate(new) if new else self.new.nothing(), OLD: self.old.collate(old) if old else {}}
        found = {f"{name}{key}": tensor for name, side in sides.items() for key, tensor in side.items()}
        return {**found, "num_replayed": torch.tensor(len(old))}

    def nothing(self) -> dict[str, Tensor]:
        """No row of either side."""
        return self.collate([])

    def at_step(
        self, batches: Sequence[dict[str, Tensor]], *, step: int, progress: float = 0.0
    ) -> list[dict[str, Tensor]]:
        """Each batch with the rows of both sides, the new ones first."""
        self._in_step = sum(of_all_ranks(sum(int(batch["num_replayed"]) for batch in batches)))
        # New rows are told of each batch, also where it has none of them: what they keep is in the order of all batches.
        new = self.new.at_step([_named(batch, NEW) for batch in batches], step=step, progress=progress)
        sides = [_named(batch, OLD) for batch in batches]
        old = iter(self.old.at_step([side for side in sides if side], step=step, progress=progress))
        return [
            joined({} if side and _is_empty(one) else one, next(old) if side else {})
            for one, side in zip(new, sides, strict=True)
        ]

    def numbers(self) -> dict[str, float]:
        """Those of the new rows, and how many of the step's rows were replayed."""
        return {**self.new.numbers(), "replayed_rows": float(self._in_step)}

    def state(self) -> dict[str, Any]:
        """What the new rows remember: those of the old depend on the seed and the epoch alone."""
        return self.new.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.new.restore(state)


def _numbers(lengths: Sequence[int]) -> Numbers:
    return lengths if isinstance(lengths, Numbers) else Numbers.of(np.array(lengths, np.int64))


def _named(batch: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name): tensor for key, tensor in batch.items() if key.startswith(name)}


def _is_empty(batch: Mapping[str, Tensor]) -> bool:
    return not bool((batch["documents"] >= 0).any())


def joined(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of both as one batch, which says which are replayed; either may be empty."""
    sides = [side for side in (new, old) if side]
    found = {
        key: _stacked([side[key] if key in side else _nothing(side, key) for side in sides], PADDING.get(key, 0))
        for key in dict.fromkeys(key for side in sides for key in side)
    }
    counts = [len(side["ids"]) if side else 0 for side in (new, old)]
    replayed = torch.tensor([False, True], device=found["ids"].device).repeat_interleave(
        torch.tensor(counts, device=found["ids"].device)
    )
    return as_batch({**found, "replayed": replayed}).tensors()


def _nothing(side: Mapping[str, Tensor], key: str) -> Tensor:
    """What one side says that the other alone has: that nobody drew anything, and that the student wrote nothing."""
    ids = side["ids"]
    if key == "by_student":
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    assert key == "draw_logprobs", f"only one side has {key}"
    return torch.full(ids.shape, math.nan, device=ids.device)


def _stacked(tensors: Sequence[Tensor], padding: float) -> Tensor:
    """Rows of different widths below each other, filled up on the right."""
    if tensors[0].dim() == 1:
        return torch.cat(list(tensors))
    width = max(tensor.shape[1] for tensor in tensors)
    wide = [torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=padding) for tensor in tensors]
    return torch.cat(wide)
