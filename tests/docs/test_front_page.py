"""The README shows each kind of data by rows that can be read."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from stillhouse.data.chat_forms import read_conversations
from stillhouse.data.config import (
    ChatDataConfig,
    ClassificationDataConfig,
    MaskedTextDataConfig,
    PreferencesDataConfig,
    RagDataConfig,
    RegressionDataConfig,
    RewardsDataConfig,
    SentencesDataConfig,
    TagsDataConfig,
    TextDataConfig,
)
from stillhouse.data.labelled import each_labelled
from stillhouse.data.preference_forms import read_preferences
from stillhouse.data.rag_questions import read_rag_questions
from stillhouse.data.sentences import each_sentence
from stillhouse.data.tables import read_records
from stillhouse.data.tags import each_tagged
from stillhouse.data.text import read_rows

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (`\{.+\}`) \|", README, re.MULTILINE))


def read_masked(path: Path) -> list[str]:
    column = MaskedTextDataConfig(path=path).text
    return [record.text(column, key="data.text") for record in read_records(path, key="data.path")]


READERS: dict[str, Callable[[Path], Iterable[object]]] = {
    "text": read_rows,
    "chat": read_conversations,
    "rag": read_rag_questions,
    "preferences": lambda path: read_preferences(path)[0],
    "rewards": lambda path: read_preferences(path)[0],
    "masked_text": read_masked,
    "classification": lambda path: each_labelled(path, ClassificationDataConfig(path=path), key="data.path"),
    "regression": lambda path: each_labelled(path, RegressionDataConfig(path=path), key="data.path"),
    "tags": lambda path: each_tagged(path, TagsDataConfig(path=path), key="data.path"),
    "sentences": lambda path: each_sentence(path, SentencesDataConfig(path=path), key="data.path"),
}


def test_the_table_has_every_kind_of_data():
    spoken = [TextDataConfig, ChatDataConfig, RagDataConfig, PreferencesDataConfig, RewardsDataConfig]
    kinds = [*spoken, MaskedTextDataConfig, ClassificationDataConfig, RegressionDataConfig]
    assert list(ROWS) == [kind.model_fields["kind"].default for kind in [*kinds, TagsDataConfig, SentencesDataConfig]]


@pytest.mark.parametrize("kind", READERS)
def test_the_rows_in_the_table_are_read_without_another_key(kind: str, tmp_path: Path):
    rows = re.findall(r"`(\{.+?\})`", ROWS[kind])
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(rows), encoding="utf-8")
    assert len([*READERS[kind](file)]) == len(rows) > 0
