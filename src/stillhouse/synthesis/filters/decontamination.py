"""Records that have a piece of an evaluation set in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.core.rouge import words_of
from stillhouse.data.overlap import Grams, index, runs, texts_within
from stillhouse.data.tables import read_records, split_documents
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, quoted, turns
from stillhouse.synthesis.records import Record

FORMATS = (".jsonl", ".json", ".csv", ".tsv")


class DecontaminationConfig(FilterSettings):
    """Drops what has a run of words in common with a file that a student is to be judged by.

    Source: Brown et al., 2020 (GPT-3), arXiv:2005.14165, appendix C, which drops by runs of 13 words, and of 8 at least where
    the evaluation's texts are shorter.
    """

    name: Literal["decontamination"] = "decontamination"
    paths: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Files or folders: `.jsonl`, `.json`, `.csv`, `.tsv` or `.txt`, each of them also gzipped. Every text in every column
    counts, whatever its name."""
    words: Annotated[int, Field(ge=2)] = 13
    """Words in a row. Fewer drop more, and more that only sounds alike."""
    shortest: Annotated[int, Field(ge=2)] = 8
    """An evaluation's text of fewer than `words` words is looked for as a whole, if it has at least so many. A still shorter
    one only drops what says exactly that and nothing else."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`.

        Raises:
            DataError: for a path that cannot be read, naming it.
        """
        texts = [text for path in self.paths for text in texts_of(path)]
        grams, whole = index(texts, size=self.words, shortest=self.shortest)
        names = ", ".join(path.name for path in self.paths)
        said = f"Drops what has {self.words} words in a row, or a whole text, in common with {names}."
        return NamedFilter("decontamination", said, each(lambda record: _reason(record, grams, whole)))


def texts_of(path: Path) -> list[tuple[str, str]]:
    """Every text in a file or folder, and where it stands.

    Raises:
        DataError: naming the path or the line, if it cannot be read.
    """
    records = read_records(path, key="filters.decontamination.paths", formats=FORMATS, splitter=split_documents)
    return [(record.where, text) for record in records for text in texts_within(record.values)]


def _reason(record: Record, grams: Grams, whole: Mapping[tuple[str, ...], str]) -> str:
    for turn in turns(record):
        found = words_of(turn.text)
        if (where := whole.get(tuple(found))) is not None:
            return f"{turn.name} is in an evaluation set (all of it in {where})"
        for size, known in grams.items():
            for run in runs(found, size):
                if run in known:
                    shown = quoted(" ".join(run), 90)
                    return f"{turn.name} is in an evaluation set ({size} words in {known[run]}: {shown})"
    return ""
