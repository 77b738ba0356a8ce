"""One whole synthesis in a folder: the ledger of what was asked, the data that came of it, and its card."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import SILENT, Progress
from stillhouse.synthesis.filters.core import account_of
from stillhouse.synthesis.flow import CARD, DROPPED, write_records
from stillhouse.synthesis.records import Ask, Record
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import Writer

LEDGER = "ledger.jsonl"
"""Every reply, in the moment in which it came."""

Make = Callable[[Ask], Sequence[Record]]
"""A whole program: asks, and gives all records in the end, dropped ones with their reason."""

FEWEST = 2
"""Records: one to learn from, one to judge by."""


@dataclass(frozen=True)
class Written:
    """What a synthesis came to."""

    records: Sequence[Record]
    dropped: Mapping[str, int]
    """How many, by reason, the most frequent first."""
    card: Mapping[str, Any]

    @property
    def kept(self) -> int:
        """How many records are learnt."""
        return sum(not record.dropped for record in self.records)


def write_synthetic(
    make: Make,
    writer: Writer,
    *,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    fewest: int = FEWEST,
    finish: Callable[[Sequence[Record]], Mapping[str, Any]] = account_of,
    progress: Progress = SILENT,
) -> Written:
    """Write `synthetic.jsonl`, `dropped.jsonl` and `card.json` in `folder`: what came of a program that asks the writer.

    Started again after a kill it is told what it was told before, without the writer, and ends with the same data. `about`
    and what `finish` makes of the records go into the card.

    Raises:
        DataError: where fewer than `fewest` records are kept.
        StillhouseError: as writer and program do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / LEDGER, writer, progress=progress)
    records = list(make(ledger.ask))
    dropped = write_records(records, folder)
    made = Written(records, dropped, {**(about or {}), **finish(records), **spent(ledger)})
    write_atomic(folder / CARD, json.dumps(made.card, indent=1, ensure_ascii=False) + "\n")
    if made.kept < fewest:
        raise DataError(
            f"synthesis: {made.kept} of {len(records):,} records are kept, too few to learn from. The others are in "
            f"{folder / DROPPED}, each with its reason: {said_of_reasons(dropped)}. Raise synthesis.number, or mend what they "
            "say."
        )
    return made


def spent(ledger: Ledger) -> dict[str, Any]:
    """What all of it took, runs that were killed included."""
    cost = {"money": round(ledger.cost, 6), "currency": getattr(ledger.writer, "currency", "")}
    return {
        "replies": ledger.replies,
        "tokens": ledger.tokens,
        "prompt_tokens": ledger.prompt_tokens,
        "seconds": round(ledger.seconds, 1),
        **({"cost": cost} if ledger.cost else {}),
    }


def said_of_reasons(dropped: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"
