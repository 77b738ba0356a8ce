"""Text rows: from JSONL, plain text, or a folder of either, to examples."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.data.examples import Example, windows

DOCUMENT_END = "<|endoftext|>"
"""Separates documents in a plain text file; without one, the file is a single document."""


@dataclass(frozen=True)
class Row:
    """A text to learn, after a prompt that is read but not learnt (often empty)."""

    text: str
    prompt: str = ""
    finished: bool = True
    """False for a text cut off by a length limit: its end is not learnt as an end."""


def read_rows(path: Path) -> list[Row]:
    """Rows of a `.jsonl` file (`{"text": ...}` or `{"prompt": ..., "completion": ...}`), a `.txt` file, or a folder.

    Raises:
        DataError: naming the file, and the line where there is one, if it is missing, empty, or not what it should be.
    """
    if not path.exists():
        raise DataError(f"data.path {str(path)!r}: there is no such file or folder.")
    files = sorted(file for file in path.rglob("*") if file.suffix in _READERS) if path.is_dir() else [path]
    rows = [row for file in files for row in _reader(file)(file)]
    if not rows:
        raise DataError(f"data.path {str(path)!r} holds no text. Give it at least two documents.")
    return rows


def _reader(file: Path) -> Any:
    if file.suffix not in _READERS:
        raise DataError(f"data.path {str(file)!r} ends in {file.suffix!r}. Known: {', '.join(_READERS)}, or a folder.")
    return _READERS[file.suffix]


def _read_jsonl(file: Path) -> Iterator[Row]:
    # Not `splitlines`: JSON strings may hold the other separators of lines that Unicode knows.
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            yield _to_row(line, where=f"{file}, line {number}")


def _to_row(line: str, *, where: str) -> Row:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond what Python reads
        raise DataError(f"{where} cannot be read: {error}.") from None
    match record:
        case {"prompt": str(prompt), "completion": str(text)} if text:
            return _whole(Row(text, prompt, record.get("finished", True) is not False), where=where)
        case {"text": str(text)} if text:
            return _whole(Row(text), where=where)
    keys = sorted(record) if isinstance(record, dict) else type(record).__name__
    raise DataError(f'{where} has {keys}. Expected {{"text": ...}} or {{"prompt": ..., "completion": ...}}, not empty.')


def _whole(row: Row, *, where: str) -> Row:
    """Refuse half a surrogate pair: JSON can spell one, UTF-8 and tokenizers cannot."""
    try:
        (row.prompt + row.text).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character, {error.object[error.start]!a}: cut or mend it.") from None
    return row


def _read_txt(file: Path) -> Iterator[Row]:
    for document in _read(file).split(DOCUMENT_END):
        if document.strip():
            yield Row(document.strip())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # Windows likes to put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None


_READERS = {".jsonl": _read_jsonl, ".txt": _read_txt}


def to_examples(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> list[Example]:
    """Tokenise rows and cut them to windows of at most `max_tokens`.

    Prompt and text are tokenised apart, so that no token crosses from one into the other; the end of a finished text is
    a token to learn too. Predicting the text weighs 1, the prompt 0.
    """
    return [piece for row in rows for piece in windows(_to_example(row, tokenizer), max_tokens=max_tokens)]


def _to_example(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"] if row.prompt else start_ids(tokenizer)
    text = tokenizer(row.text, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if row.finished and tokenizer.eos_token_id is not None else []
    weights = [0.0] * len(prompt) + [1.0] * (len(text) + len(end))
    return Example((*prompt, *text, *end), tuple(weights), len(row.text.encode()))


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a text without a prompt is predicted from: the beginning-of-text token, or the end-of-text one if there is none."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if first is None else [first]


def split_held_out(rows: Sequence[Row], *, share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows held out: this share of the texts, evenly spread. Rows with the same text go to the same
    side, so that nothing is judged that was learnt; a row that comes again is left out.

    Raises:
        DataError: if either side is left empty.
    """
    texts = list(dict.fromkeys(row.text for row in rows))
    part = Fraction(str(share))  # exactly as it was written: no binary number is 0.1
    judged = {text for number, text in enumerate(texts) if int((number + 1) * part) > int(number * part)}
    unique = list(dict.fromkeys(rows))
    train = [row for row in unique if row.text not in judged]
    held_out = [row for row in unique if row.text in judged]
    if not held_out or not train:
        raise DataError(
            f"{len(texts)} different texts are too few to hold {share:.0%} of them out. Give at least {math.ceil(1 / part)}; "
            f"in a .txt file, {DOCUMENT_END} separates them."
        )
    return train, held_out
