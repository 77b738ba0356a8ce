"""What the report and the terminal say of a plan, beside what the run took."""

from collections.abc import Callable, Mapping
from typing import Any

from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table, words

INTRO = "What was expected before the run, and what the run took."
LEAST_DIFFERENCE = 0.1
"""Between two shares of a processor that is worth a line."""
LEAST_SECONDS = 1.0
"""Of a stage whose error says anything."""
UNCLEAR = "they were stopped and went on, were taken over, or were done by other processes than planned"
"""Why a stage is not compared."""
CAPTION = "Below what was planned, by how much of what was taken that was too high, or too low."


def plan_view(found: Mapping[str, Any] | None) -> Prose | None:
    """The whole section; None where nothing was planned, or nothing of it can be compared."""
    if not found or not (found.get("seconds") or found.get("memory")):
        return None
    left_out = ", ".join(words(name) for name in found.get("left_out", ()))
    shares = _said_of_shares(found["seconds"], found.get("shares")) if found.get("seconds") else ""
    busy = [f"The run was {shares}."] if shares else []
    notes = [f"Not compared, as {UNCLEAR}: {left_out}."] if left_out else []
    return Prose(tables=[_table(found)], intro=INTRO, notes=[*busy, *notes])


def plan_lines(found: Mapping[str, Any]) -> list[str]:
    """Time and memory: planned, taken, and by how much the plan was wrong."""
    seconds, memory = found.get("seconds"), found.get("memory")
    lines = []
    if seconds:
        lines.append(_line("time", seconds, formatting.duration))
    if seconds and (said := _said_of_shares(seconds, found.get("shares"))):
        lines.append(said)
    if memory:
        lines.append(_line("memory", memory, lambda size: formatting.si(size, "B")))
    return lines


def _said_of_shares(seconds: Mapping[str, float], shares: Mapping[str, float] | None) -> str:
    """How much of the time's error is that of a machine that was more or less busy; nothing where it was not."""
    if not shares or abs(shares["planned"] / shares["taken"] - 1) < LEAST_DIFFERENCE:
        return ""
    planned, taken = (formatting.percent(shares[name], 0) for name in ("planned", "taken"))
    alike = {name: seconds[name] * shares[name] for name in ("planned", "taken")}
    return f"given {planned} of a processor while planned and {taken} while run: at equal shares {off(alike)}"


def _line(what: str, error: Mapping[str, float], written: Callable[[float], str]) -> str:
    return f"{what}: planned {written(error['planned'])}, taken {written(error['taken'])} ({off(error)})"


def off(error: Mapping[str, float]) -> str:
    """By how much of what was taken the plan was too high: `+12 %`."""
    share = round(100 * (error["planned"] / error["taken"] - 1)) if error["taken"] else 0
    return f"{share:+} %".replace("-", "−") if share else "0 %"


def _table(found: Mapping[str, Any]) -> Table:
    """The whole first, then stage by stage."""
    seconds, memory = found.get("seconds"), found.get("memory")
    rows = [_row("all stages", seconds, formatting.duration)] if seconds else []
    if memory:
        rows.append(_row("memory, at most", memory, lambda size: formatting.si(size, "B")))
    stages = {name: one for name, one in found["stages"].items() if max(one["planned"], one["taken"]) >= LEAST_SECONDS}
    rows += [_row(words(name), one, formatting.duration) for name, one in stages.items()]
    columns = [("planned", "off by"), ("taken", "")]
    return Table(caption=CAPTION, corner="", columns=columns, rows=rows)


def _row(name: str, error: Mapping[str, float], written: Callable[[float], str]) -> Row:
    return Row(name, "", "", [Cell(written(error["planned"]), off(error)), Cell(written(error["taken"]))])
