"""What the report, the card and the terminal say of data that a teacher wrote: who wrote it, what was dropped, what is left.

All of it is read from the plain values of `data/card.json`; whatever is missing there is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.core.results import Interval
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Facts, Row, Table, truncated

EXAMPLE_CHARACTERS = 400
FACT_CHARACTERS = 200
STEPS: Mapping[str, str] = {"asked": "asked", "answered": "answered", "kept": "kept"}
NOTES: Mapping[str, str] = {
    "distinct": "Distinct-n is the share of different ones among the runs of n words, over equally many words on both sides.",
    "spread": "Spread is the mean distance (1 - cosine) of two texts, by {by}.",
    "coverage": "In brackets: of how many equally frequent ones the same unevenness would be (the exponential of the entropy).",
}


@dataclass(frozen=True)
class DroppedView:
    """What one filter dropped, and one record of it for each reason."""

    name: str
    explanation: str
    count: str
    reasons: Sequence[tuple[str, str, str]]
    """Each with its count and, where it is of one record alone, its detail; then the example."""


@dataclass(frozen=True)
class WrittenView:
    """A section of the report."""

    sentence: str
    funnel: Sequence[Row]
    dropped: Sequence[DroppedView]
    diversity: Table | None
    notes: Sequence[str]
    facts: Sequence[Facts]


def written_view(card: Mapping[str, Any] | None) -> WrittenView | None:
    """The whole section; None where no teacher wrote the data, or nothing was told of it."""
    if not card:
        return None
    return WrittenView(
        sentence=written_sentence(card),
        funnel=_funnel(card),
        dropped=_dropped(card),
        diversity=_diversity_table(card.get("diversity") or {}),
        notes=_notes(card.get("diversity") or {}),
        facts=[group for group in _facts(card) if group.items],
    )


def written_sentence(card: Mapping[str, Any]) -> str:
    """Who wrote how much, and how much of it is left."""
    counts = card.get("counts") or {}
    asked, answered, kept = (counts.get(name) for name in STEPS)
    name = formatting.one_line(str((card.get("written_by") or {}).get("model") or "A teacher"))
    if asked is None or kept is None:
        return f"{name} wrote the data."
    share = f" ({formatting.percent(kept / asked)})" if asked else ""
    between = "" if answered is None else f" {formatting.count(answered)} were answered and"
    return f"Of {formatting.count(asked)} questions or texts by {name},{between} {formatting.count(kept)} were kept{share}."


def _funnel(card: Mapping[str, Any]) -> list[Row]:
    """What is left after each step: bars that grow shorter."""
    counts: Mapping[str, int] = card.get("counts") or {}
    asked, kept = counts.get("asked"), counts.get("kept")
    if not asked or kept is None:
        return []
    left, rows = asked, [_bar("asked", asked, asked, "teacher")]
    for name, lines in _by_filter(card).items():
        dropped = sum(line["count"] for line in lines)
        left -= dropped
        if dropped:
            rows.append(_bar(f"after {_words(name)}", left, asked, "student_before", dropped))
    return [*rows, _bar("kept", kept, asked, "student")]


def _bar(title: str, left: int, asked: int, role: str, dropped: int = 0) -> Row:
    value = formatting.count(left) + (f", {formatting.count(dropped)} dropped" if dropped else "")
    return Row(title, "", role, [Cell(value, bar=round(100 * max(0, left) / asked, 1))])


def _by_filter(card: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    lines = card.get("dropped") or []
    for line in lines if isinstance(lines, Sequence) else ():
        found.setdefault(str(line["filter"]), []).append(line)
    return found


def _dropped(card: Mapping[str, Any]) -> list[DroppedView]:
    return [_dropped_view(name, lines) for name, lines in _by_filter(card).items()]


def _dropped_view(name: str, lines: Sequence[Mapping[str, Any]]) -> DroppedView:
    reasons = [_reason(line) for line in lines if line.get("reason") and line.get("count")]
    explanation = formatting.one_line(str(lines[0].get("explanation") or ""))
    return DroppedView(_words(name), explanation, formatting.count(sum(line["count"] for line in lines)), reasons)


def _reason(line: Mapping[str, Any]) -> tuple[str, str, str]:
    example, left_out = truncated(formatting.clean(str(line.get("example") or "")).strip(), EXAMPLE_CHARACTERS)
    heading = f"{formatting.count(line['count'])} times: {_words(line['reason'])}"
    detail = formatting.one_line(str(line.get("detail") or ""))
    return heading, detail, f"{example} ... {left_out}" if left_out else example


def _diversity_table(found: Mapping[str, Mapping[str, Any]]) -> Table | None:
    sides = [(side, found[side]) for side in ("before", "after") if found.get(side)]
    if not sides:
        return None
    covered = list(dict.fromkeys(key for _, side in sides for key in side.get("coverage") or {}))
    columns = [("texts", ""), *((f"distinct-{n}", "higher is more varied") for n in (1, 2, 3))]
    columns += [("spread", "higher is more varied"), ("near-duplicates", "share")]
    columns += [(f"{_words(key)}s covered", "evenly as many") for key in covered]
    roles = {"before": "student_before", "after": "student"}
    words = formatting.count(int(sides[0][1].get("words") or 0))
    return Table(
        caption=f"How varied the questions or texts are before and after the filters, counted over {words} words of each.",
        corner="filters",
        columns=columns,
        rows=[Row(side, "", roles[side], _diversity_cells(values, covered)) for side, values in sides],
    )


def _diversity_cells(values: Mapping[str, Any], covered: Sequence[str]) -> list[Cell]:
    distinct = values.get("distinct") or {}
    cells = [Cell(formatting.count(int(values.get("texts") or 0)))]
    cells += [Cell(_share(distinct.get(str(n)))) for n in (1, 2, 3)]
    cells.append(_spread_cell(values.get("spread")))
    cells.append(Cell(_share(values.get("near_duplicates"))))
    for key in covered:
        one = (values.get("coverage") or {}).get(key)
        cells.append(
            Cell(formatting.count(int(one["different"])), f"[{formatting.significant(one['effective'])}]")
            if one
            else Cell("-")
        )
    return cells


def _spread_cell(spread: Mapping[str, float] | None) -> Cell:
    if not spread:
        return Cell("-")
    interval = Interval(spread["value"], spread["low"], spread["high"])
    return Cell(formatting.value_text(interval, ""), formatting.bounds_text(interval, ""))


def _share(value: float | None) -> str:
    return "-" if value is None else formatting.percent(value, 1)


def _notes(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    sides = [side for side in found.values() if side]
    if not sides:
        return []
    by = formatting.one_line(str(sides[0].get("spread_by") or "embeddings"))
    covered = any(side.get("coverage") for side in sides)
    return [NOTES["distinct"], NOTES["spread"].format(by=by), *([NOTES["coverage"]] if covered else [])]


def _facts(card: Mapping[str, Any]) -> list[Facts]:
    """Lineage, cost and licence."""
    return [
        Facts("Written by", _plain_facts(card.get("written_by"))),
        Facts("From", _plain_facts(card.get("source"))),
        Facts("What it took", _cost_facts(card)),
        Facts("Licence", _plain_facts(card.get("licence"))),
    ]


def _plain_facts(values: Any) -> list[tuple[str, str]]:
    """A mapping as it stands, and those within it with their names before; what is empty is left out."""
    if not isinstance(values, Mapping):
        return [] if values in (None, "", [], ()) else [("", _fact(values))]
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += [(f"{_words(name)} {inner}".strip(), said) for inner, said in _plain_facts(value)]
        elif value not in (None, "", [], ()):
            facts.append((_words(name), _fact(value)))
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return formatting.count(value) if isinstance(value, int) else formatting.short(value)
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    shown, left_out = truncated(formatting.one_line(text), FACT_CHARACTERS)
    return f"{shown} ... {left_out}" if left_out else shown


def _cost_facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        (title, formatting.count(card[name]))
        for name, title in (("replies", "replies"), ("tokens", "tokens written"), ("prompt_tokens", "tokens read"))
        if card.get(name)
    ]
    if card.get("seconds"):
        facts.append(("time", formatting.duration(card["seconds"])))
    cost = card.get("cost")
    if isinstance(cost, Mapping) and cost.get("money") is not None:
        money = formatting.number(cost["money"], 2) if cost["money"] >= 0.01 else formatting.significant(cost["money"])
        facts.append(("cost", f"{money} {formatting.one_line(str(cost.get('currency') or ''))}".rstrip()))
    return facts


def written_lines(card: Mapping[str, Any]) -> list[str]:
    """The same in a few lines for a terminal: the sentence, each filter that dropped something, and what became of the
    diversity.
    """
    lines = [written_sentence(card)]
    for view in _dropped(card):
        if view.reasons:
            example = f" Such as: {reason_example(view)}" if view.reasons[0][2] else ""
            lines.append(f"{view.name}: {view.count} dropped. {view.explanation}{example}".rstrip())
    table = _diversity_table(card.get("diversity") or {})
    for row in table.rows if table else ():
        named = zip([title for title, _ in table.columns] if table else [], row.cells, strict=True)
        lines.append(f"{row.title} the filters: " + ", ".join(f"{title} {_cell_text(cell)}" for title, cell in named))
    for group in _facts(card):
        if group.title == "What it took" and group.items:
            lines.append("; ".join(f"{name} {value}" for name, value in group.items))
    return lines


def _cell_text(cell: Cell) -> str:
    return f"{cell.value} {cell.below}".rstrip()


def reason_example(view: DroppedView) -> str:
    """The first example as one short line."""
    _, detail, example = view.reasons[0]
    shown = truncated(formatting.one_line(example), 80)
    return f'"{shown[0]}{" ..." if shown[1] else ""}"' + (f" ({detail})" if detail else "")


def _words(name: object) -> str:
    return formatting.one_line(str(name)).replace("_", " ")
