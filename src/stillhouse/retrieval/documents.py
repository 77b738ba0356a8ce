"""From documents to passages: text, Markdown, HTML, PDF, and JSON lines, each passage with an id that stays the same."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from stillhouse.core.errors import DataError
from stillhouse.data.tables import Record, files_in, format_of, is_whole, read_file, records_in
from stillhouse.retrieval.dataset_rows import dataset_records, is_dataset

FORMATS = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".jsonl")
"""What is read; text and JSON lines may be gzipped."""

Language = Literal["english", "none"]
"""Whose endings BM25 cuts off, and whose most frequent words it leaves out; `none` takes words as they are."""

SHORTEST_SHARE = 0.2
"""A shorter rest of a document, as a share of a passage, joins the passage before."""

WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words."""
_WORD = re.compile(rf"[{WITHOUT_SPACES}]|[^\s{WITHOUT_SPACES}]+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"”’)\]]*\s+|(?<=[。！？।])[」』”]*|\n[ \t]*(?:\n[ \t]*)+")


@dataclass(frozen=True)
class Passage:
    """A piece of a document: what is indexed, found, and cited."""

    id: str
    """Given by the data, or made of the text: the same text has the same id in every run and every order."""
    text: str
    source: str = ""
    """The file or row that it was cut from."""
    title: str = ""

    @property
    def whole(self) -> str:
        """What is embedded: the title, where there is one, before the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class Corpus:
    """All passages to search, and what of the documents did not become one."""

    passages: tuple[Passage, ...]
    empty: tuple[str, ...] = ()
    """Documents without any text."""
    num_duplicates: int = 0
    """Passages that another one says word for word, and that no id of their own keeps apart."""
    num_documents: int = 0

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """Each passage by its id."""
        return {passage.id: passage for passage in self.passages}


@dataclass(frozen=True)
class _Document:
    text: str
    source: str
    id: str = ""
    title: str = ""


@dataclass
class _Gathering:
    """Passages as they are found, each once."""

    passages: dict[str, Passage] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    num_duplicates: int = 0
    num_documents: int = 0

    def take(self, document: _Document, *, words: int | None) -> None:
        self.num_documents += 1
        texts = list(cut(document.text, words=words)) if words else [document.text.strip()]
        if not any(texts):
            self.empty.append(document.source)
            return
        for number, text in enumerate(texts):
            self._keep(document, text, part=f"#{number}" if len(texts) > 1 else "")

    def _keep(self, document: _Document, text: str, *, part: str) -> None:
        one = Passage(f"{document.id}{part}" if document.id else id_of(text), text, document.source, document.title)
        if one.id not in self.passages:
            self.passages[one.id] = one
        elif document.id:
            raise DataError(
                f"{document.source} has the id {document.id!r}, which {self.passages[one.id].source} has already. Give each "
                "document an id of its own, or leave ids out."
            )
        else:
            self.num_duplicates += 1


def read_corpus(path: Path, *, words: int | None = 150, key: str = "data.documents") -> Corpus:
    """Every document of a file, a folder, however deep, or a `datasets` data set, cut into passages of about so many words;
    None leaves them whole.

    A JSON line, or a data set's row, has `text`, and may have `title` and an id (`_id` or `id`), which its passages then go by.
    Documents without an id share a passage that several of them have: it is kept once, and counted.

    Raises:
        DataError: naming the file, and the line where there is one, if it is missing or cannot be read, an id comes twice,
            or there is no text at all.
    """
    gathering = _Gathering()
    for document in _documents(path, key=key):
        gathering.take(document, words=words)
    if not gathering.passages:
        raise DataError(f"{key} {str(path)!r} has no text in it. Known: {', '.join(FORMATS)}, or a folder of them.")
    found = tuple(gathering.passages.values())
    return Corpus(found, tuple(gathering.empty), gathering.num_duplicates, gathering.num_documents)


def id_of(text: str) -> str:
    """The id of a passage that has none: 64 bits of SHA-256 over its words, whatever stands between them."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def words_in(text: str) -> int:
    """How many words; each character of a script that puts no spaces between words counts as one."""
    return sum(1 for _ in _WORD.finditer(text))


def cut(text: str, *, words: int) -> Iterator[str]:
    """Passages of at most so many words, cut where a sentence or paragraph ends; a sentence that is longer is cut inside.

    The last one may be a fifth longer, with a rest that is too short to stand alone.
    """
    found: list[str] = []
    current, count = "", 0
    for piece, length in _pieces(text.strip(), words=words):
        if current and count + length > words:
            found.append(current.strip())
            current, count = "", 0
        current, count = current + piece, count + length
    rest = current.strip()
    if rest and found and count < SHORTEST_SHARE * words:
        found[-1] = f"{found[-1]} {rest}"
    elif rest:
        found.append(rest)
    return iter(found)


def _pieces(text: str, *, words: int) -> Iterator[tuple[str, int]]:
    """Sentences with what follows them, and their lengths in words; none longer than `words`."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        starts = [start + match.start() for match in _WORD.finditer(text[start:end])]
        for first in range(0, len(starts), words):
            last = min(first + words, len(starts))
            begins = start if first == 0 else starts[first]
            yield text[begins : end if last == len(starts) else starts[last]], last - first


def _documents(path: Path, *, key: str) -> Iterator[_Document]:
    if is_dataset(path):
        yield from (_document_of(record) for record in dataset_records(path, key=key))
        return
    for file in files_in(path, key=key, formats=FORMATS):
        yield from _documents_in(file, root=path if path.is_dir() else path.parent)


def _documents_in(file: Path, *, root: Path) -> Iterator[_Document]:
    source = str(file.relative_to(root))
    match format_of(file):
        case ".jsonl":
            yield from (_document_of(record) for record in records_in(file))
        case ".html" | ".htm":
            text, title = _text_of_html(file.read_bytes())
            yield _Document(text, source, title=title)
        case ".pdf":
            yield _Document(_text_of_pdf(file), source)
        case _:
            yield _Document(read_file(file), source)


def _document_of(record: Record) -> _Document:
    """A row's document; its text may be empty, but not missing."""
    text = record.values.get("text")
    if not isinstance(text, str) or not is_whole(text):
        record.text("text", key="a document")  # says what is wrong with it
    title = record.values.get("title") or ""
    name = next((str(record.values[column]) for column in ("_id", "id") if record.values.get(column) is not None), "")
    return _Document(str(text), record.where, id=name, title=title if isinstance(title, str) else "")


def _text_of_html(content: bytes) -> tuple[str, str]:
    """What a reader of the page sees, and its title."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(content, "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for unseen in page(["script", "style", "noscript", "template", "head"]):
        unseen.decompose()
    return page.get_text("\n", strip=True), title


def _text_of_pdf(file: Path) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(file).pages)
    except (PyPdfError, ValueError, KeyError, OSError) as error:
        raise DataError(f"{file} cannot be read as PDF: {error}. Mend or remove it.") from None


def same_text(passages: Iterable[Passage]) -> dict[str, list[str]]:
    """For each passage's id, the ids of all that say the same words: itself, and copies under other ids."""
    by_text: dict[str, list[str]] = {}
    listed: Sequence[Passage] = list(passages)
    for passage in listed:
        by_text.setdefault(id_of(passage.text), []).append(passage.id)
    return {passage.id: by_text[id_of(passage.text)] for passage in listed}
