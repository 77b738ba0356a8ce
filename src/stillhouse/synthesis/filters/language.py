"""Which language a text is in, by a small model; or only which letters it is written in, by Unicode."""

import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import StillhouseError
from stillhouse.core.faults import nearest
from stillhouse.core.rouge import words_of
from stillhouse.data.languages import identifier
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, turns
from stillhouse.synthesis.records import Record

Probability = Annotated[float, Field(gt=0, le=1)]

SCRIPTS = {
    "arabic": "ARABIC",
    "armenian": "ARMENIAN",
    "bengali": "BENGALI",
    "chinese": "CJK",
    "cyrillic": "CYRILLIC",
    "devanagari": "DEVANAGARI",
    "georgian": "GEORGIAN",
    "greek": "GREEK",
    "hangul": "HANGUL",
    "hebrew": "HEBREW",
    "hiragana": "HIRAGANA",
    "katakana": "KATAKANA",
    "latin": "LATIN",
    "tamil": "TAMIL",
    "thai": "THAI",
}
"""What a recipe calls a script, and what the names of its letters begin with in Unicode."""


class LanguageConfig(FilterSettings):
    """Drops what is in another language, as `py3langid` tells it: a small model of its own, which needs no network.

    Source: Lui and Baldwin, 2012, langid.py: An Off-the-shelf Language Identification Tool.
    """

    name: Literal["language"] = "language"
    languages: Annotated[tuple[str, ...], Field(min_length=1)]
    """Codes of two letters, such as `en`. Anything else goes."""
    surely: Probability = 0.8
    """How sure the model must be of another language: in between, a text stays."""
    shortest: Annotated[int, Field(ge=1)] = 6
    """Words from which on a text is judged. Of fewer the model often guesses wrong."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`.

        Raises:
            StillhouseError: if `py3langid` is missing, or does not know a language.
        """
        identify = _identifier()
        known = sorted(identify.labels)
        for language in self.languages:
            if language not in known:
                raise StillhouseError(
                    f"filter language: {language!r} is no language that py3langid knows.{nearest(language, known)} "
                    f"It knows {', '.join(known)}."
                )
        said = f"Drops what py3langid tells to be in another language than {', '.join(self.languages)}."
        return NamedFilter("language", said, each(lambda record: self._reason(record, identify.classify)))

    def _reason(self, record: Record, classify: Callable[[str], tuple[str, float]]) -> str:
        for turn in turns(record):
            if len(words_of(turn.text)) < self.shortest:
                continue
            language, probability = classify(turn.text)
            if language not in self.languages and probability >= self.surely:
                return f"{turn.name} in another language ({language}, {probability:.2f} sure)"
        return ""


def _identifier() -> Any:
    """The model of `py3langid`.

    Raises:
        StillhouseError: if it is not installed.
    """
    found = identifier()
    if found is None:
        raise StillhouseError(
            "filter language needs py3langid, which is not installed here. Install it (pip install 'stillhouse[language]'), or "
            "use the filter `script`, which looks at letters only and needs nothing."
        )
    return found


class ScriptConfig(FilterSettings):
    """Drops what is written in other letters. It cannot tell English from French."""

    name: Literal["script"] = "script"
    scripts: Annotated[tuple[str, ...], Field(min_length=1)] = ("latin",)
    """Such as `latin`, `cyrillic`, `greek`."""
    share: Probability = 0.8
    """Share of a text's letters that must be of these. A name or a formula in others is no other language."""

    @field_validator("scripts")
    @classmethod
    def _each_is_known(cls, scripts: tuple[str, ...]) -> tuple[str, ...]:
        for script in scripts:
            if script not in SCRIPTS:
                raise ValueError(f"{script!r} is not known.{nearest(script, list(SCRIPTS))}")
        return scripts

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        said = f"Drops what has fewer than {self.share:.0%} of its letters from {', '.join(self.scripts)}."
        return NamedFilter("script", said, each(self._reason))

    def _reason(self, record: Record) -> str:
        for turn in turns(record):
            letters = [character for character in turn.text if character.isalpha()]
            wanted = tuple(SCRIPTS[script] for script in self.scripts)
            ours = sum(unicodedata.name(letter, "").startswith(wanted) for letter in letters)
            if letters and ours < self.share * len(letters):
                share = f"{ours / len(letters):.0%} {', '.join(self.scripts)}"
                return f"{turn.name} in other letters ({share}, {self.share:.0%} wanted)"
        return ""
