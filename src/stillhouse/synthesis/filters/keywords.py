"""Questions about what a model of text cannot see or do."""

import re
import string
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, quoted, turns
from stillhouse.synthesis.records import Record

SELF_INSTRUCT = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
    *("go to", "video", "audio", "music", "flowchart", "diagram"),
)
"""What Self-Instruct does not let an instruction hold: a model of text can neither see nor make it.

Source: yizhongw/self-instruct, `bootstrap_instructions.py`.
"""

Words = Annotated[str, Field(min_length=1)]


class KeywordsConfig(FilterSettings):
    """Drops questions that hold one of these words, or begin in an odd way: Self-Instruct's rules for its own questions."""

    name: Literal["keywords"] = "keywords"
    words: tuple[Words, ...] = SELF_INSTRUCT
    """Whole words or phrases; small and capital letters alike."""
    openings: tuple[Words, ...] = ("Write a program",)
    """What a question may not begin with, as written: it is not clear in which language, and whether it can be run."""
    odd_beginnings: bool = True
    """Whether a question goes that begins with a punctuation mark or a letter outside ASCII. For questions in English only."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.words))})\b", re.IGNORECASE) if self.words else None
        said = f"Drops questions with one of {len(self.words)} words, such as {', '.join(self.words[:3]) or 'none'}."
        return NamedFilter("keywords", said, each(lambda record: self._reason(record, pattern)))

    def _reason(self, record: Record, pattern: re.Pattern[str] | None) -> str:
        for turn in turns(record):
            if turn.name != "question":
                continue
            text = turn.text.strip()
            if pattern is not None and (found := pattern.search(text)):
                return f"question holds a word of the list ({quoted(found.group())})"
            if any(text.startswith(opening) for opening in self.openings):
                return f"question begins with an opening of the list ({quoted(text, 30)})"
            if self.odd_beginnings and text and (text[0] in string.punctuation or not text[0].isascii()):
                return f"question begins oddly ({quoted(text, 30)})"
        return ""
