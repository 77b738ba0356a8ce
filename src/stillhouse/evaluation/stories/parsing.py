"""Sentences that have a grammar, as Link Grammar sees it: a parser by rules, which knows nothing of what is likely.

A sentence has one if all of its words can be linked. The parser is a program of its own (`apt install link-grammar`, `brew
install link-grammar`) and reads English.

Source: Sleator and Temperley, 1991, Parsing English with a Link Grammar, arXiv:cmp-lg/9508004.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stillhouse.core.errors import StillhouseError

PROGRAM = "link-parser"
SETTINGS = {"echo": 1, "graphics": 0, "limit": 100, "null": 0, "panic": 0, "spell": 0, "timeout": 5, "verbosity": 1}
"""Every word must be linked, and none is guessed. Of a sentence's linkages a hundred are looked at, for five seconds."""
BOUNDARY = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"']))\s+|\n+")
ENDED = re.compile(r"(?:[.!?][\"']?|^)\s*$")
STRAIGHT = str.maketrans("“”‘’", "\"\"''")
LINKAGES = re.compile(r"Found \d+ linkages? \((\d+) (?:of \d+ random linkages )?had no P\.P\. violations\)")


@dataclass(frozen=True)
class Parses:
    """Of one text: its sentences, and how many of them have a grammar."""

    sentences: int
    whole: int

    @property
    def unparsed(self) -> float:
        """Share of its sentences without one; all of a text that has no sentence."""
        return 1 - self.whole / self.sentences if self.sentences else 1.0


def check_parser() -> None:
    """See that there is a parser.

    Raises:
        StillhouseError: if there is none.
    """
    if shutil.which(PROGRAM) is None:
        raise StillhouseError(
            f"evaluation.grammar is link_grammar, but there is no program {PROGRAM} here. Install it (apt "
            "install link-grammar, brew install link-grammar), or say teacher."
        )


def parses_of(texts: Sequence[str]) -> list[Parses]:
    """What the parser makes of each text.

    Raises:
        StillhouseError: if there is no parser, or it does not do its work.
    """
    check_parser()
    split = [list(sentences_of(text)) for text in texts]
    answers = iter(_linked([sentence for own in split for sentence in own]))
    return [Parses(len(own), sum(next(answers) for _ in own)) for own in split]


def from_open_sentence(beginning: str, text: str) -> str:
    """A text with the sentence that its beginning breaks off in."""
    open_one = BOUNDARY.split(beginning.translate(STRAIGHT))[-1]
    return text if ENDED.search(open_one) else open_one + text


def sentences_of(text: str) -> Iterator[str]:
    """Sentences one by one, each on one line, with straight quotation marks and without what the parser would read as a
    command."""
    for piece in BOUNDARY.split(text.translate(STRAIGHT)):
        sentence = " ".join(piece.split()).lstrip("!%*")
        if any(letter.isalpha() for letter in sentence):
            yield sentence


def _linked(sentences: Sequence[str]) -> list[bool]:
    """Whether all words of each sentence can be linked."""
    if not sentences:
        return []
    command = [PROGRAM, "en", *(f"-{name}={value}" for name, value in SETTINGS.items())]
    done = subprocess.run(command, input="\n".join(sentences) + "\n", capture_output=True, text=True, encoding="utf-8")
    found: list[bool] = []
    for line in done.stdout.splitlines():
        if len(found) < len(sentences) and line.strip() == sentences[len(found)]:
            found.append(False)
        elif found and (match := LINKAGES.match(line)):
            found[-1] = int(match[1]) > 0
    if done.returncode or len(found) < len(sentences):
        told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StillhouseError(f"{PROGRAM} read {len(found)} of {len(sentences)} sentences and ended: {told}")
    return found
