"""Runs of words that two sets of texts have in common: what is judged by must not have been learnt.

Source: Brown et al., 2020 (GPT-3), arXiv:2005.14165, appendix C, which counts runs of 13 words, and of 8 at least where a text
is shorter.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.core.rouge import words_of

WORDS = 13
SHORTEST = 8

Run = tuple[str, ...]

Grams = Mapping[int, Mapping[Run, str]]
"""By their number of words, runs of words and where they stand."""


@dataclass(frozen=True)
class Overlap:
    """What a set of examples has in common with what was trained on."""

    name: str
    texts: int
    """Examples, of one text or several."""
    looked_for: int
    """Those with a text long enough to be known again."""
    found: int
    """Those of them that have a run of words in common with a text that was trained on."""
    example: str = ""
    """Such a run."""


def overlaps(
    sets: Mapping[str, Sequence[Sequence[str]]],
    training: Iterable[str],
    *,
    words: int = WORDS,
    shortest: int = SHORTEST,
) -> list[Overlap]:
    """Of how many examples of each set a text has a run of so many words in common with any training text. An example is one
    text or several, such as a question and its answers. Shorter ones are looked for as a whole, if they have at least
    `shortest` words. Training texts are read one by one.
    """
    marks: dict[int, dict[Run, list[tuple[str, int]]]] = {}
    looked_for: Counter[str] = Counter()
    for name, examples in sets.items():
        for number, texts in enumerate(examples):
            found = {run for text in texts for run in marking_runs(words_of(text), size=words, shortest=shortest)}
            looked_for[name] += bool(found)
            for run in found:
                marks.setdefault(len(run), {}).setdefault(run, []).append((name, number))
    seen: dict[str, set[int]] = {name: set() for name in sets}
    shown: dict[str, str] = {}
    for run, owners in _common(marks, training):
        for name, number in owners:
            seen[name].add(number)
            shown.setdefault(name, " ".join(run))
    return [
        Overlap(name, len(examples), looked_for[name], len(seen[name]), shown.get(name, ""))
        for name, examples in sets.items()
    ]


def _common(
    marks: Mapping[int, Mapping[Run, list[tuple[str, int]]]], training: Iterable[str]
) -> Iterator[tuple[Run, list[tuple[str, int]]]]:
    for text in training:
        found = words_of(text)
        for size, known in marks.items():
            yield from ((run, known[run]) for run in runs(found, size) if run in known)


def marking_runs(found: Sequence[str], *, size: int, shortest: int) -> Iterator[Run]:
    """The runs by which a text is known again: of `size` words, or all of a shorter one; none of one that is too short."""
    length = min(size, len(found))
    return runs(found, length) if length >= min(shortest, size) else iter(())


def index(
    texts: Sequence[tuple[str, str]], *, size: int, shortest: int
) -> tuple[dict[int, dict[Run, str]], dict[Run, str]]:
    """Runs of words by their length, and whole texts; each with where it stands first."""
    grams: dict[int, dict[Run, str]] = {}
    whole: dict[Run, str] = {}
    for where, text in texts:
        found = words_of(text)
        marking = list(marking_runs(found, size=size, shortest=shortest))
        for run in marking:
            grams.setdefault(len(run), {}).setdefault(run, where)
        if not marking and len(found) > 1:  # a single word is a label or a name
            whole.setdefault(tuple(found), where)
    return grams, whole


def texts_within(value: Any) -> Iterator[str]:
    """Every text in a row, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_within(inner)


def runs(found: Sequence[str], size: int) -> Iterator[Run]:
    """Every run of so many words."""
    return (tuple(found[start : start + size]) for start in range(len(found) - size + 1))
