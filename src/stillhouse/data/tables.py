"""Rows of named columns, from JSONL, JSON, CSV or TSV files, plain text, or folders of them; each knows where it stands."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from stillhouse.core.errors import DataError
from stillhouse.core.faults import nearest, said
from stillhouse.core.files import is_there
from stillhouse.core.objects import fetched

Splitter = Callable[[Iterable[str]], Iterable[str]]
"""How the lines of a plain text file become texts."""

csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 KiB that csv takes for a mistake

DOCUMENT_END = "<|endoftext|>"
"""Separates documents in a plain text file; without one, the file is a single document."""

LARGEST = 3.4e38
"""Of a number in a column: models compute in float32, in which a larger one is infinite."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Record:
    """One row: what each column holds, and the file and line to send a user to."""

    values: Mapping[str, Any]
    where: str

    def text(self, column: str, *, key: str) -> str:
        """The text in a column that the recipe names under `key`."""
        return self._checked(column, _as_text, "a text that is not empty", key=key)

    def label(self, column: str, *, key: str) -> str:
        """The class in a column: text, or a whole number, which is then written out."""
        return self._checked(column, _as_label, "text or a whole number", key=key)

    def number(self, column: str, *, key: str) -> float:
        """The number in a column."""
        return self._checked(column, _as_number, "a finite number", key=key)

    def texts(self, column: str, *, key: str) -> tuple[str, ...]:
        """The list of texts in a column."""
        return self._checked(column, _as_list(_as_text), "a list of texts, none of them empty", key=key)

    def labels(self, column: str, *, key: str) -> tuple[str, ...]:
        """The list of classes in a column."""
        return self._checked(column, _as_list(_as_label), "a list of texts or whole numbers", key=key)

    def _checked(self, column: str, read: Callable[[Any], _Value | None], expected: str, *, key: str) -> _Value:
        if column not in self.values:
            hint = nearest(column, [str(name) for name in self.values])
            raise DataError(f"{self.where} has no {column!r}, which {key} names.{hint}")
        value = read(self.values[column])
        if value is None:
            raise DataError(
                f"{self.where} has {said(self.values[column])} under {column!r}. Expected {expected}: mend or remove it."
            )
        return value


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() and is_whole(value) else None


def _as_label(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _as_text(value)


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= LARGEST else None  # NaN is not, either


def _as_list(read: Callable[[Any], _Value | None]) -> Callable[[Any], tuple[_Value, ...] | None]:
    def read_all(values: Any) -> tuple[_Value, ...] | None:
        if not isinstance(values, list) or not values:
            return None
        members = [member for member in map(read, values) if member is not None]
        return tuple(members) if len(members) == len(values) else None

    return read_all


def is_whole(text: str) -> bool:
    """False for half a surrogate pair: JSON can spell one, UTF-8 and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_records(
    path: Path,
    *,
    key: str = "data.path",
    formats: tuple[str, ...] = (".jsonl", ".csv", ".tsv"),
    text_column: str = "text",
    splitter: Splitter | None = None,
) -> list[Record]:
    """All rows of a file or folder. Each format may be gzipped; with a `splitter`, a `.txt` file gives a row for each of its
    texts, under `text_column`.

    Raises:
        DataError: naming the file, and the line where there is one, if it is missing, empty, or not what it should be.
    """
    return list(each_record(path, key=key, formats=formats, text_column=text_column, splitter=splitter))


def each_record(
    path: Path,
    *,
    key: str = "data.path",
    formats: tuple[str, ...] = (".jsonl", ".csv", ".tsv"),
    text_column: str = "text",
    splitter: Splitter | None = None,
) -> Iterator[Record]:
    """The same one after the other: more of them than memory holds."""
    is_empty = True
    for file in files_in(path, key=key, formats=(*formats, ".txt") if splitter else formats):
        if splitter and format_of(file) == ".txt":
            texts = splitter(lines_in(file))
            records: Iterator[Record] = (
                Record({text_column: text}, f"{file}, text {n}") for n, text in enumerate(texts, start=1)
            )
        else:
            records = records_in(file)
        for record in records:
            is_empty = False
            yield record
    if is_empty:
        raise DataError(f"{key} {str(path)!r} holds no rows. Give it at least two.")


def records_in(file: Path) -> Iterator[Record]:
    """The rows of one file as they are asked for; a `.json` file is read whole first.

    Raises:
        DataError: as `read_records`.
    """
    return _READERS[format_of(file)](file)


def split_documents(lines: Iterable[str]) -> Iterator[str]:
    """The documents of a plain text file, cut at each `DOCUMENT_END`."""
    parts: list[str] = []
    for line in chain(lines, [DOCUMENT_END]):
        first, *others = line.split(DOCUMENT_END)
        parts.append(first)
        for other in others:
            if document := "".join(parts).strip():
                yield document
            parts = [other]


def split_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a plain text file, save empty ones."""
    return (line.strip() for line in lines if line.strip())


def files_in(path: Path, *, key: str, formats: Iterable[str]) -> list[Path]:
    """The file itself, or those of a folder, however deep, that are in these formats, in the order of their names.

    Raises:
        DataError: if there is no such file or folder, or the file is in none of the formats.
    """
    path = fetched(path, key=key)
    if not is_there(path):
        raise DataError(f"{key} {str(path)!r}: there is no such file or folder.")
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if format_of(file) in formats)
    if format_of(path) not in formats:
        raise DataError(f"{key} {str(path)!r} ends in {path.suffix!r}. Known: {', '.join(formats)}, or a folder.")
    return [path]


