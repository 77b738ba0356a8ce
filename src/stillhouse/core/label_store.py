"""The teacher's stored answers on disk: format 2. `labelling/` writes it, `teachers/stored` reads it.

    labels/
    ├── manifest.json              format, signal, its settings, what it was made from, and the shards in order
    ├── head.safetensors           `weight` [vocab, hidden] and, where the teacher has one, `bias` [vocab]
    └── shard-00000.safetensors    `payload` [bytes], memory-mapped; `lengths` [records, sections]: bytes of each part of it;
                                   `keys` [records, 16]; `tokens` [records]

A record is one example, found by the hash of its token ids, so a label cannot be given to another text. Head and shards
are sealed with what they were made from and the SHA-256 of that and their content. Whatever has no manifest is unfinished.
`docs/label-format.md` describes every byte, `label_codecs` writes and reads the parts.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.files import atomic_path, fingerprint, is_plain_name, write_atomic
from stillhouse.core.label_codecs import Section
from stillhouse.core.objects import Objects
from stillhouse.core.signals import FactoredLogits

FORMAT = 2
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
OPEN_BYTES = 2**28
"""Of shards that stay open: their pages count as this process's memory once they are read."""
KEYS = "keys.safetensors"
"""In an object store alone: the keys of all shards, so that none is fetched to know what is in it."""


def key_of(ids: Sequence[int]) -> str:
    """What a record is found by: 128 bits of SHA-256 over its token ids, as hex."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """What a store is and what it was made from."""

    format: int
    signal: str
    settings: dict[str, Any]
    """What the signal's reader must know, such as `vocab_size`."""
    made_from: str
    """Hash of teacher, tokenizer, and data."""
    head: dict[str, Any] | None
    """How the head's product becomes logits, `scale` and `softcap`; None where no head is kept."""
    shards: list[str]
    tokens: int
    records: int

    @property
    def seal(self) -> str:
        """What every file of this store is sealed with."""
        return seal_of(self.signal, self.settings, made_from=self.made_from)


def seal_of(signal: str, settings: Mapping[str, Any], *, made_from: str) -> str:
    """Hash of all that the content of a file depends on."""
    return fingerprint([FORMAT, signal, dict(settings), made_from])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare the store finished."""
    values = asdict(manifest)
    write_atomic(folder / MANIFEST, json.dumps({**values, "check": fingerprint(values)}, indent=1))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        DataError: if there is none.
        StaleError: if another version wrote it.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(f"{folder} holds no finished labels. Run `stillhouse label` first.")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise StaleError(
                f"{folder} has label format {values['format']}, and this version reads {FORMAT}. Remove it and label again."
            )
        if values.pop("check") == fingerprint(values):
            return _staying_in(folder, Manifest(**values))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{path} is not what was written. `stillhouse label` makes it again.")


def _staying_in(folder: Path, manifest: Manifest) -> Manifest:
    """Whoever writes a manifest says which files are opened: only those beside it."""
    strange = [name for name in manifest.shards if not is_plain_name(name)]
    if strange:
        raise DataError(
            f"{folder / MANIFEST} names a file outside of its folder: {strange[0]!a}. Remove it, and label again."
        )
    return manifest


def write_head(folder: Path, head: FactoredLogits, *, seal: str) -> None:
    """Keep the teacher's head, so that training needs nothing else of the teacher."""
    tensors = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
    _write({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / HEAD, seal)


def read_head(folder: Path, manifest: Manifest) -> FactoredLogits:
    """The teacher's head, with no hidden states yet: hidden is [0, hidden].

    Raises:
        DataError: if it is missing, cut short, or changed.
    """
    assert manifest.head is not None, f"labels of signal {manifest.signal} have no head"
    tensors, seal = _read(folder / HEAD)
    _refuse_a_strangers(folder / HEAD, seal, manifest)
    weight = tensors["weight"]
    return FactoredLogits(weight.new_zeros(0, weight.shape[1]), weight, tensors.get("bias"), **manifest.head)


def stored_bytes(record: Sequence[bytes]) -> int:
    """What a record takes in a shard: its sections, their lengths, and its key."""
    return sum(len(section) + 4 for section in record) + 16


def write_shard(path: Path, keys: Sequence[str], records: Sequence[Sequence[bytes]], *, tokens: int, seal: str) -> None:
    """One shard: the sections of each record, one after another."""
    sections = [section for record in records for section in record]
    tensors = {
        "payload": torch.frombuffer(bytearray(b"".join(sections)), dtype=torch.uint8),
        "lengths": torch.tensor([len(section) for section in sections], dtype=torch.int32).reshape(len(records), -1),
        "keys": torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8),
        "tokens": torch.tensor(tokens),
    }
    _write(tensors, path, seal)


