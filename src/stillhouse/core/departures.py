"""Where a student departs from its teacher: held-out examples, with what both say about each token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A token, class or number that a model might answer, and how probable it finds that; None of what has no probability."""

    text: str
    prob: float | None = None


@dataclass(frozen=True)
class TokenDeparture:
    """One token of an example, and how far the student is from its teacher there. A token that nobody predicts has no nats."""

    text: str
    nats: float | None = None
    teacher: Sequence[Choice] = ()
    student: Sequence[Choice] = ()


@dataclass(frozen=True)
class Departure:
    """One held-out example. Of language models its tokens say where; of other models there is one answer each."""

    document: int
    nats: float
    """KL from the teacher, a token or an answer; for numbers, the distance."""
    agreement: float
    """Share of the tokens or answers on which both would say the same."""
    tokens: Sequence[TokenDeparture] = ()
    text: str = ""
    answers: Mapping[str, str] | None = None
    """What is right, and what teacher and student answer."""


@dataclass(frozen=True)
class Departures:
    """The examples in which the student departs most, the farthest first."""

    documents: int
    """How many they were chosen from."""
    examples: Sequence[Departure]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Departures":
        """The inverse of `dataclasses.asdict`."""
        return cls(values["documents"], [_departure(one) for one in values["examples"]])


def _departure(values: Mapping[str, Any]) -> Departure:
    return Departure(**{**values, "tokens": [_token(token) for token in values["tokens"]]})


def _token(values: Mapping[str, Any]) -> TokenDeparture:
    sides = {side: [Choice(**choice) for choice in values[side]] for side in ("teacher", "student")}
    return TokenDeparture(values["text"], values["nats"], **sides)