def format_of(file: Path) -> str:
    """`.jsonl` for `rows.jsonl` and for `rows.jsonl.gz`."""
    return Path(file.name.removesuffix(".gz")).suffix


def read_file(file: Path) -> str:
    """The text of a file, which may be gzipped.

    Raises:
        DataError: if it is no UTF-8 text.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return content.decode("utf-8-sig")  # Windows likes to put a mark in front
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None


def json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Where each line stands, and what it holds; empty lines are passed over.

    Raises:
        DataError: for a line that is not JSON.
    """
    for number, line in enumerate(lines_in(file), start=1):
        if line.strip():
            yield f"{file}, line {number}", _parsed(line.removesuffix("\n"), where=f"{file}, line {number}")


def lines_in(file: Path) -> Iterator[str]:
    """One line after the other with its end, so that a file, which may be gzipped, may be larger than memory.

    Raises:
        DataError: if it is no UTF-8 text.
    """
    # utf-8-sig: Windows likes to put a mark in front. newline: JSON strings may hold the other separators of lines.
    options: dict[str, Any] = {"encoding": "utf-8-sig", "newline": "\n"}
    try:
        with gzip.open(file, "rt", **options) if file.suffix == ".gz" else file.open(**options) as lines:
            yield from lines
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None


def _parsed(line: str, *, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond what Python reads
        raise DataError(f"{where} cannot be read: {error}.") from None


def _read_jsonl(file: Path) -> Iterator[Record]:
    for where, values in json_lines(file):
        if not isinstance(values, dict):
            raise DataError(f'{where} has {said(values)}. Expected an object such as {{"text": ...}}.')
        yield Record(values, where)


def _read_json(file: Path) -> Iterator[Record]:
    """A list of objects, as a whole file."""
    content = _parsed(read_file(file), where=str(file))
    if not isinstance(content, list):
        raise DataError(f"{file} holds {said(content)}. Expected a list of objects, or a .jsonl file with one a line.")
    for number, values in enumerate(content, start=1):
        if not isinstance(values, dict):
            raise DataError(f"{file}, item {number} is {said(values)}. Expected an object.")
        yield Record(values, f"{file}, item {number}")


def _read_csv(file: Path) -> Iterator[Record]:
    return _read_table(file, csv.reader(_lines(file), strict=True))


def _read_tsv(file: Path) -> Iterator[Record]:
    """Without quoting: a quotation mark in a `.tsv` file is one."""
    return _read_table(file, csv.reader(_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE))


def _lines(file: Path) -> Iterator[str]:
    """With an empty one at the end, so that a file without any still has a first."""
    yield from (line.removesuffix("\n").removesuffix("\r") + "\n" for line in lines_in(file))
    yield "\n"


def _read_table(file: Path, reader: Any) -> Iterator[Record]:
    header: list[str] | None = None
    end = 0
    try:
        for cells in reader:
            start, end = end + 1, reader.line_num  # a quoted cell may hold line breaks
            where = f"{file}, line {start}"
            if header is None:
                header = _checked_header(cells, where=where)
            elif len(cells) == len(header):
                yield Record(dict(zip(header, cells, strict=True)), where)
            elif cells:
                raise DataError(f"{where} has {len(cells)} columns, but the first line names {len(header)}: mend it.")
    except csv.Error as error:
        raise DataError(f"{file}, line {end + 1} cannot be read: {error}. Mend its quotation marks.") from None


def _checked_header(names: list[str], *, where: str) -> list[str]:
    if not names or len(set(names)) < len(names):
        raise DataError(f"{where} is {said(names)}. Expected the names of the columns, no two of them alike.")
    return names


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
