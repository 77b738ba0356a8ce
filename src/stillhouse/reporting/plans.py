"""What the report and the terminal say of a plan, beside what the run took."""

from collections.abc import Mapping
from typing import Any

from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table, words

INTRO = "What `stillhouse plan` expected before the run, and what the run took."


def plan_view(found: Mapping[str, Any] | None) -> Prose | None:
    """The whole section; None where nothing was planned."""
    lines = plan_lines(found or {})
    if not found or not lines:
        return None
    left_out = ", ".join(words(name) for name in found.get("left_out", ()))
    notes = [f"Not compared, as they were stopped and went on, or were taken over: {left_out}."] if left_out else []
    return Prose([f"{line}." for line in lines], [_table(found["stages"])], intro=INTRO, notes=notes)


def plan_lines(found: Mapping[str, Any]) -> list[str]:
    """Time and memory: planned, taken, and by how much the plan was wrong."""
    seconds, memory = found.get("seconds"), found.get("memory")
    lines = []
    if seconds:
        lines.append(_line("time", seconds, formatting.duration))
    if memory:
        lines.append(_line("memory", memory, lambda size: formatting.si(size, "B")))
    return lines


def _line(what: str, error: Mapping[str, float], written: Any) -> str:
    return f"{what}: planned {written(error['planned'])}, taken {written(error['taken'])} ({off(error)})"


def off(error: Mapping[str, float]) -> str:
    """By how much of what was taken the plan was too high: `+12 %`."""
    share = error["planned"] / error["taken"] - 1 if error["taken"] else 0.0
    return f"{100 * share:+.0f} %".replace("-", "−")


def _table(stages: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        Row(
            words(name),
            "",
            "",
            [Cell(formatting.duration(one["planned"])), Cell(formatting.duration(one["taken"])), Cell(off(one))],
        )
        for name, one in stages.items()
    ]
    columns = [("planned", ""), ("taken", ""), ("plan was off by", "of what was taken")]
    return Table(caption="Seconds of each stage.", corner="stage", columns=columns, rows=rows)
