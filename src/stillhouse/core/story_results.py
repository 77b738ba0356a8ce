"""What an evaluation of a story model found: the one form that the evaluation writes and the report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stillhouse.core.results import Interval

GRADES = ("grammar", "creativity", "consistency", "instructions")
"""What a judge grades a completion on, from 1 to 10."""

MEASURES: Mapping[str, str] = {
    "grammatical": "grammatical",
    "unparsed": "sentences without a parse",
    "teacher_bits": "teacher's bits per byte",
    "repetition": "repetition",
    "required_words": "words asked for",
    "words": "words",
    "copied_words": "longest copy, words",
}
"""Of completions, without a judge: by name, as it is written."""


@dataclass(frozen=True)
class CopiedRun:
    """The longest run of words that any completion and a training text have in common."""

    words: int
    run: str
    long_share: float
    """Share of completions with a run of `evaluation.stories.memory.LONG` words or more."""


@dataclass(frozen=True)
class WriterResult:
    """One writer's numbers: the originals that were held out, or a model's completions."""

    name: str
    title: str
    copied: CopiedRun
    measures: Mapping[str, Interval]
    diversity: Mapping[str, float | None]
    parameters: int | None = None
    bits_per_byte: Interval | None = None
    grades: Mapping[str, Interval] = field(default_factory=dict)
    ungraded: int = 0
    """Completions of which the judge's reply could not be read."""


@dataclass(frozen=True)
class RoundResult:
    """One round: what was asked for, what was learnt, and what came of it."""

    number: int
    asked: int
    kept: int
    texts: int
    """Learnt from by now."""
    cells: Mapping[str, int]
    """What was asked for, by cell; empty where chance decided."""
    weak: Sequence[Mapping[str, Any]]
    """What is weak behind it: cell, why, weight."""
    bits_per_byte: Interval
    gain: Interval | None
    """Bits per byte that it won over the round before; None of the first."""
    stop: str
    """Why it was the last; empty where it was not."""


@dataclass(frozen=True)
class StorySample:
    """A held-out beginning, or an instruction, and what followed it."""

    beginning: str
    original: str
    student: str


@dataclass(frozen=True)
class StoryResult:
    """All of it."""

    held_out: int
    completions: int
    grammar: str
    """The measure of grammar, in a sentence; empty where neither a parser nor a teacher tells it."""
    writers: Sequence[WriterResult]
    rounds: Sequence[RoundResult]
    samples: Sequence[StorySample]
    judge: str = ""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """Of the student's completions with the originals, in both orders: wins, losses, ties, undecided, unreadable, score."""

    def of(self, name: str) -> WriterResult:
        """The writer of that name."""
        return next(one for one in self.writers if one.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StoryResult":
        """What `to_json` wrote."""
        return cls(
            **{
                **values,
                "writers": [_writer(one) for one in values["writers"]],
                "rounds": [_round(one) for one in values["rounds"]],
                "samples": [StorySample(**one) for one in values["samples"]],
            }
        )


def _writer(values: Mapping[str, Any]) -> WriterResult:
    read = {**values, "copied": CopiedRun(**values["copied"]), "bits_per_byte": _interval(values["bits_per_byte"])}
    for name in ("measures", "grades"):
        read[name] = {key: Interval(**one) for key, one in values[name].items()}
    return WriterResult(**read)


def _round(values: Mapping[str, Any]) -> RoundResult:
    return RoundResult(
        **{**values, "bits_per_byte": Interval(**values["bits_per_byte"]), "gain": _interval(values["gain"])}
    )


def _interval(values: Mapping[str, float] | None) -> Interval | None:
    return None if values is None else Interval(**values)
