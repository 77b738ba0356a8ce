"""The shapes that sections are made of: plain values that a template only has to lay out."""

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.core.results import ModelResult
from stillhouse.reporting import formatting
from stillhouse.reporting.verdicts import SHORT_TITLES, Outcome


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value, its bounds or a remark below it, and how it is marked."""

    value: str
    below: str = ""
    is_best: bool = False
    outcome: Outcome | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table; `role` colours its heading."""

    title: str
    below: str
    role: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table with a caption and a heading for every column and row."""

    caption: str
    corner: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Prose:
    """A section that needs no template of its own: sentences, then tables, then remarks in small type."""

    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    intro: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Facts:
    """A titled list of facts."""

    title: str
    items: Sequence[tuple[str, str]]


def model_row(model: ModelResult, cells: Sequence[Cell]) -> Row:
    return Row(SHORT_TITLES[model.role], formatting.one_line(model.name), model.role, cells)


def truncated(text: str, most_characters: int) -> tuple[str, str]:
    """The beginning of a text, and a note on what was left out."""
    if len(text) <= most_characters:
        return text, ""
    return text[:most_characters], f"{formatting.count(len(text) - most_characters)} more characters"


def words(name: object) -> str:
    return formatting.one_line(str(name)).replace("_", " ")
