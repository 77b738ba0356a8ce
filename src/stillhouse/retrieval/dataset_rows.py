"""Rows of a `datasets` data set as documents: a folder that `save_to_disk` wrote, or an id on the Hugging Face hub."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.data.tables import Record

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SAVED = ("dataset_info.json", "dataset_dict.json")
"""One of these lies in what `save_to_disk` wrote."""


def is_dataset(path: Path) -> bool:
    """Whether a path is a saved data set, or, being no file or folder, may be the name of one on the hub."""
    if path.exists():
        return _is_saved(path)
    name = _parted(path)[0]
    return _is_saved(Path(name)) or (_HUB_ID.fullmatch(name) is not None and not Path(name).parent.exists())


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in SAVED)


def _parted(path: Path) -> tuple[str, str]:
    """A name, and the split behind its @."""
    name, _, split = ("", "", "") if path.exists() else str(path).rpartition("@")
    return (name, split) if name else (str(path), "")


def dataset_records(path: Path, *, key: str) -> Iterator[Record]:
    """Its rows. `name@split` names a split; the only one, or `train`, if none is named.

    Raises:
        DataError: if there is no such data set here or on the hub, or no such split.
    """
    name, split = _parted(path)
    rows = _one_split(_loaded(name, key=key), split, name=name, key=key)
    for number, row in enumerate(rows):
        yield Record(row, f"{name}, row {number}")


def _loaded(name: str, *, key: str) -> Any:
    from datasets import load_dataset, load_from_disk

    try:
        return load_from_disk(name) if Path(name).exists() else load_dataset(name)
    # The hub's client, the network below it and the readers of files each raise what they like.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{key} {name!r}: there is no such file or folder, and no data set of that name can be loaded: {reason}"
        ) from error


def _one_split(found: Any, wanted: str, *, name: str, key: str) -> Any:
    if not isinstance(found, dict):
        return found
    chosen = wanted or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else "")
    if chosen not in found:
        said = f"no split {chosen!r}" if chosen else "several splits"
        raise DataError(f"{key} {name!r} has {said}. Name one: {', '.join(f'{name}@{split}' for split in found)}.")
    return found[chosen]
