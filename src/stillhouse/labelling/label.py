"""Ask the teacher about every example, shard by shard, and write its answers down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stillhouse.core.batch import Batch
from stillhouse.core.errors import DataError
from stillhouse.core.files import size_on_disk
from stillhouse.core.label_store import FORMAT, Manifest, open_shard, write_head, write_manifest, write_shard
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.protocols import Teacher
from stillhouse.core.signals import FactoredLogits, Wanted
from stillhouse.data.examples import Example
from stillhouse.data.packing import pack, to_batch

ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class LabelOutcome:
    """What was stored."""

    signal: str
    records: int
    tokens: int
    bytes: int


def label(
    teacher: Teacher,
    examples: Sequence[Example],
    folder: Path,
    *,
    made_from: str,
    row_tokens: int,
    shard_tokens: int = 16_384,
    progress: Progress = SILENT,
) -> LabelOutcome:
    """Store the teacher's last hidden states for every example, and its head. Any loss can rebuild exact logits from them,
    at any temperature, to the rounding of float16.

    Started again after a kill, it keeps every whole shard and makes the others; a damaged shard, or one made from
    something else, is made again.

    Raises:
        DataError: if there is no example.
    """
    if not examples:
        raise DataError("there is no text to label.")
    unique = list({example.key: example for example in examples}.values())
    shards = list(_shards(unique, shard_tokens))
    total = sum(len(example.ids) for example in unique)
    with working(progress, "the teacher labels", total, "tokens"):
        for number, shard in enumerate(shards):
            path, keys = folder / _shard_name(number), [example.key for example in shard]
            if not _is_made(path, keys, made_from):
                write_shard(path, keys, _hidden_states(teacher, shard, row_tokens), made_from=made_from)
            progress.advance(sum(len(example.ids) for example in shard))
    head = _said(teacher, to_batch([unique[:1]]))
    write_head(folder, head, made_from=made_from)
    names = [_shard_name(number) for number in range(len(shards))]
    hidden = int(head.hidden.shape[-1])
    write_manifest(
        folder,
        Manifest(FORMAT, "last_hidden", made_from, hidden, head.scale, head.softcap, names, total, len(unique)),
    )
    return LabelOutcome("last_hidden", len(unique), total, size_on_disk(folder))


def _said(teacher: Teacher, batch: Batch) -> FactoredLogits:
    logits = teacher.signals(batch, Wanted(logits=True)).logits
    assert isinstance(logits, FactoredLogits), "labels are of a language model"
    return logits


def _is_made(path: Path, keys: list[str], made_from: str) -> bool:
    """Whether the shard is there, whole, of these records, and made from this."""
    try:
        shard = open_shard(path)
    except DataError:
        return False
    return shard.made_from == made_from and shard.keys() == keys


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _shards(examples: Sequence[Example], shard_tokens: int) -> Iterator[list[Example]]:
    """Examples in their order, as many to a shard as bring it to `shard_tokens`."""
    shard: list[Example] = []
    for example in examples:
        shard.append(example)
        if sum(len(member.ids) for member in shard) >= shard_tokens:
            yield shard
            shard = []
    if shard:
        yield shard


def _hidden_states(teacher: Teacher, examples: Sequence[Example], row_tokens: int) -> list[torch.Tensor]:
    """Last hidden states [tokens, hidden] of each example, computed in packed rows."""
    found: dict[int, torch.Tensor] = {}
    rows = pack([len(example.ids) for example in examples], row_tokens=row_tokens)
    for start in range(0, len(rows), ROWS_PER_BATCH):
        some = rows[start : start + ROWS_PER_BATCH]
        batch = to_batch([[examples[number] for number in row] for row in some], row_tokens=row_tokens)
        hidden = _said(teacher, batch).hidden  # [rows, row_tokens, hidden]
        for place, row in enumerate(some):
            for document, number in enumerate(row):
                found[number] = hidden[place, batch.documents[place] == document].clone()
    return [found[number] for number in range(len(examples))]
