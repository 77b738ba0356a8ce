"""A teacher's scores, each asked for once: append-only, found by content, and the same bytes however often it was killed.

    scores/<identity of the teacher>/
    ├── about.json     who the teacher is and in which unit it scores
    ├── scores.bin     records of 20 bytes: the pair's key (16), then its score (float32, little-endian)
    └── blocks.jsonl   one line a block: its records and the SHA-256 of their bytes

A block is written, flushed, and only then named: what no line names is cut off when the store is opened, and so is all that
comes after a block whose bytes have changed. What is missing is scored in blocks that depend on nothing but the order asked
for, so that the store of a run that was killed equals that of one that was not.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stillhouse.core.errors import StaleError
from stillhouse.core.files import append_line, read_json, read_lines, write_atomic
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.retrieval.teachers import Output, Pair, RankingTeacher, Scores, key_of_pair

RECORD = np.dtype([("key", "V16"), ("score", "<f4")])
BLOCK_PAIRS = 512
"""Pairs that a kill costs at most."""

ABOUT, RECORDS, BLOCKS = "about.json", "scores.bin", "blocks.jsonl"


@runtime_checkable
class ByBlocks(Protocol):
    """A teacher that can be at several blocks at once."""

    def scores_of_each(self, blocks: Sequence[Sequence[Pair]]) -> Iterator[Scores]:
        """Of each block, in their order: what `scores` says of it."""
        ...


def _scores_of_each(teacher: RankingTeacher, blocks: Sequence[Sequence[Pair]]) -> Iterator[Scores]:
    return teacher.scores_of_each(blocks) if isinstance(teacher, ByBlocks) else map(teacher.scores, blocks)


class ScoreStore:
    """What one teacher said of pairs, in a folder of its own."""

    def __init__(self, folder: Path, *, output: Output) -> None:
        """Open or make it; a torn or damaged end is cut off.

        Raises:
            StaleError: if the folder holds scores in another unit.
        """
        self.folder, self.output = folder, output
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / ABOUT
        if not about.exists():
            write_atomic(about, json.dumps({"format": 1, "output": output}))
        if (kept := read_json(about, mend="Remove it.")) != {"format": 1, "output": output}:
            raise StaleError(
                f"{folder} holds scores as {kept}, and {output} are asked for. Remove it, and they are made again."
            )
        self._scores = self._read()

    @property
    def _records(self) -> Path:
        return self.folder / RECORDS

    def _read(self) -> dict[bytes, float]:
        """Every whole block, in order; what comes after the first that is not whole goes."""
        content = self._records.read_bytes() if self._records.exists() else b""
        lines, end = [], 0
        for line in read_lines(self.folder / BLOCKS):
            size = int(line["records"]) * RECORD.itemsize
            if hashlib.sha256(content[end : end + size]).hexdigest() != line["sha256"]:
                break
            lines.append(line)
            end += size
        if len(lines) < len(read_lines(self.folder / BLOCKS)):
            write_atomic(self.folder / BLOCKS, "".join(json.dumps(line) + "\n" for line in lines))
        if end < len(content):
            os.truncate(self._records, end)
        records = np.frombuffer(content[:end], dtype=RECORD)
        return {bytes(key): float(score) for key, score in zip(records["key"], records["score"], strict=True)}

    def __len__(self) -> int:
        return len(self._scores)

    def scores(self, teacher: RankingTeacher, pairs: Sequence[Pair], *, progress: Progress = SILENT) -> Scores:
        """The teacher's scores of these pairs; it is asked only for those that are not here yet, each once."""
        keys = [key_of_pair(pair) for pair in pairs]
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._scores}
        wanted = list(missing.items())
        with working(progress, "the teacher scores", total=len(wanted), unit="pairs"):
            blocks = [wanted[start : start + BLOCK_PAIRS] for start in range(0, len(wanted), BLOCK_PAIRS)]
            found = _scores_of_each(teacher, [[pair for _, pair in block] for block in blocks])
            for block, scores in zip(blocks, found, strict=True):
                self._add([key for key, _ in block], scores)
                progress.advance(len(block))
        return np.asarray([self._scores[key] for key in keys], dtype=np.float32)

    def _add(self, keys: Sequence[bytes], scores: Scores) -> None:
        if not np.isfinite(scores).all():
            raise ValueError(f"the teacher scored a pair {scores[~np.isfinite(scores)][0]}. Its weights are broken.")
        records = np.zeros(len(keys), dtype=RECORD)
        records["key"], records["score"] = np.frombuffer(b"".join(keys), dtype="V16"), scores
        content = records.tobytes()
        with self._records.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        line: dict[str, Any] = {"records": len(keys), "sha256": hashlib.sha256(content).hexdigest()}
        append_line(self.folder / BLOCKS, line)
        self._scores.update(zip(keys, scores.tolist(), strict=True))


def store_for(teacher: RankingTeacher, folder: Path) -> ScoreStore:
    """The teacher's own store among those of others, below a folder."""
    return ScoreStore(folder / teacher.identity, output=teacher.output)
