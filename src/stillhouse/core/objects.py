"""Files that lie in object stores, or wherever else fsspec reaches: fetched whole when they are read, and put whole."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from stillhouse.core.errors import DataError
from stillhouse.core.files import atomic_path, cache_folder, fingerprint, write_atomic

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
_SECRET = re.compile(r"key|secret|token|signature|^sig$|password|credential", re.IGNORECASE)
_SAYS_SO = ("ETag", "Content-MD5", "Digest", "Last-Modified")
"""Headers that fsspec reads of an answer."""
_KNOWN_BY = "fetched.json"
"""Beside what was fetched: by what its store tells that version from another."""


def url_of(path: Path) -> str | None:
    """The address that a path was written as, such as `s3://bucket/texts.jsonl`, whose slashes a path draws together; None for
    a place on this machine."""
    first, _, rest = str(path).partition("/")
    if not rest or not _SCHEME.fullmatch(first):
        return None
    return f"file:///{rest}" if first == "file:" else f"{first}//{rest}"


def as_written(path: Path) -> str:
    """As the user wrote it."""
    return url_of(path) or str(path)


def refuse_secrets(path: Path) -> Path:
    """An address is written into recipes, reports and messages.

    Raises:
        DataError: where it holds what may open a door; it is not repeated.
    """
    url = url_of(path) or ""
    parts = urlsplit(url)
    if "@" in parts.netloc or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise DataError(
            f"the {parts.scheme}:// address holds a password, a key or a signature, which would be written into files. Leave "
            "it out, and give it to the driver as it asks for it: in the environment, or in ~/.config/fsspec."
        )
    return path


def files_of(path: Path) -> list[Path]:
    """The file itself, or all of a folder, on this machine."""
    here = fetched(path)
    return [file for file in (here.rglob("*") if here.is_dir() else [here]) if file.is_file()]


def fetched(path: Path, *, key: str = "data.path") -> Path:
    """Where a file or folder lies on this machine, fetched if it lies elsewhere and is not here as it is there now.

    Raises:
        DataError: if it is not there, cannot be reached, or the driver for such an address is not installed.
    """
    url = url_of(path)
    return path if url is None else _fetched(url, key)


@cache
def _fetched(url: str, key: str) -> Path:
    with reached(url, key=key) as (files, root):
        names = {root: ""} if files.isfile(root) else {name: name[len(root) :].strip("/") for name in files.find(root)}
        if not names:
            raise DataError(f"{key} {url!r}: there is no such file or folder.")
        versions = {inner: _version(files, name) for name, inner in sorted(names.items())}
        place = cache_folder() / "fetched" / _name_of(url)
        known = place.parent / f"{place.name}.{_KNOWN_BY}"
        version = json.dumps([url, versions])
        if not (place.exists() and known.exists() and known.read_text(encoding="utf-8") == version):
            known.unlink(missing_ok=True)
            with atomic_path(place) as part:
                for name, inner in names.items():
                    target = _inside(part, inner)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files.get_file(name, str(target))
            write_atomic(known, version)
    return place


def _version(files: Any, name: str) -> str:
    """What a store tells one version of a file from another by: of `https://` that is what the server says, if it does."""
    info = files.info(name)
    return " ".join([str(files.ukey(name)), *(f"{field}: {info[field]}" for field in _SAYS_SO if info.get(field))])


def _name_of(url: str) -> str:
    """A folder of its own for each address, in which the file has the name that it has there."""
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2] or "data"
    return f"{fingerprint(url)}/{name}"


def _inside(folder: Path, inner: str) -> Path:
    """Whoever names an object says where it is written: only in its folder."""
    if ".." in Path(inner).parts or "\0" in inner:
        raise DataError(f"an object is named {inner!a}, which leads out of its folder. Rename it.")
    return folder / inner if inner else folder


@contextmanager
def reached(url: str, *, key: str) -> Iterator[tuple[Any, str]]:
    """A file system and the place in it, for as long as it is worked with.

    Raises:
        DataError: if there is no driver, or nobody answers, in a line.
    """
    refuse_secrets(Path(url))
    try:
        yield url_to_fs(url)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{key} {url!r}: there is no such file or folder.") from None
    except ImportError as error:
        raise DataError(
            f"{key} {url!r}: the driver for such addresses is not installed here ({error}). Install it with pip."
        ) from None
    except Exception as error:  # each driver has errors of its own
        why = " ".join(str(error).split())[:200]
        raise DataError(f"{key} {url!r} cannot be reached: {type(error).__name__}: {why}") from None


class Objects:
    """A folder of objects at an address, each of which is whole or absent."""

    def __init__(self, url: str, *, key: str) -> None:
        self.url, self.key = url.rstrip("/"), key

    def sizes(self) -> dict[str, int]:
        """The bytes of each object that is there."""
        with reached(self.url, key=self.key) as (files, root):
            files.invalidate_cache()
            try:
                found = files.ls(root, detail=True)
            except FileNotFoundError:
                return {}
            return {str(one["name"]).rpartition("/")[2]: int(one["size"] or 0) for one in found}

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        with reached(self.url, key=self.key) as (files, root):
            files.invalidate_cache()
            return bool(files.exists(f"{root}/{name}"))

    def put(self, file: Path, name: str) -> None:
        """Put a file as one object, in the place of another if there is one."""
        with reached(self.url, key=self.key) as (files, root):
            if isinstance(files, LocalFileSystem):  # which would be seen half written
                with atomic_path(Path(root) / name) as part:
                    shutil.copyfile(file, part)
                return
            files.put_file(str(file), f"{root}/{name}")

    def get(self, name: str, file: Path) -> None:
        """Fetch an object, whole or not at all.

        Raises:
            DataError: if there is none.
        """
        with reached(f"{self.url}/{name}", key=self.key) as (files, found), atomic_path(file) as part:
            files.get_file(found, str(part))

    def part(self, name: str, start: int, end: int) -> bytes:
        """Some bytes of an object."""
        with reached(f"{self.url}/{name}", key=self.key) as (files, found):
            return bytes(files.cat_file(found, start=start, end=end))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with reached(self.url, key=self.key) as (files, root), suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")
