"""A key-value cache that is made once: rows come and go in its slots while others are being written.

All rows have their newest token in one column, and what is left of a row's first is masked: to the model it is a batch padded
on the left, so that a family's own masks, windows and positions hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from stillhouse.models.anatomy import text_config

SPARE_COLUMNS = 64
"""How many tokens are written between two moves of everything to the left, as long as rows come and go."""

New = Float[Tensor, "rows heads new _"]
Seen = Float[Tensor, "rows heads seen _"]


@dataclass
class Window:
    """Which part of the cache the model sees now."""

    start: int
    """The first column that any row at work has a token in."""
    end: int
    """The column of the next token."""
    rows: slice | Int[Tensor, " rows"]
    """The slots that are read. A slice sees what is in them; numbers begin them anew, behind nothing."""

    @property
    def is_new(self) -> bool:
        """Whether rows are begun, each in the columns just before `end`."""
        return not isinstance(self.rows, slice)


class _SlotLayer(DynamicLayer):
    """The keys and values of one layer: [slots, heads, columns, width]."""

    def __init__(self, window: Window, *, slots: int, columns: int, sliding_window: int | None) -> None:
        super().__init__()
        self.window, self.shape, self.sliding_window = window, (slots, columns), sliding_window
        self.is_sliding = sliding_window is not None

    def lazy_initialization(self, key_states: New, value_states: New) -> None:
        """Zeros, not anything: what is masked is multiplied by 0, which a stray infinity would survive."""
        slots, columns = self.shape
        self.keys, self.values = (
            states.new_zeros(slots, states.shape[1], columns, states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: New, value_states: New, *args: Any, **kwargs: Any) -> tuple[Seen, Seen]:
        """Keep what is new in its place, and return all that these rows may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, end, new = self.window.rows, self.window.end, key_states.shape[2]
        if self.window.is_new:
            self.keys[rows, :, end - new : end], self.values[rows, :, end - new : end] = key_states, value_states
            return key_states, value_states
        self.keys[rows, :, end : end + new], self.values[rows, :, end : end + new] = key_states, value_states
        first = self._first(new)
        return self.keys[rows, :, first : end + new], self.values[rows, :, first : end + new]

    def _first(self, new: int) -> int:
        """The first column that the next token can look at."""
        start, end = self.window.start, self.window.end
        return start if self.sliding_window is None else max(start, end + new - self.sliding_window)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns `update` returns, and how many before them it leaves out."""
        if self.window.is_new:
            return query_length, 0
        first = self._first(query_length)
        return self.window.end + query_length - first, first - self.window.start

    def get_seq_length(self) -> int:
        """The columns that are filled."""
        return 0 if self.window.is_new else self.window.end - self.window.start

    def move(self, source: int, target: int) -> None:
        """Let a row have another slot."""
        columns = slice(self.window.start, self.window.end)
        for kept in (self.keys, self.values):
            if kept is not None:
                kept[target, :, columns] = kept[source, :, columns]

    def shift(self, by: int) -> None:
        """Let every row have columns further left."""
        start, end = self.window.start, self.window.end
        for kept in (self.keys, self.values):
            if kept is not None:
                kept[:, :, start - by : end - by] = kept[:, :, start:end].clone()


class Slots(Cache):
    """The keys and values of `slots` rows of up to `most` tokens, of which `prompt` may be there at once."""

    def __init__(self, model: PreTrainedModel, *, slots: int, prompt: int, most: int) -> None:
        self.columns, self.home = max(prompt, most) + SPARE_COLUMNS, prompt
        self.window = Window(prompt, prompt, slice(0, 0))
        windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]
        self.kept = [
            _SlotLayer(self.window, slots=slots, columns=self.columns, sliding_window=window) for window in windows
        ]
        super().__init__(layers=[*self.kept])

    def begin(self, rows: Sequence[int]) -> None:
        """The model is about to read the beginnings of new texts into these slots, padded on the left."""
        self.window.rows = torch.tensor(rows)

    def go_on(self, num_rows: int, *, longest: int) -> None:
        """The model is about to read a token in each of the first rows, of which the longest then has this many."""
        self.window.rows, self.window.start = slice(0, num_rows), self.window.end + 1 - longest
        if self.window.end == self.columns:
            self._shift(self.columns - max(self.home, longest - 1))

    def advance(self) -> None:
        """The token has been read."""
        self.window.end += 1

    def move(self, source: int, target: int) -> None:
        """Let a row have another slot."""
        for layer in self.kept:
            layer.move(source, target)

    def _shift(self, by: int) -> None:
        """Let every row have columns further left, where none is in use."""
        for layer in self.kept:
            layer.shift(by)
        self.window.start, self.window.end = self.window.start - by, self.window.end - by


def can_take_turns(model: PreTrainedModel) -> bool:
    """Whether all that this family remembers of a text is keys and values, token by token."""
    config = text_config(model)
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    names = set(getattr(config, "layer_types", None) or ())
    shares = bool(getattr(config, "num_kv_shared_layers", None))
    return (
        kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
        and names <= {"full_attention", "sliding_attention"}
        and not shares
        and getattr(config, "attention_chunk_size", None) is None
    )
