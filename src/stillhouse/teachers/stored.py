"""A teacher that was asked once and wrote its answers down."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.errors import StaleError
from stillhouse.core.label_codecs import (
    Ragged,
    Section,
    sampled_from_bytes,
    sparse_from_bytes,
    states_from_bytes,
)
from stillhouse.core.label_store import StoreFiles, key_of
from stillhouse.core.numbers import Counting
from stillhouse.core.signals import FactoredLogits, SampledTokens, Signals, SparseLogprobs, Tail, Wanted
from stillhouse.core.sorting import Index
from stillhouse.objectives.sparse import renormalised


@dataclass(frozen=True)
class _Found:
    """The records of a batch's documents, in the order in which they stand there."""

    batch: Batch
    records: Sequence[Sequence[Section]]

    def in_place(self, values: Float[Tensor, "tokens *rest"] | Int[Tensor, "tokens *rest"], padding: float) -> Tensor:
        """Each document's rows where it stands, [batch, seq, *rest], and `padding` elsewhere."""
        return in_place(self.batch, values, padding)


def in_place(
    batch: Batch, values: Float[Tensor, "tokens *rest"] | Int[Tensor, "tokens *rest"], padding: float
) -> Tensor:
    """Rows of all documents of a batch, one after another, where they stand, [batch, seq, *rest], and `padding` elsewhere."""
    values = values.to(batch.ids.device)
    whole = values.new_full((*batch.ids.shape, *values.shape[1:]), padding)
    whole[batch.real] = values
    return whole


class StoredTeacher:
    """Reads a label store. Each document is found by the hash of its token ids: none can get another's label.

    Of a store of several `temperatures` it speaks at one. What a sparse store leaves out is one bucket, or, `renormalised`, as
    if it were never said.
    """

    def __init__(
        self,
        folder: Path,
        *,
        made_from: str | None = None,
        temperature: float | None = None,
        tail: Tail = "bucket",
        files: StoreFiles | None = None,
    ) -> None:
        """With `files`, those are read in the place of the folder's own."""
        self.folder = folder
        self.tail = tail
        self._files = files or StoreFiles(folder)
        self.manifest = self._files.manifest
        if made_from is not None and self.manifest.made_from != made_from:
            raise StaleError(f"the labels in {folder} were made from another teacher, tokenizer or data. Label again.")
        self.temperature = self._temperature(temperature)
        self.head = self._files.head()
        self._places = _Places(self._files.keys())

    def _temperature(self, wanted: float | None) -> float:
        settings = self.manifest.settings
        known = settings.get("temperatures", [settings.get("temperature", wanted or 1.0)])
        chosen = known[0] if wanted is None else wanted
        if chosen not in known:
            raise StaleError(
                f"the labels in {self.folder} hold the teacher at temperature {', '.join(map(str, known))}, but {chosen} is "
                "asked for. Label again at that, or with signal last_hidden, which serves any."
            )
        return float(chosen)

    @property
    def vocab_size(self) -> int:
        """Tokens that can be predicted; 0 where nothing is kept that predicts."""
        return int(self.manifest.settings.get("vocab_size", 0)) if self.head is None else self.head.vocab_size

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """What was stored, in its own form, at every position of the batch; zero in padding.

        Raises:
            StaleError: if a document of the batch was never labelled.
        """
        layers = self.manifest.settings.get("layers", [])
        assert not wanted.attentions and wanted.pooling is None, "neither attention nor embeddings are ever stored"
        assert wanted.hidden_states <= set(layers), f"layers {layers} are stored, and {wanted.hidden_states} wanted"
        found = _Found(batch, [self._find(key) for key in _keys(batch)])
        places = {layer: place for place, layer in enumerate(layers, start=self.head is not None)}
        return Signals(
            logits=self._logits(found) if wanted.logits else None,
            hidden_states={layer: self._states(found, places[layer]) for layer in sorted(wanted.hidden_states)},
        )

    def _find(self, key: str) -> list[Section]:
        place = self._places.find(key)
        if place is None:
            raise StaleError(f"a text of the data has no label in {self.folder}: the data has changed. Label again.")
        shard, record = place
        return self._files.shard(self.manifest.shards[shard]).record(record)

    def _logits(self, found: _Found) -> FactoredLogits | SparseLogprobs | SampledTokens:
        match self.manifest.signal:
            case "sparse":
                return self._sparse(found)
            case "sampled":
                return self._sampled(found)
        assert self.head is not None, "labels without last hidden states have no logits"
        hidden = self._states(found, 0)
        if self.head.weight.device != hidden.device:  # moved once, not in every step
            bias = None if self.head.bias is None else self.head.bias.to(hidden.device)
            self.head = replace(self.head, hidden=hidden[:0], weight=self.head.weight.to(hidden.device), bias=bias)
        return replace(self.head, hidden=hidden)

    def _states(self, found: _Found, place: int) -> Float[Tensor, "batch seq hidden"]:
        """The hidden states that stand at this place of every record."""
        bits = self.manifest.settings["bits"]
        parts = [states_from_bytes(record[2 * place : 2 * place + 2], bits=bits) for record in found.records]
        return found.in_place(torch.from_numpy(np.concatenate(parts)), 0.0)

    def _sparse(self, found: _Found) -> SparseLogprobs:
        temperatures = self.manifest.settings["temperatures"]
        known = {"vocab_size": self.vocab_size, "temperatures": len(temperatures)}
        records = [sparse_from_bytes(record, **known) for record in found.records]
        ids, logits = _padded([record.tokens for record in records], [record.logits for record in records])
        tails = np.concatenate([record.tails[temperatures.index(self.temperature)] for record in records])
        # Normalised here, not before: so rounding never makes a row sum to more or less than 1.
        buckets = torch.cat([logits / self.temperature, torch.from_numpy(tails)[:, None]], -1).log_softmax(-1)
        said = SparseLogprobs(
            found.in_place(ids, 0),
            found.in_place(buckets[:, :-1], -torch.inf),
            found.in_place(buckets[:, -1], 0.0),
            self.vocab_size,
            self.temperature,
        )
        return said if self.tail == "bucket" else renormalised(said)

    def _sampled(self, found: _Found) -> SampledTokens:
        draws = self.manifest.settings["draws"]
        records = [sampled_from_bytes(record, vocab_size=self.vocab_size) for record in found.records]
        logs = [np.log(record.draws / draws).astype(np.float32) + record.corrections for record in records]
        ids, log_weights = _padded([record.tokens for record in records], logs)
        entropies = torch.from_numpy(np.concatenate([record.entropies for record in records]))
        return SampledTokens(
            found.in_place(ids, 0),
            found.in_place(log_weights.exp(), 0.0),
            found.in_place(entropies, 0.0),
            self.vocab_size,
            self.temperature,
        )


