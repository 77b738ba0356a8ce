"""The texts of a world as rows: read from what the teacher wrote, split, and turned into examples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import read_lines
from stillhouse.data.examples import Example
from stillhouse.data.split import split_held_out
from stillhouse.data.text import Row, to_examples
from stillhouse.synthesis.worlds import World, instruction_of


@dataclass(frozen=True)
class Story:
    """One text that the teacher wrote, with what it was asked to have, as JSON."""

    text: str
    lineage_json: str

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """What it was asked to have."""
        return dict(json.loads(self.lineage_json))

    def instruction(self, world: World, *, seed: int) -> str:
        """What stands before it; empty where it is learnt alone."""
        if not self.lineage.get("instruct"):
            return ""
        return instruction_of(self.lineage, self.text, called=world.text, seed=seed)


def read_stories(file: Path) -> list[Story]:
    """What is kept of one round."""
    return [Story(line["text"], json.dumps(line["lineage"], sort_keys=True)) for line in read_lines(file)]


def first_round(file: Path, *, share: float) -> tuple[list[Story], list[Story]]:
    """Texts to learn from, and held-out ones, spread over features and lengths.

    Raises:
        DataError: where the filters left too few.
    """
    stories = read_stories(file)
    if len({story.text for story in stories}) < 2:
        raise DataError(
            f"{len(stories)} texts of the first round are kept, too few to learn from. The others are in data/dropped.jsonl, "
            "each with its reason. Raise data.number, take a better teacher, or mend data.filters."
        )
    return split_held_out(
        stories,
        share=share,
        spread_over=lambda one: (one.lineage["features"], one.lineage["length"]),
        hint=", or raise data.held_out",
    )


def examples_of(
    stories: Sequence[Story], world: World, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, seed: int
) -> list[Example]:
    """What is learnt: each text alone, or behind its instruction, which is read and not learnt."""
    rows = [Row(story.text, story.instruction(world, seed=seed)) for story in stories]
    return to_examples(rows, tokenizer, max_tokens=max_tokens)


def whole_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> list[list[Example]]:
    """Each text alone, in as many pieces as it takes."""
    return [to_examples([Row(text)], tokenizer, max_tokens=max_tokens) for text in texts]
