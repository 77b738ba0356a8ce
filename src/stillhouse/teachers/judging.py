"""How a language model is asked which of two answers is better, and how its reply is read."""

import re
from typing import Literal

COMPARISON = (
    "Read the conversation and compare two answers to its last turn. The better one is right, does what was asked, is clear, "
    "and is no longer than it has to be. Do not let the order in which they stand decide.\n\n[Conversation]\n{conversation}\n\n"
    "[Answer A]\n{first}\n\n[Answer B]\n{second}\n\nSay in one or two sentences what decides. Then end with a line of its own, "
    "one of:\nBetter: A\nBetter: B\nBetter: tie"
)
SLOTS = ("{conversation}", "{first}", "{second}")
"""What a prompt must hold."""

BETTER = re.compile(r"^[ \t*_#>]*better[ \t*_]*:[ \t*_]*(A|B|tie)[ \t*_.]*$", re.IGNORECASE)
Shown = Literal["A", "B", "tie"]


def read_better(text: str) -> Shown | None:
    """What the one line `Better: ...` says; None where there is none, or several that differ."""
    found = {match[1].lower() for line in text.splitlines() if (match := BETTER.match(line))}
    known: dict[str, Shown] = {"a": "A", "b": "B", "tie": "tie"}
    return known[found.pop()] if len(found) == 1 else None


def filled(prompt: str, **parts: str) -> str:
    """The prompt with its parts, whatever else in braces it, or they, may hold."""
    return re.sub(r"\{(\w+)\}", lambda match: parts.get(match[1], match[0]), prompt)
