"""A few rows of a data file, spread over all of it: what a rehearsal learns from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from stillhouse.data.tables import DOCUMENT_END, format_of, read_file, records_in

Item = TypeVar("Item")

TABLES = (".jsonl", ".json", ".csv", ".tsv")


def excerpt(path: Path, out: Path, *, rows: int) -> Path:
    """Write about so many rows of a file or folder, in a form that is read as the file is; all, if it has no more."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    texts = [file for file in files if format_of(file) == ".txt"]
    if texts:
        return _of_texts(texts, out, rows=rows)
    lines = [line for file in files if format_of(file) in TABLES for line in _lines_of(file)]
    target = out / "rows.jsonl"
    target.write_text("\n".join(spread(lines, rows)) + "\n", encoding="utf-8")
    return target


def spread(items: Sequence[Item], wanted: int) -> list[Item]:
    """So many of the items, evenly spread over all of them; all, if there are no more."""
    if wanted >= len(items):
        return list(items)
    return [items[number * len(items) // wanted] for number in range(wanted)]


def _lines_of(file: Path) -> list[str]:
    if format_of(file) != ".jsonl":
        return [json.dumps(dict(record.values), ensure_ascii=False) for record in records_in(file)]
    return [line for line in read_file(file).split("\n") if line.strip()]


def _of_texts(files: Sequence[Path], out: Path, *, rows: int) -> Path:
    """Documents, where something separates them, else lines."""
    texts = [read_file(file) for file in files]
    separated = any(DOCUMENT_END in text for text in texts)
    between = DOCUMENT_END if separated else "\n"
    pieces = [piece.strip() for text in texts for piece in text.split(between) if piece.strip()]
    target = out / "rows.txt"
    target.write_text(f"\n{between}\n".join(spread(pieces, rows)) if separated else "\n".join(spread(pieces, rows)))
    return target
