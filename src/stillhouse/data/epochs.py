"""Telling rows that change from epoch to epoch which epoch it is."""

from typing import Any

from transformers import TrainerCallback

from stillhouse.data.rowset import RowSet


class TellEpoch(TrainerCallback):
    """Tells the rows each epoch before it begins.

    accelerate calls `set_epoch` of a dataset too, but not in the epoch in which a run is resumed, nor where several
    processes train: there it stops at the sampler.
    """

    def __init__(self, rows: RowSet) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The state counts epochs as they pass; in the middle of one it is resumed with a fraction."""
        self.rows.set_epoch(int(state.epoch or 0))