class _Places:
    """In which shard a record lies, and which it is there."""

    def __init__(self, parts: Iterable[NDArray[Any]]) -> None:
        starts, keys = [0], Counting("S16")
        for part in parts:
            keys.add_all(part)
            starts.append(len(keys))
        self._starts, self._index = np.array(starts), Index(keys.numbers())

    def find(self, key: str) -> tuple[int, int] | None:
        """Shard and record, by their numbers; of several with one key the last."""
        number = self._index.find(bytes.fromhex(key))
        if number is None:
            return None
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return shard, number - int(self._starts[shard])


def _keys(batch: Batch) -> Iterator[str]:
    """The keys of a batch's documents, in the order in which they stand there."""
    yield from map(key_of, documents_of(batch))


def documents_of(batch: Batch) -> Iterator[tuple[int, ...]]:
    """The tokens of a batch's documents, in the order in which they stand there."""
    rows = torch.arange(len(batch.ids), device=batch.ids.device)[:, None] * (batch.ids.shape[1] + 1)
    _, lengths = (rows + batch.documents)[batch.real].unique_consecutive(return_counts=True)
    for ids in batch.ids[batch.real].split(lengths.tolist()):
        yield tuple(ids.tolist())


def _padded(
    rows: Sequence[Ragged], values: Sequence[Float[np.ndarray, "_"]]
) -> tuple[Int[Tensor, "tokens k"], Float[Tensor, "tokens k"]]:
    """Rows of all records, filled up to the longest with id 0 and minus infinity."""
    counts = np.concatenate([row.counts for row in rows])
    starts = np.cumsum(counts) - counts
    row_numbers = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(row_numbers)) - np.repeat(starts, counts)
    shape = (len(counts), int(counts.max(initial=0)))
    ids, padded = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    ids[row_numbers, places] = np.concatenate([row.ids for row in rows])
    padded[row_numbers, places] = np.concatenate(values)
    return torch.from_numpy(ids), torch.from_numpy(padded)
