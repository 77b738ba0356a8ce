"""Files that are either whole or absent, and hashes of what is in them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"
"""A file or folder with this ending was being written when its writer stopped. It may be removed at any time."""


def write_atomic(path: Path, text: str) -> None:
    """Write all of `text` or nothing: under another name first, flushed to disk, then renamed."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder; it takes its real name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART_SUFFIX)
    remove(part)
    yield part
    for file in part.rglob("*") if part.is_dir() else [part]:
        if file.is_file():
            _flush(file)
    if path.is_dir():  # a folder cannot be renamed over another
        shutil.rmtree(path)
    os.replace(part, path)


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON object as a line; a line cut off by a kill is dropped by `read_lines`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of our own append-only file; an unfinished last line does not count."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


def fingerprint(value: Any) -> str:
    """64 bits of SHA-256 over a JSON-like value, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """64 bits of SHA-256 over the names and contents of files, as hex; their order and folder do not matter."""
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
