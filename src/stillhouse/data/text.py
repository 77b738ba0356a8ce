"""Text rows: from JSONL, plain text, or a folder of either, to examples."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.data.examples import Example, windows
from stillhouse.data.split import split_held_out as split_held_out
from stillhouse.data.tables import DOCUMENT_END as DOCUMENT_END
from stillhouse.data.tables import Record, files_in, format_of, json_lines, lines_in, split_documents


@dataclass(frozen=True)
class Row:
    """A text to learn, after a prompt that is read but not learnt (often empty)."""

    text: str
    prompt: str = ""
    finished: bool = True
    """False for a text cut off by a length limit: its end is not learnt as an end."""


def read_rows(path: Path, *, key: str = "data.path") -> list[Row]:
    """Rows of a `.jsonl` file (`{"text": ...}` or `{"prompt": ..., "completion": ...}`), a `.txt` file, or a folder; each
    may be gzipped. The recipe names the path under `key`.

    Raises:
        DataError: naming the file, and the line where there is one, if it is missing, empty, or not what it should be.
    """
    return list(each_row(path, key=key))


def each_row(path: Path, *, key: str = "data.path") -> Iterator[Row]:
    """The same one after the other: more of them than memory holds."""
    is_empty = True
    for file in files_in(path, key=key, formats=_READERS):
        for row in _READERS[format_of(file)](file):
            is_empty = False
            yield row
    if is_empty:
        raise DataError(f"{key} {str(path)!r} holds no text. Give it at least two documents.")


def stream_rows(path: Path, *, key: str = "data.path") -> Iterator[tuple[Record, Row]]:
    """As `read_rows`, one after the other, each with the record that it was read from; a text of a `.txt` file has none."""
    for file in files_in(path, key=key, formats=_READERS):
        if format_of(file) == ".jsonl":
            for where, values in json_lines(file):
                row = _to_row(values, where=where)
                yield Record(values, where), row
        else:
            yield from ((Record({}, str(file)), row) for row in _read_txt(file))


def _read_jsonl(file: Path) -> Iterator[Row]:
    for where, record in json_lines(file):
        yield _to_row(record, where=where)


def _to_row(record: Any, *, where: str) -> Row:
    match record:
        case {"prompt": str(prompt), "completion": str(text)} if text:
            return _whole(Row(text, prompt, record.get("finished", True) is not False), where=where)
        case {"text": str(text)} if text:
            return _whole(Row(text, finished=record.get("finished", True) is not False), where=where)
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
    return map(Row, split_documents(lines_in(file)))


_READERS = {".jsonl": _read_jsonl, ".txt": _read_txt}


def to_examples(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> list[Example]:
    """Tokenise rows and cut them to windows of at most `max_tokens`.

    Prompt and text are tokenised apart, so that no token crosses from one into the other; the end of a finished text is
    a token to learn too. Predicting the text weighs 1, the prompt 0.
    """
    return [piece for row in rows for piece in windows(to_example(row, tokenizer), max_tokens=max_tokens)]


def to_example(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    """One row whole, however long."""
    prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"] if row.prompt else start_ids(tokenizer)
    text = tokenizer(row.text, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if row.finished and tokenizer.eos_token_id is not None else []
    weights = [0.0] * len(prompt) + [1.0] * (len(text) + len(end))
    return Example((*prompt, *text, *end), tuple(weights), len(row.text.encode()))


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a text without a prompt is predicted from: the beginning-of-text token, or the end-of-text one if there is none."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if first is None else [first]