def _write(tensors: dict[str, Tensor], path: Path, seal: str) -> None:
    with atomic_path(path) as part:
        # One entry: safetensors writes several in an order of its own, and equal labels should be equal bytes.
        save_file(tensors, part, metadata={"seal": f"{_digest(tensors, seal)} {seal}"})


def _read(path: Path, *, is_known: bool = False) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file of ours, memory-mapped, and what they were sealed with. What `is_known` is not checked again.

    Raises:
        DataError: if it is missing, cut short, or changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            digest, _, seal = (file.metadata() or {}).get("seal", "").partition(" ")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is missing or cut short ({error}). `stillhouse label` makes only it again.") from None
    if not is_known and digest != _digest(tensors, seal):
        raise DataError(
            f"{path} is not what was written: its content does not match its hash. `stillhouse label` makes only it again."
        )
    return tensors, seal


def _digest(tensors: dict[str, Tensor], seal: str) -> str:
    whole = hashlib.sha256(seal.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@dataclass(frozen=True)
class Shard:
    """An open shard: memory-mapped, read where it is asked."""

    tensors: dict[str, Tensor]
    seal: str

    @cached_property
    def num_bytes(self) -> int:
        """Of all that it holds."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def keys(self) -> list[str]:
        """The keys of its records, in order."""
        return [bytes(row).hex() for row in self.tensors["keys"].tolist()]

    @property
    def tokens(self) -> int:
        """Tokens of all its records."""
        return int(self.tensors["tokens"])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        lengths = self.tensors["lengths"].numpy()
        ends: NDArray[np.int64] = lengths.cumsum(dtype=np.int64).reshape(lengths.shape)
        return ends

    def record(self, number: int) -> list[Section]:
        """One record's sections, without a copy."""
        payload, ends = self.tensors["payload"].numpy().data, self._ends[number].tolist()
        first = ends[0] - int(self.tensors["lengths"][number, 0])
        return [payload[start:end] for start, end in pairwise([first, *ends])]


def open_shard(path: Path, manifest: Manifest | None = None, *, is_known: bool = False) -> Shard:
    """Open a shard, check its content against its hash, unless that `is_known`, and that it is one of this store.

    Raises:
        DataError: if it is missing, cut short, or changed.
        StaleError: if it was made for another store.
    """
    shard = Shard(*_read(path, is_known=is_known))
    if manifest is not None:
        _refuse_a_strangers(path, shard.seal, manifest)
    return shard


def _refuse_a_strangers(path: Path, seal: str, manifest: Manifest) -> None:
    if seal != manifest.seal:
        raise StaleError(
            f"{path} was made from another teacher, tokenizer or data, or with other settings, than {MANIFEST} beside it says. "
            "`stillhouse label` makes only it again."
        )


def damaged(folder: Path, objects: Objects | None = None, *, fetches: bool = False) -> list[str]:
    """The files of a finished store that are missing, not what was written, or another store's. Of `objects` only whether they
    are there, as what is in one is looked at when it is fetched; or all, with `fetches`, one after the other.

    Raises:
        StaleError: if another version wrote it.
    """
    try:
        manifest = read_manifest(folder)
    except DataError:
        return [MANIFEST]
    names = [*([] if manifest.head is None else [HEAD]), *manifest.shards]
    if objects is not None:
        there = objects.sizes()
        missing = [name for name in [MANIFEST, KEYS, *names] if name not in there]
        looked_at = [name for name in [KEYS, *names] if fetches and name in there]
        return missing + [name for name in looked_at if not _is_whole_there(objects, name, manifest)]
    return [name for name in names if not _is_whole(folder / name, manifest)]


def write_keys(path: Path, shards: Sequence[Sequence[str]], *, seal: str) -> None:
    """The keys of each shard's records, and where each shard ends among all."""
    numbers = np.frombuffer(bytes.fromhex("".join(key for shard in shards for key in shard)), np.uint8)
    ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)
    tensors = {"keys": torch.from_numpy(numbers.copy()).reshape(-1, 16), "ends": torch.from_numpy(ends)}
    _write(tensors, path, seal)


