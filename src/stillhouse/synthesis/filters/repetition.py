"""Texts that say the same again and again."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.core.rouge import words_of
from stillhouse.data.repetition import loop_at_end, repeated_share, top_share
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, turns
from stillhouse.synthesis.records import Record

MOST_OF_TOP: Mapping[int, float] = {2: 0.20, 3: 0.18, 4: 0.16}
"""The most of a text's characters that its most frequent run of n words may make up.

Source: Rae et al., 2021 (Gopher), arXiv:2112.11446, table A1.
"""
MOST_OF_REPEATED: Mapping[int, float] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""The most that all runs of n words that come more than once may make up together. The same source."""
MOST_LINES, MOST_LINE_CHARACTERS = 0.30, 0.20
"""The most of the lines, and of their characters, that may be repeats of a line before. The same source."""
TOP_FROM_WORDS = 50
"""Gopher's texts have at least so many words. In a shorter one any two words make up a large share."""

Share = Annotated[float, Field(gt=0)]


class RepetitionConfig(FilterSettings):
    """Drops what repeats itself: Gopher's rules for web pages, and a loop at the end, in which models get caught."""

    name: Literal["repetition"] = "repetition"
    scale: Share = 1.0
    """What Gopher's thresholds are multiplied by: higher keeps more, such as tables, verses and code."""
    loops: Annotated[int, Field(ge=2)] = 4
    """How often the same words may not stand one after the other at the end. A single word needs twice as many."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        thresholds = "Gopher's thresholds" if self.scale == 1 else f"{self.scale:g} times Gopher's thresholds"
        return NamedFilter(
            "repetition",
            f"Drops what repeats words or lines beyond {thresholds}, or ends in the same words {self.loops} times over.",
            each(self._reason),
        )

    def _reason(self, record: Record) -> str:
        return next((f"{turn.name} {said}" for turn in turns(record) if (said := self._said(turn.text))), "")

    def _said(self, text: str) -> str:
        found = words_of(text)
        if period := loop_at_end(found, times=self.loops):
            said = f"{period} words, {self.loops}" if period > 1 else f"word, {2 * self.loops}"
            return f"ends in a loop (the same {said} times or more)"
        for name, share, most in _lines_shares(text):
            if share > most * self.scale:
                return f"repeats lines ({share:.0%} of its {name}, {most * self.scale:.0%} allowed)"
        for size, share, most in _run_shares(found):
            if share > most * self.scale:
                return f"repeats words ({share:.0%} in runs of {size}, {most * self.scale:.0%} allowed)"
        return ""


def _lines_shares(text: str) -> list[tuple[str, float, float]]:
    lines = [line.strip() for line in text.split("\n") if words_of(line)]
    repeated = [line for place, line in enumerate(lines) if line in lines[:place]]
    if not repeated:
        return []
    characters = sum(map(len, repeated)) / sum(map(len, lines))
    return [("lines", len(repeated) / len(lines), MOST_LINES), ("letters", characters, MOST_LINE_CHARACTERS)]


def _run_shares(found: Sequence[str]) -> list[tuple[int, float, float]]:
    tops = MOST_OF_TOP if len(found) >= TOP_FROM_WORDS else {}
    return [
        *((size, top_share(found, size), most) for size, most in tops.items()),
        *((size, repeated_share(found, size), most) for size, most in MOST_OF_REPEATED.items()),
    ]
