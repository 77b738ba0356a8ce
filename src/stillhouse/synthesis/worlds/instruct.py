"""The Instruct variant: what stands before a text that is learnt behind an instruction.

Source: Eldan and Li, 2023, TinyStories, arXiv:2305.07759, section 5: a random choice of words, features, a summary, and a
sentence that the text holds, in random order.
"""

import re
from collections.abc import Mapping
from random import Random
from typing import Any

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"”']?")
FEWEST_WORDS = 4
"""A shorter sentence is hardly one."""


def instruction_of(lineage: Mapping[str, Any], text: str, *, called: str, seed: int) -> str:
    """The instruction, up to where the text begins; always the same for the same text."""
    random = Random(f"{seed}, instruction, {lineage['seed']}")
    sentence = _sentence_of(text, random)
    lines = {
        "Words": ", ".join(word for _, word in lineage["words"]),
        "Features": ", ".join(name.replace("_", " ") for name in lineage["features"]),
        "Summary": str(lineage.get("summary") or ""),
        "Sentence": sentence,
    }
    there = [name for name, said in lines.items() if said]
    chosen = random.sample(there, random.randint(1, len(there)))
    return "".join(f"{name}: {lines[name]}\n" for name in chosen) + f"{called.capitalize()}:\n"


def asked_in(instruction: str) -> dict[str, str]:
    """What an instruction asks for, by its headings."""
    pairs = (line.partition(": ") for line in instruction.splitlines())
    return {name: said for name, mark, said in pairs if mark}


def _sentence_of(text: str, random: Random) -> str:
    found = [one.strip() for one in _SENTENCE.findall(text) if len(one.split()) >= FEWEST_WORDS]
    return random.choice(found) if found else ""
