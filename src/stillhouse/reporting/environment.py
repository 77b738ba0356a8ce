"""What the report shows of the machine, and of where time went on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.shapes import Cell, Row, truncated, words

FACT_CHARACTERS = 300


@dataclass(frozen=True)
class EnvironmentView:
    """The section: each stage's time, and what the machine is."""

    stages: Sequence[Row]
    total: str
    machine: Sequence[tuple[str, str]]


def environment_view(account: Account) -> EnvironmentView | None:
    """The whole section; None where neither is known."""
    machine = [
        (words(name), truncated(formatting.one_line(str(value)), FACT_CHARACTERS)[0])
        for name, value in account.result.machine.items()
    ]
    if not machine and not account.stages:
        return None
    total = formatting.duration(sum(_seconds(stage) for stage in account.stages))
    return EnvironmentView(stage_rows(account.stages), total, machine)


def stage_rows(stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each stage with its share of the time."""
    total = sum(_seconds(stage) for stage in stages)
    return [
        Row(
            words(stage.get("name", "")),
            "",
            "",
            [Cell(formatting.duration(_seconds(stage)), bar=round(100 * _seconds(stage) / total, 1) if total else 0.0)],
        )
        for stage in stages
    ]


def _seconds(stage: Mapping[str, Any]) -> float:
    return float(stage.get("seconds") or 0)
