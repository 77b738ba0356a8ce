"""Too short, too long, or not come to its end."""

from collections.abc import Callable
from typing import Literal

from pydantic import PositiveInt, model_validator
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.core.rouge import words_of
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, turns
from stillhouse.synthesis.records import Record


class LengthConfig(FilterSettings):
    """Drops what is too short or too long."""

    name: Literal["length"] = "length"
    unit: Literal["words", "tokens"] = "words"
    """What is counted. Tokens are those of the model that writes."""
    shortest_question: PositiveInt = 4
    """Of the first question: those behind it may be as short as `Why?`. Self-Instruct's number."""
    longest_question: PositiveInt | None = 150
    """Of every question. Self-Instruct's number."""
    shortest_answer: PositiveInt = 1
    """Of every answer."""
    longest_answer: PositiveInt | None = None
    """Of every answer."""
    shortest_text: PositiveInt = 16
    """Of a text without questions and answers: a shorter one is an accident."""
    longest_text: PositiveInt | None = None
    """Of a text without questions and answers."""

    @model_validator(mode="after")
    def _something_is_between(self) -> "LengthConfig":
        for part in ("question", "answer", "text"):
            shortest, longest = getattr(self, f"shortest_{part}"), getattr(self, f"longest_{part}")
            if longest is not None and longest < shortest:
                raise ValueError(
                    f"longest_{part} ({longest}) is below shortest_{part} ({shortest}), so nothing would be kept. "
                    "Raise the one or lower the other."
                )
        return self

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        count = self._counter(tokenizer)
        return NamedFilter("length", self._explanation(), each(lambda record: self._reason(record, count)))

    def _counter(self, tokenizer: PreTrainedTokenizerBase | None) -> Callable[[str], int]:
        if self.unit == "words":
            return lambda text: len(words_of(text))
        if tokenizer is None:
            raise ModelError(
                "filter length counts tokens, but the writer's tokenizer is not known here. Say unit: words."
            )
        return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _explanation(self) -> str:
        bounds = [
            f"{part}s of {getattr(self, f'shortest_{part}')} to {getattr(self, f'longest_{part}') or 'any number of'}"
            for part in ("question", "answer", "text")
        ]
        return f"Keeps {', '.join(bounds)} {self.unit}."

    def _reason(self, record: Record, count: Callable[[str], int]) -> str:
        for number, turn in enumerate(turns(record)):
            length = count(turn.text)
            shortest, longest = getattr(self, f"shortest_{turn.name}"), getattr(self, f"longest_{turn.name}")
            if length < shortest and (turn.name != "question" or number == 0):
                return f"{turn.name} too short ({length} {self.unit}, {shortest} wanted)"
            if longest is not None and length > longest:
                return f"{turn.name} too long ({length} {self.unit}, {longest} allowed)"
        return ""


class UnfinishedConfig(FilterSettings):
    """Drops what a limit of tokens cut off."""

    name: Literal["unfinished"] = "unfinished"
    punctuation: bool = False
    """Whether the last thing written must also end in a mark that ends sentences. Code, lists and verses often do not."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        also = ", or does not end as a sentence does" if self.punctuation else ""
        return NamedFilter("unfinished", f"Drops what a limit of tokens cut off{also}.", each(self._reason))

    def _reason(self, record: Record) -> str:
        last = turns(record)[-1]
        if not record.finished:
            return f"{last.name} cut off (after {len(words_of(last.text))} words)"
        if self.punctuation and not last.text.rstrip().rstrip(CLOSING).endswith(SENTENCE_ENDS):
            return f"{last.name} without an end (its last words: {last.text[-30:]!r})"
        return ""


CLOSING = "\"'”’»)]*_`"
"""What may stand behind the end of a sentence."""
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।", "```")
