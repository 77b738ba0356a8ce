"""The examples in which a student departs most from its teacher, as a table that can be searched, token by token."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stillhouse.core.departures import Choice, Departure, Departures, TokenDeparture
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import truncated

MOST_BYTES = 1_100_000
"""Of escaped text and markup: beside the samples, the file stays under 3 MB."""
LEVELS: Sequence[float] = (0.1, 0.5, 1.5, 3.0, 6.0)
"""Nats from which on a token is tinted one step more: below 0.1 the two say the same, and from 6 on the student finds nearly
impossible what the teacher says."""
WORST = 5
"""Tokens that are also told in a table, for those who cannot hover."""
TOKEN_MARKUP_BYTES = 60


@dataclass(frozen=True)
class TokenView:
    """One token: its tint (None where nobody predicts it), and what both models would have said."""

    text: str
    level: int | None
    hint: str


@dataclass(frozen=True)
class WorstToken:
    """One of the tokens on which the two are farthest apart."""

    text: str
    nats: str
    teacher: str
    student: str


@dataclass(frozen=True)
class DepartureView:
    """One example."""

    number: int
    nats: str
    agreement: str
    agreement_share: float
    tokens: Sequence[TokenView]
    worst: Sequence[WorstToken]
    text: str
    answers: Sequence[tuple[str, str]]

    @property
    def spelled(self) -> str:
        """What a search looks into."""
        return "".join(token.text for token in self.tokens) or self.text


@dataclass(frozen=True)
class DeparturesView:
    """The section."""

    examples: Sequence[DepartureView]
    note: str
    has_heat: bool
    scale: Sequence[tuple[int, str]]


def departures_view(found: Departures | None) -> DeparturesView | None:
    """The whole section, as much of it as fits; None where nothing was compared."""
    if found is None or not found.examples:
        return None
    shown = _fitting(map(_example, found.examples))
    return DeparturesView(shown, _note(found, len(shown)), any(one.tokens for one in shown), [*enumerate(_scale())])


def _scale() -> list[str]:
    bounds = [formatting.short(level) for level in LEVELS]
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return [f"under {bounds[0]}", *between, f"{bounds[-1]} and more"]


def _note(found: Departures, num_shown: int) -> str:
    documents, shown = formatting.count(found.documents), formatting.count(num_shown)
    left_out = found.documents - num_shown
    rest = f"; {formatting.count(left_out)} in which it is nearer are left out" if left_out else ""
    return f"Shown: {shown} of {documents} held-out documents, the farthest first{rest}."


def _fitting(views: Iterable[DepartureView]) -> list[DepartureView]:
    shown, spent_bytes = list[DepartureView](), 0
    for view in views:
        spent_bytes += _escaped_bytes(view)
        if spent_bytes > MOST_BYTES:
            break
        shown.append(view)
    return shown


def _escaped_bytes(view: DepartureView) -> int:
    texts = [part for token in view.tokens for part in (token.text, token.hint)]
    texts += [part for worst in view.worst for part in (worst.text, worst.teacher, worst.student)]
    texts += [view.text, *(part for pair in view.answers for part in pair)]
    markup = TOKEN_MARKUP_BYTES * (len(view.tokens) + 8 * len(view.worst) + 10)
    return markup + sum(len(html.escape(text).encode()) for text in texts)


def _example(one: Departure) -> DepartureView:
    told = [token for token in one.tokens if token.nats is not None]
    worst = sorted(told, key=lambda token: -(token.nats or 0.0))[:WORST]
    return DepartureView(
        number=one.document + 1,
        nats=formatting.significant(one.nats),
        agreement=formatting.percent(one.agreement),
        agreement_share=one.agreement,
        tokens=[_token(token) for token in one.tokens],
        worst=[_worst(token) for token in worst],
        text=truncated(formatting.clean(one.text), 600)[0],
        answers=[(name, formatting.one_line(answer)) for name, answer in (one.answers or {}).items()],
    )


def _token(token: TokenDeparture) -> TokenView:
    text = formatting.clean(token.text)
    if token.nats is None:
        return TokenView(text, None, "")
    nats, sides = formatting.significant(token.nats, 2), (_choices(token.teacher), _choices(token.student))
    return TokenView(text, level_of(token.nats), f"{nats} nats\nteacher: {sides[0]}\nstudent: {sides[1]}")


def level_of(nats: float) -> int:
    """How strongly a token is tinted."""
    return sum(nats >= level for level in LEVELS)


def _worst(token: TokenDeparture) -> WorstToken:
    nats = formatting.significant(token.nats or 0.0, 2)
    return WorstToken(visible(token.text), nats, _choices(token.teacher), _choices(token.student))


def _choices(choices: Sequence[Choice]) -> str:
    return ", ".join(
        visible(choice.text) + ("" if choice.prob is None else f" {formatting.percent(choice.prob)}")
        for choice in choices
    )


def visible(text: str) -> str:
    """A token so that its white space can be seen: a space before a word as it is written, a line's end as an arrow."""
    shown = formatting.clean(text).replace("\n", "\u21b5").replace("\t", "\u21e5")
    return shown.strip(" ") or ("\u2423" if shown else "(nothing)")
