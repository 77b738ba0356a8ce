"""The teacher's stored signals on disk: format 1. `labelling/` writes it, `teachers/stored` reads it.

    labels/
    ├── manifest.json              format, signal, what it was made from, and the shards in order
    ├── head.safetensors           `weight` [vocab, hidden] and, where the teacher has one, `bias` [vocab]
    └── shard-00000.safetensors    `hidden` [tokens, hidden] float16, each row divided by its `scale` [tokens] float32;
                                   `starts` [records + 1]: where each record's tokens begin; `keys` [records, 16]

A record is one example, found by the hash of its token ids, so a label cannot be given to another text. Head and shards
are sealed with what they were made from and the SHA-256 of that and their content. Whatever has no manifest is unfinished.

Storing costs at most 2^-11 of each number, or 2^-25 of the largest in its row where that is more.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.core.errors import DataError, StaleError
from stillhouse.core.files import atomic_path, write_atomic
from stillhouse.core.signals import FactoredLogits

FORMAT = 1
MANIFEST = "manifest.json"
HEAD = "head.safetensors"


def key_of(ids: Sequence[int]) -> str:
    """What a record is found by: 128 bits of SHA-256 over its token ids, as hex."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class Manifest:
    """What a store is and what it was made from."""

    format: int
    signal: str
    made_from: str
    """Hash of teacher, tokenizer, and data."""
    hidden: int
    scale: float
    softcap: float | None
    shards: list[str]
    tokens: int
    records: int


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare the store finished."""
    write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))


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
                f"{folder} has label format {values['format']}, and this version reads {FORMAT}. Label again."
            )
        return Manifest(**values)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise DataError(f"{path} is not what was written. `stillhouse label` makes it again.") from None


def write_head(folder: Path, head: FactoredLogits, *, made_from: str) -> None:
    """Keep the teacher's head, so that training needs nothing else of the teacher."""
    tensors = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
    _write({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / HEAD, made_from)


def read_head(folder: Path, manifest: Manifest) -> FactoredLogits:
    """The teacher's head, with no hidden states yet: hidden is [0, hidden].

    Raises:
        DataError: if it is missing, cut short, or changed.
    """
    tensors, _ = _read(folder / HEAD)
    return FactoredLogits(
        torch.zeros(0, manifest.hidden), tensors["weight"], tensors.get("bias"), manifest.scale, manifest.softcap
    )


def write_shard(
    path: Path, keys: Sequence[str], hiddens: Sequence[Float[Tensor, "_ hidden"]], *, made_from: str
) -> None:
    """One shard: the hidden states [tokens, hidden] of each record, one after another."""
    hidden = torch.cat(list(hiddens)).float()
    # A row at a time: float16 ends at 65,504, and some models' outliers are beyond it.
    scale = hidden.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny)  # [tokens]
    tensors = {
        "hidden": (hidden / scale[:, None]).half(),
        "scale": scale,
        "starts": torch.tensor([0, *(len(h) for h in hiddens)]).cumsum(0),
        "keys": torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8),
    }
    _write(tensors, path, made_from)


def _write(tensors: dict[str, Tensor], path: Path, made_from: str) -> None:
    with atomic_path(path) as part:
        # One entry: safetensors writes several in an order of its own, and equal labels should be equal bytes.
        save_file(tensors, part, metadata={"seal": f"{_digest(tensors, made_from)} {made_from}"})


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file of ours, and what they were made from.

    Raises:
        DataError: if it is missing, cut short, or changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            digest, _, made_from = (file.metadata() or {}).get("seal", "").partition(" ")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is missing or cut short ({error}). `stillhouse label` makes only it again.") from None
    if digest != _digest(tensors, made_from):
        raise DataError(
            f"{path} is not what was written: its content does not match its hash. `stillhouse label` makes only it again."
        )
    return tensors, made_from


def _digest(tensors: dict[str, Tensor], made_from: str) -> str:
    whole = hashlib.sha256(made_from.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@dataclass(frozen=True)
class Shard:
    """An open shard: memory-mapped, read where it is asked."""

    tensors: dict[str, Tensor]
    made_from: str

    def keys(self) -> list[str]:
        """The keys of its records, in order."""
        return [bytes(row).hex() for row in self.tensors["keys"].tolist()]

    def hidden(self, record: int) -> Float[Tensor, "tokens hidden"]:
        """One record's hidden states in float32."""
        start, end = self.tensors["starts"][record : record + 2].tolist()
        return self.tensors["hidden"][start:end].float() * self.tensors["scale"][start:end, None]


def open_shard(path: Path) -> Shard:
    """Open a shard and check its content against its hash.

    Raises:
        DataError: if it is missing, cut short, or changed.
    """
    return Shard(*_read(path))


def damaged(folder: Path) -> list[str]:
    """The files of a finished store that are missing or not what was written."""
    try:
        names = [HEAD, *read_manifest(folder).shards]
    except (DataError, StaleError):
        return [MANIFEST]
    return [name for name in names if not _is_whole(folder / name)]


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except DataError:
        return False
    return True
