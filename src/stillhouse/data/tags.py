"""Words with tags: names in a text, parts of speech."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.data.config import TagsDataConfig
from stillhouse.data.kept import Ids, Keeping
from stillhouse.data.labelled import label_ids
from stillhouse.data.rowset import PaddedRows, encode, pad, refuse_slow, some_at_once
from stillhouse.data.tables import Record, each_record
from stillhouse.models.load import pad_id_of


@dataclass(frozen=True)
class TaggedRow:
    """Words, each with its tag."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words in one string."""
        return " ".join(self.words)


def each_tagged(path: Path, config: TagsDataConfig, *, key: str = "data.path") -> Iterator[TaggedRow]:
    """The rows of a file or folder."""
    return (_to_row(record, config) for record in each_record(path, key=key, formats=(".jsonl",)))


def _to_row(record: Record, config: TagsDataConfig) -> TaggedRow:
    row = TaggedRow(record.texts(config.words, key="data.words"), record.labels(config.tags, key="data.tags"))
    if len(row.words) != len(row.tags):
        raise DataError(f"{record.where} has {len(row.words)} words but {len(row.tags)} tags. Give each word one tag.")
    return row


class TaggedRows(PaddedRows):
    """One text a row, with a tag at the first token of each word; a word's other tokens are not judged."""

    def __init__(
        self,
        ids: Sequence[Sequence[int]],
        labels: Sequence[Sequence[int]],
        judged: Sequence[Sequence[int]],
        *,
        pad_id: int,
    ) -> None:
        super().__init__(ids, pad_id=pad_id)
        self.labels, self.judged = labels, judged

    def __getitem__(self, index: int) -> tuple[tuple[int, ...], Sequence[int], Sequence[int]]:
        """Token ids, tags, and 1 where a tag is judged."""
        return self.ids[index], self.labels[index], self.judged[index]

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Rows as tensors [batch, seq]."""
        ids, labels, judged = zip(*items, strict=True)
        return {**self.frame(ids), "weights": pad(judged, value=0).float(), "labels": pad(labels, value=0)}


def tagged_rows(
    rows: Iterable[TaggedRow], tokenizer: PreTrainedTokenizerBase, names: Sequence[str], *, max_tokens: int
) -> TaggedRows:
    """Rows as the tokenizer frames a text; words beyond `max_tokens` are cut off with their tags.

    Raises:
        ModelError: if the tokenizer cannot tell which word a token is of.
    """
    refuse_slow(tokenizer, kind="tags")
    ids, labels, judged = (Keeping[tuple[int, ...]](Ids) for _ in range(3))
    for some in some_at_once(rows):
        words = [list(row.words) for row in some]
        encoded = encode(tokenizer, words, None, max_tokens=max_tokens, is_split_into_words=True)
        ids.add_all(encoded["input_ids"])
        for number, row in enumerate(some):
            places, tags = _first_tokens(encoded.word_ids(number)), [*label_ids(row.tags, names)]
            labels.add(tuple(0 if word is None else tags[word] for word in places))
            judged.add(tuple(int(word is not None) for word in places))
    return TaggedRows(ids.kept(), labels.kept(), judged.kept(), pad_id=pad_id_of(tokenizer))


def _first_tokens(words: Sequence[int | None]) -> list[int | None]:
    """The word that begins at each token, if one does."""
    before = [None, *words[:-1]]
    return [None if word == previous else word for previous, word in zip(before, words, strict=True)]
