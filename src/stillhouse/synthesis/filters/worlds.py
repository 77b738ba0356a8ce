"""Texts of a world that lack what they were asked to have, or use words that it does not have."""

import re
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from stillhouse.core.rouge import words_of
from stillhouse.core.word_forms import holds
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, each, turns
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.worlds.world import World, load_world


class _WorldSettings(FilterSettings):
    world: str = "stories"
    """A world that comes with stillhouse (`stories`, `support`), or a YAML file of your own."""

    def load(self) -> World:
        """The world."""
        return load_world(self.world, key=f"filters ({self.name}) world")


class RequiredWordsConfig(_WorldSettings):
    """Drops texts without a word that they were asked to have; its forms count: `ran` is a run."""

    name: Literal["required_words"] = "required_words"

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        parts = {name: part for name, part in self.load().drawn.items() if part.required}

        def reason(record: Record) -> str:
            found = words_of(_text(record))
            asked = [(kind, word) for kind, word in record.lineage.get("words", ()) if kind in parts]
            lacking = [word for kind, word in asked if not holds(found, word, parts[kind].inflect)]
            return f"lacks a word that was asked for ({', '.join(lacking)})" if lacking else ""

        said = f"Drops what lacks a word that was asked for, in any form: {', '.join(parts)}."
        return NamedFilter("required_words", said, each(reason))


class FeaturesConfig(_WorldSettings):
    """Drops texts without a feature that they were asked to have, where the world says by which sign it can be told."""

    name: Literal["features"] = "features"

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        signs = {name: re.compile(one.sign) for name, one in self.load().features.items() if one.sign}

        def reason(record: Record) -> str:
            asked = record.lineage.get("features", ())
            lacking = [name for name in asked if name in signs and not signs[name].search(_text(record))]
            return f"lacks the sign of a feature ({', '.join(lacking)})" if lacking else ""

        said = f"Drops what lacks the sign of a feature that was asked for; known of {', '.join(signs) or 'none'}."
        return NamedFilter("features", said, each(reason))


class LengthsConfig(_WorldSettings):
    """Drops texts that are shorter or longer than the length that they were asked to have."""

    name: Literal["lengths"] = "lengths"

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        bounds = {name: one.words for name, one in self.load().lengths.items()}

        def reason(record: Record) -> str:
            asked = record.lineage.get("length", "")
            if asked not in bounds:
                return ""
            (fewest, most), found = bounds[asked], len(words_of(_text(record)))
            if fewest <= found <= most:
                return ""
            return f"too {'short' if found < fewest else 'long'} for {asked} ({found} words, {fewest} to {most} wanted)"

        said = ", ".join(f"{name} {fewest} to {most}" for name, (fewest, most) in bounds.items())
        return NamedFilter("lengths", f"Keeps texts of as many words as were asked for: {said}.", each(reason))


class VocabularyConfig(_WorldSettings):
    """Drops texts of which too many words are not the world's, in any form."""

    name: Literal["vocabulary"] = "vocabulary"
    most_unknown: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Share of a text's words that the world need not have, such as names."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        world = self.load()

        def reason(record: Record) -> str:
            found = words_of(_text(record))
            strange = [word for word in found if word not in world.vocabulary]
            if len(strange) <= self.most_unknown * len(found):
                return ""
            shown = ", ".join(dict.fromkeys(strange[:3]))
            return f"words outside the world ({len(strange)} of {len(found)}, such as {shown})"

        said = f"Drops what has more than {self.most_unknown:.0%} words outside the world {world.name}."
        return NamedFilter("vocabulary", said, each(reason))


def _text(record: Record) -> str:
    return "\n".join(turn.text for turn in turns(record))