class StoreFiles:
    """The files of a finished store in a folder. Of its shards those that were read last stay open."""

    def __init__(self, folder: Path, *, open_bytes: int = OPEN_BYTES) -> None:
        self.folder, self.open_bytes = folder, open_bytes
        self.manifest = read_manifest(folder)
        self._shards: dict[str, Shard] = {}
        self._held_bytes = 0
        """Of all that are open."""
        self._known: set[str] = set()
        """Those whose content was checked."""

    def head(self) -> FactoredLogits | None:
        """The teacher's head, where one is kept."""
        return None if self.manifest.head is None else read_head(self.folder, self.manifest)

    def keys(self) -> Iterator[NDArray[Any]]:
        """The keys of each shard's records."""
        shards = (self.shard(name) for name in self.manifest.shards)
        return (shard.tensors["keys"].numpy().reshape(-1).view("S16") for shard in shards)

    def shard(self, name: str) -> Shard:
        """One of them, in the place of those that were read longest ago. Its content is checked when it is first opened."""
        if name not in self._shards:
            self._shards[name] = self._opened(name)
            self._held_bytes += self._shards[name].num_bytes
        self._shards[name] = shard = self._shards.pop(name)  # the last that was read
        while len(self._shards) > 1 and self._held_bytes > self.open_bytes:
            self._close(next(iter(self._shards)))
        return shard

    def _close(self, name: str) -> None:
        if name in self._shards:
            self._held_bytes -= self._shards.pop(name).num_bytes

    def _opened(self, name: str) -> Shard:
        shard = open_shard(self.folder / name, self.manifest, is_known=name in self._known)
        self._known.add(name)
        return shard


class FetchedFiles(StoreFiles):
    """Those of a store whose files are objects elsewhere. The folder has what was fetched: of shards no more than `most_bytes`,
    those that were read last."""

    def __init__(self, folder: Path, objects: Objects, *, most_bytes: int) -> None:
        self.objects, self.most_bytes = objects, most_bytes
        if not (folder / MANIFEST).exists():
            objects.get(MANIFEST, folder / MANIFEST)
        super().__init__(folder)
        self._sizes: dict[str, int] = {}
        for name in self.manifest.shards:
            if (folder / name).exists():
                self._sizes[name] = (folder / name).stat().st_size

    def head(self) -> FactoredLogits | None:
        """Fetched once."""
        if self.manifest.head is not None and not (self.folder / HEAD).exists():
            self.objects.get(HEAD, self.folder / HEAD)
        return super().head()

    def keys(self) -> Iterator[NDArray[Any]]:
        """From one object, without a shard."""
        if not (self.folder / KEYS).exists():
            self.objects.get(KEYS, self.folder / KEYS)
        tensors, seal = _read(self.folder / KEYS)
        _refuse_a_strangers(self.folder / KEYS, seal, self.manifest)
        keys, ends = tensors["keys"].numpy().reshape(-1).view("S16"), tensors["ends"].tolist()
        return (keys[start:end] for start, end in pairwise([0, *ends]))

    def shard(self, name: str) -> Shard:
        """Fetched if it is not there, in the place of those that were read longest ago. What came damaged is fetched again."""
        shard = super().shard(name)
        self._sizes[name] = self._sizes.pop(name)  # the last that was read
        self._make_room()
        return shard

    def _opened(self, name: str) -> Shard:
        file, is_here = self.folder / name, name in self._known
        if not is_here and not (file.exists() and _is_whole(file, self.manifest)):
            self.objects.get(name, file)
        try:
            shard = super()._opened(name)
        except DataError:
            file.unlink(missing_ok=True)
            raise DataError(
                f"{name} in {self.objects.url} is not what was written. `stillhouse label RECIPE --check` makes only it again."
            ) from None
        self._sizes[name] = file.stat().st_size
        return shard

    def _make_room(self) -> None:
        while len(self._sizes) > 1 and sum(self._sizes.values()) > self.most_bytes:
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            self._close(oldest)
            self._known.discard(oldest)
            (self.folder / oldest).unlink(missing_ok=True)


def _is_whole_there(objects: Objects, name: str, manifest: Manifest) -> bool:
    with TemporaryDirectory() as folder:
        objects.get(name, Path(folder) / name)
        return _is_whole(Path(folder) / name, manifest)


def _is_whole(path: Path, manifest: Manifest) -> bool:
    try:
        _, seal = _read(path)
    except DataError:
        return False
    return seal == manifest.seal
