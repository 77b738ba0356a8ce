"""The YAML file of a world: its words by part of speech, what a text can have, how long it is, and how it is asked for."""

import re
import string
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from stillhouse.core import yaml_text
from stillhouse.core.config import Config, parse_recipe
from stillhouse.core.errors import DataError, RecipeError
from stillhouse.core.files import fingerprint
from stillhouse.core.word_forms import Inflection, forms

SHIPPED = Path(__file__).parent
WORLDS = ("stories", "beginnings", "support")
"""Those that come with the package, by name."""

Text = Annotated[str, Field(min_length=1)]


class PartConfig(Config):
    """Words of one kind."""

    words: tuple[Text, ...]
    """A list, or one text of words with spaces between."""
    draw: NonNegativeInt = 0
    """How many of them a text is asked to have. Words of which none is drawn are only allowed."""
    inflect: Inflection = "none"
    """How they change: as a `noun`, a `verb`, an `adjective`, or not at all."""
    required: bool = True
    """Whether a text without them is dropped by the filter `required_words`."""

    @field_validator("words", mode="before")
    @classmethod
    def _text_is_a_list(cls, value: object) -> object:
        return tuple(value.split() if isinstance(value, str) else value) if isinstance(value, str | list) else value

    @field_validator("words")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _there_are_enough(self) -> "PartConfig":
        if len(self.words) < self.draw:
            raise ValueError(f"draw is {self.draw}, but there are {len(self.words)} words. Give more, or lower draw.")
        return self


class FeatureConfig(Config):
    """What a text can have."""

    ask: Text
    """What a prompt says of it."""
    sign: str | None = None
    """A regular expression that a text with it matches, where one can tell; the filter `features` drops what does not."""

    @field_validator("sign")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}. Mend it, or leave sign out.") from None
        return value


class LengthConfig(Config):
    """How long a text may be."""

    words: tuple[PositiveInt, PositiveInt]
    """The fewest and the most; the filter `lengths` drops what has fewer or more."""
    ask: Text
    """What a prompt says of it."""


class World(Config):
    """Words, features, lengths and prompts."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    like: str = ""
    """A world that comes with the package and has what this file leaves out, such as its words."""
    text: Text = "text"
    """What one text is called: a story, a dialogue."""
    parts: dict[str, PartConfig]
    """Words by their kind; the name of each kind of which words are drawn is a slot of the prompt."""
    features: dict[str, FeatureConfig] = Field(default_factory=dict)
    most_features: NonNegativeInt = 2
    """A text is asked to have none to so many."""
    lengths: Annotated[dict[str, LengthConfig], Field(min_length=1)]
    prompt: Text
    """With a slot in braces for each kind of word that is drawn, and for `length` and `features` where there are several."""
    openings: tuple[Text, ...] = ()
    """How a text begins, one of them by chance, with slots for words, which then need no slot in the prompt. A teacher of this
    process goes on from it: the words are there, however weak it is. One behind an API is asked to begin so."""
    features_phrase: str = " {features}."
    """What stands in the slot `features` where any are asked for."""
    summary: Text
    """How a summary of a `text` is asked for: the Instruct variant's."""

    @model_validator(mode="after")
    def _slots_are_filled(self) -> "World":
        if not self.drawn:
            raise ValueError(
                "no part has a draw above 0, so every text would be asked for in the same words. Give one."
            )
        opened = set.intersection(*map(_slots, self.openings)) if self.openings else set[str]()
        needed = {*self.drawn, "length", "features"} - opened
        if self.openings and len(self.lengths) == 1:
            needed -= {"length"}
        if self.openings and not self.features:
            needed -= {"features"}
        known = {*self.drawn, "length", "features"}
        faults = [
            *(fault for one in self.openings for fault in _slot_faults("openings", one, {*self.drawn}, needed=set())),
            *_slot_faults("prompt", self.prompt, known, needed=needed),
            *_slot_faults("features_phrase", self.features_phrase, {"features"}, needed={"features"}),
            *_slot_faults("summary", self.summary, {"text"}, needed={"text"}),
        ]
        if self.most_features > len(self.features):
            faults.append(f"most_features is {self.most_features}, but there are {len(self.features)}. Lower it.")
        if faults:
            raise ValueError(" ".join(faults))
        return self

    @property
    def drawn(self) -> dict[str, PartConfig]:
        """The kinds of which a text is asked to have words."""
        return {name: part for name, part in self.parts.items() if part.draw}

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word in all its forms, phrases taken apart."""
        return frozenset(
            form
            for part in self.parts.values()
            for phrase in part.words
            for word in phrase.lower().split()
            for form in forms(word, part.inflect)
        )


def _slots(template: str) -> set[str]:
    """The slots of a template; none of one that cannot be read, of which `_slot_faults` tells."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError:
        return set()


def _slot_faults(key: str, template: str, known: set[str], *, needed: set[str]) -> Iterator[str]:
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        yield f"{key} cannot be read: {error}. Write a brace that is no slot twice."
        return
    if strange := sorted(found - known):
        yield f"{key} has the slot {{{strange[0]}}}, and known are {', '.join(sorted(known))}."
    if missing := sorted(needed - found):
        yield f"{key} lacks the slot {{{missing[0]}}}. Add it."


def load_world(source: str, *, key: str = "data.world") -> World:
    """A world that comes with the package, by its name, or one of your own, by its file.

    Raises:
        RecipeError: naming every fault of the file.
        DataError: where there is none.
    """
    file = world_file(source, key=key)
    try:
        values = yaml_text.from_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key} {source!r} cannot be read: {error}. Mend the file.") from None
    except yaml.YAMLError as error:
        raise RecipeError([f"{yaml_text.problem(error)}."], source=str(file)) from None
    if not isinstance(values, dict):
        raise RecipeError(["a world is a mapping of keys to values."], source=str(file))
    return parse_recipe(World, _with_what_it_is_like(values, file), source=str(file))


def _with_what_it_is_like(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """What the world that it is `like` says wherever this one says nothing.

    Raises:
        RecipeError: where no such world comes with the package.
    """
    like = values.get("like")
    if not like:
        return values
    others = [name for name in WORLDS if name != file.stem]
    if like not in others:
        raise RecipeError(
            [f"like is {like!r}; worlds that come with stillhouse are {', '.join(others)}."], source=str(file)
        )
    return {**yaml_text.from_yaml((SHIPPED / f"{like}.yaml").read_text(encoding="utf-8")), **values}


def world_file(source: str, *, key: str = "data.world") -> Path:
    """Where it lies.

    Raises:
        DataError: where there is none.
    """
    if source in WORLDS:
        return SHIPPED / f"{source}.yaml"
    file = Path(source).expanduser()
    if not file.is_file():
        raise DataError(
            f"{key} is {source!r}, which is neither a file nor a world that comes with stillhouse ({', '.join(WORLDS)}). "
            "Name one of them, or a YAML file of your own."
        )
    return file


def world_fingerprint(source: str) -> str:
    """Hash of all that it says."""
    return fingerprint(load_world(source).model_dump(mode="json"))
