"""Files that are either whole or absent, and hashes of what is in them."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from stillhouse.core.errors import DataError

PART_SUFFIX = ".part"
"""A file or folder with this ending was being written when its writer stopped. It may be removed at any time."""

_HIDDEN = os.umask(0)
"""Permissions that a new file is not to have. One can only be told them by setting them."""
os.umask(_HIDDEN)


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
    try:
        yield part
        flush_folder(part)
        for file in part.rglob("*") if part.is_dir() else [part]:
            if file.is_file():
                file.chmod(0o666 & ~_HIDDEN)  # safetensors makes files that nobody but their writer may read
    except BaseException:  # also Ctrl-C: what is half written only takes room, on a full disk above all
        remove(part)
        raise
    if path.is_dir():  # a folder cannot be renamed over another
        remove(path)
    os.replace(part, path)


def flush_folder(path: Path) -> None:
    """Have a file, or all that is in a folder, on the disk and not only on its way there."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there; a kill leaves a folder whole or gone, never with holes."""
    going = path if path.name.endswith(PART_SUFFIX) else path.with_name(f"{path.name}.gone{PART_SUFFIX}")
    shutil.rmtree(going, ignore_errors=True)
    if path.is_dir():
        os.replace(path, going)
        shutil.rmtree(going)
    else:
        path.unlink(missing_ok=True)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, in the place of a last line that a kill or a full disk cut off."""
    with path.open("a+b") as file:
        file.truncate(_end_of_whole_lines(file))
        file.write(json_line(record).encode())


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Where the last newline ends. Looks back in pieces: it is nearly always the last byte."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def json_line(record: Mapping[str, Any]) -> str:
    """One JSON object as a line of a `.jsonl` file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of our own append-only file; an unfinished last line does not count.

    Raises:
        DataError: for a line that is none.
    """
    return list(each_line(path))


def each_line(path: Path) -> Iterator[dict[str, Any]]:
    """The same one after the other: more of them than memory holds."""
    if not path.exists():
        return
    # Bytes: text would also be split at the line separators that JSON strings may hold.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip(b"\n") and line.endswith(b"\n"):
                yield _record(line[:-1], f"{path}, line {number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    record = _parsed(line, where, "Remove that line, or make the folder anew.")
    if not isinstance(record, dict):
        raise DataError(f"{where} is not what was written: no object. Remove that line, or make the folder anew.")
    return record


def read_json(path: Path, *, mend: str) -> Any:
    """What a file of our own holds.

    Raises:
        DataError: if that is not what was written, with what mends it.
    """
    return _parsed(path.read_bytes(), str(path), mend)


def _parsed(content: bytes, where: str, mend: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise DataError(f"{where} is not what was written: {error}. {mend}") from None


def fingerprint(value: Any) -> str:
    """64 bits of SHA-256 over a JSON-like value, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """64 bits of SHA-256 over the names and contents of files, as hex; their order and folder do not matter."""
    lines = sorted(f"{path.name}\0{sha256_of(path)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_name(name: object) -> bool:
    """Whether this is the name of a file and leads nowhere else: for names that somebody else has written."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a name that can be none's is not."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise


def cache_folder() -> Path:
    """Where is kept what can be made or fetched again: `STILLHOUSE_CACHE`, or `~/.cache/stillhouse`."""
    return Path(os.environ.get("STILLHOUSE_CACHE") or "~/.cache/stillhouse").expanduser()


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
