"""Sentences to embed, and pairs of them to judge embeddings by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from stillhouse.data.config import SentencesDataConfig
from stillhouse.data.kept import Ids, Keeping
from stillhouse.data.rowset import PaddedRows, encode, some_at_once
from stillhouse.data.tables import Record, each_record, files_in, format_of, read_records, split_lines
from stillhouse.models.load import pad_id_of

_TABLES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Sentence:
    """A sentence, known by itself."""

    text: str


@dataclass(frozen=True)
class ScoredPair:
    """Two sentences and how alike people find them."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class ScoredPairs:
    """A set of pairs to judge by; row n of `first`, row n of `second` and `scores[n]` belong together."""

    name: str
    first: PaddedRows
    second: PaddedRows
    scores: tuple[float, ...]


def each_sentence(path: Path, config: SentencesDataConfig, *, key: str = "data.path") -> Iterator[Sentence]:
    """The sentences of a file or folder."""
    records = each_record(path, key=key, text_column=config.text, splitter=split_lines)
    return (Sentence(record.text(config.text, key="data.text")) for record in records)


def read_pairs(config: SentencesDataConfig) -> dict[str, list[ScoredPair]]:
    """The pairs of each file, by its name; none where the recipe names none."""
    if config.pairs_path is None:
        return {}
    files = files_in(config.pairs_path, key="data.pairs_path", formats=_TABLES)
    records = {_name(file): read_records(file, key="data.pairs_path") for file in files}
    return {name: [_to_pair(record, config) for record in found] for name, found in records.items()}


def _name(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(format_of(file))


def _to_pair(record: Record, config: SentencesDataConfig) -> ScoredPair:
    return ScoredPair(
        record.text(config.first, key="data.first"),
        record.text(config.second, key="data.second"),
        record.number(config.score, key="data.score"),
    )


def sentence_rows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> PaddedRows:
    """Sentences as the tokenizer frames them, cut at `max_tokens`; nothing carries weight, each counts as a document."""
    ids = Keeping[tuple[int, ...]](Ids)
    for some in some_at_once(texts):
        ids.add_all(encode(tokenizer, some, None, max_tokens=max_tokens)["input_ids"])
    return PaddedRows(ids.kept(), pad_id=pad_id_of(tokenizer))


def scored_pairs(
    name: str, pairs: list[ScoredPair], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int
) -> ScoredPairs:
    """Pairs as two row sets."""
    first = sentence_rows([pair.first for pair in pairs], tokenizer, max_tokens=max_tokens)
    second = sentence_rows([pair.second for pair in pairs], tokenizer, max_tokens=max_tokens)
    return ScoredPairs(name, first, second, tuple(pair.score for pair in pairs))
