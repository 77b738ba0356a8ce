"""A teacher that was asked once and wrote its answers down."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from stillhouse.core.batch import Batch
from stillhouse.core.errors import StaleError
from stillhouse.core.label_store import key_of, open_shard, read_head, read_manifest
from stillhouse.core.signals import Signals, Wanted


class StoredTeacher:
    """Reads a label store. Each document is found by the hash of its token ids: none can get another's label."""

    def __init__(self, folder: Path, *, made_from: str | None = None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if made_from is not None and self.manifest.made_from != made_from:
            raise StaleError(f"the labels in {folder} were made from another teacher, tokenizer or data. Label again.")
        self.head = read_head(folder, self.manifest)
        self._open = lru_cache(maxsize=None)(lambda name: open_shard(folder / name))
        self._places = {
            key: (name, record) for name in self.manifest.shards for record, key in enumerate(self._open(name).keys())
        }

    @property
    def vocab_size(self) -> int:
        """Rows of the teacher's head."""
        return self.head.vocab_size

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """Logits from hidden states [batch, seq, hidden] as they were stored, zero in padding, and the teacher's head.

        Raises:
            StaleError: if a document of the batch was never labelled.
        """
        assert wanted == Wanted(logits=True), "only what logits are made of is stored"
        hidden = torch.zeros(*batch.ids.shape, self.manifest.hidden)
        for row in range(len(batch.ids)):
            for document in range(int(batch.documents[row].max()) + 1):
                where = batch.documents[row] == document
                hidden[row, where] = self._find(key_of(batch.ids[row, where].tolist()))
        return Signals(logits=replace(self.head, hidden=hidden))

    def _find(self, key: str) -> torch.Tensor:
        if key not in self._places:
            raise StaleError(f"a text of the data has no label in {self.folder}: the data has changed. Label again.")
        name, record = self._places[key]
        return self._open(name).hidden(record)
