"""Adaptive off-policy: a student that answers more as it needs it, and learns many of its answers more than once."""

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from stillhouse.data.asked import Asked, Told
from stillhouse.data.examples import Example
from stillhouse.data.paired import Pair
from stillhouse.data.rowset import RowSet
from stillhouse.kernels.terms import Term
from stillhouse.models.generate import in_use
from stillhouse.objectives import Ramp
from stillhouse.training.loss import distillation_loss
from stillhouse.training.ranks import in_order, of_all_ranks
from stillhouse.training.rollouts import AskedRows, Written

HELD_OUT_ROWS = 8
"""Held-out rows run at once."""


class ReplayRows(AskedRows):
    """Prompts of which the student answers a share that grows as it is needed, and mostly with what it has said before.

    Once `capacity` answers of the student are kept, only `fresh_share` of those that it owes are written anew; the others are
    drawn from what is kept, whatever their prompt. The oldest is forgotten first. Every `check_every_steps` the held-out
    loss, in nats a token, is compared with what it was when the student's share last grew, or at first: where it has risen by
    `tolerance_nats`, the share grows by `share_step`. What is kept, the share and that loss are state, which a checkpoint
    has. Of several processes all keep the answers of all, as one would.

    Source: Ko et al., 2024, arXiv:2402.03898, section 3.2; the decisions are those of its code, row by row instead of batch
    by batch.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        student: Any,
        *,
        held_out: RowSet,
        capacity: int,
        fresh_share: float | Ramp,
        share_step: float,
        tolerance_nats: float,
        check_every_steps: int,
        **answering: Any,
    ) -> None:
        """`answering` is what `AskedRows` takes; its `student_share` is the share at first."""
        super().__init__(asked, student, **answering)
        self.student, self.held_out, self.capacity, self.fresh_share = student, held_out, capacity, fresh_share
        self.share_step, self.tolerance_nats, self.check_every_steps = share_step, tolerance_nats, check_every_steps
        self.kept: deque[Asked] = deque(maxlen=capacity)
        self.loss_before: float | None = None
        """The held-out loss when the share last grew, or at first."""
        self._seen: dict[str, float] = {}

    def _written(self, dealt: Sequence[Sequence[int]], step: int, progress: float) -> dict[int, Written]:
        """What the student says now in some rows, and what it said before in others."""
        if self.share_step and self.share < 1 and (step - 1) % self.check_every_steps == 0:
            self._let_the_share_follow(self._held_out_nats())
        fresh = self.fresh_share.at(progress) if isinstance(self.fresh_share, Ramp) else self.fresh_share
        owed = self._owed(dealt, step)
        is_full = 0 < self.capacity == len(self.kept)
        again = [row for row in owed if is_full and self._point(row, step) >= self.share * fresh]
        found = {row: Written(self._drawn(row, step)) for row in again}
        written = self._answers([row for row in owed if row not in found], step)
        fresh_of = [[written[row].answered for row in rows if row in written] for rows in dealt]
        self.kept.extend(in_order(fresh_of))
        self._seen["replayed"] = sum(of_all_ranks(len(again)))
        return found | written

    def _drawn(self, row: int, step: int) -> Asked:
        return self.kept[Random(f"{self.seed}, replay in step {step}, row {row}").randrange(len(self.kept))]

    def _let_the_share_follow(self, loss: float) -> None:
        self._seen["held_out_nats"] = loss
        if self.loss_before is None:
            self.loss_before = loss
        elif loss >= self.loss_before + self.tolerance_nats:
            self.share, self.loss_before = min(1.0, self.share + self.share_step), loss

    @torch.no_grad()
    def _held_out_nats(self) -> float:
        """What the student gives a token that is held out, on average."""
        total = weight = 0.0
        with in_use(self.student):
            for batch in self.held_out.batches(HELD_OUT_ROWS):
                here = batch.to(self.student.device)
                terms = [Term("next_token")]
                loss, _ = distillation_loss(self.student, here, teacher=None, terms=terms, vocab_size=self.vocab_size)
                total, weight = total + float(loss), weight + float(here.total_weight)
        return total / weight

    def numbers(self) -> dict[str, float]:
        """The student's share, how many answers of the step were said before, and the held-out loss as it was last."""
        return {**super().numbers(), "student_share": self.share, **self._seen}

    def state(self) -> dict[str, Any]:
        """The answers that are kept, as both sides read them, and where the share stands."""
        kept = [[_plain(one), _plain(one.told), _plain_pairs(one.pairs)] for one in self.kept]
        return {"kept": kept, "share": self.share, "loss_before": self.loss_before, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.kept.clear()
        for ours, theirs, pairs in state["kept"]:
            told = Told((), _pieces(theirs)) if theirs else None
            self.kept.append(Asked((), _pieces(ours), told=told, pairs=_pairs(pairs)))
        self.share, self.loss_before, self._seen = state["share"], state["loss_before"], dict(state["seen"])


def _plain(side: Asked | Told | None) -> list[list[list[float]]]:
    """What one side reads, as JSON; nothing where it is the same as the other."""
    return [] if side is None else [[list(piece.ids), list(piece.weights)] for piece in side.answered]


def _pieces(plain: list[list[list[Any]]]) -> tuple[Example, ...]:
    return tuple(Example(tuple(ids), tuple(weights)) for ids, weights in plain)


def _plain_pairs(pairs: Sequence[Pair]) -> list[list[Any]]:
    """What both sides read in tokens of their own, as JSON."""
    return [
        [list(values) for side in (pair.student, pair.teacher) for values in (side.ids, side.weights)]
        + [list(pair.student_spans), list(pair.teacher_spans)]
        for pair in pairs
    ]


def _pairs(plain: Sequence[Sequence[Any]]) -> tuple[Pair, ...]:
    return tuple(
        Pair(Example(ours, our_weights), Example(theirs, their_weights), *spans)
        for ours, our_weights, theirs, their_weights, *spans in (map(tuple, pair) for pair in plain)
    )
