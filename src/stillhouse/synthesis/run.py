"""One whole synthesis in a folder: the ledger of what was asked, the data that came of it, and its card."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import SILENT, Progress
from stillhouse.synthesis.flow import CARD, write_records
from stillhouse.synthesis.ledger import Ledger
from stillhouse.synthesis.records import Ask, Record
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
    card: Mapping[str, Any]


def write_synthetic(
    make: Make,
    writer: Writer,
    *,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    fewest: int = FEWEST,
    finish: Callable[[Sequence[Record]], Mapping[str, Any]] = lambda records: {},
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
    counts = write_records(records, folder)
    card = {**(about or {}), **counts, **account_of(ledger), **coverage_of(records), **finish(records)}
    write_atomic(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    if counts["documents"] < fewest:
        raise DataError(
            f"synthesis: {counts['documents']} of {len(records):,} records are kept, too few to learn from. The others are in "
            f"{folder / 'dropped.jsonl'}, each with its reason: {said_of_reasons(counts['dropped'])}. Raise synthesis.number, "
            "or mend what they say."
        )
    return Written(records, card)


def account_of(ledger: Ledger) -> dict[str, Any]:
    """What all of it took."""
    return {
        "replies": ledger.replies,
        "tokens": ledger.tokens,
        "prompt_tokens": ledger.prompt_tokens,
        "writing_seconds": round(ledger.seconds, 1),
        "cost": round(ledger.cost, 6),
    }


def coverage_of(records: Sequence[Record]) -> dict[str, Any]:
    """How many records each topic, persona, way or passage led to that are kept: none may be 0 for a reason worth knowing."""
    counted: dict[str, Counter[str]] = {}
    for record in records:
        for name in ("topic", "persona", "way"):
            if name in record.lineage:
                value = record.lineage[name]
                key = " > ".join(value) if isinstance(value, list) else str(value)
                counted.setdefault(name, Counter())[key] += 0 if record.dropped else 1
    return {"coverage": {name: dict(found) for name, found in counted.items()}} if counted else {}


def said_of_reasons(dropped: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"
