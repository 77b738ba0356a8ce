"""`summary.md`: the few numbers that count, for a pull request."""

import os
from pathlib import Path

from stillhouse.core.results import EvaluationResult
from stillhouse.reporting import formatting
from stillhouse.reporting.asked import asked_section
from stillhouse.reporting.card import figures_table, gains_section, results_section
from stillhouse.reporting.html import write_whole
from stillhouse.reporting.markdown import escaped
from stillhouse.reporting.verdicts import headline


def write_summary(path: str | os.PathLike[str], *, title: str, result: EvaluationResult) -> None:
    """Write the summary to `path`, whole or not at all."""
    write_whole(Path(path), summary_of(title=title, result=result))


def summary_of(*, title: str, result: EvaluationResult) -> str:
    """What was kept, against whom it was held, and every number, in Markdown."""
    parts = [
        f"# {escaped(title)}",
        headline(result),
        figures_table(result),
        results_section(result),
        gains_section(result),
        asked_section(result),
        _departures(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _departures(result: EvaluationResult) -> str:
    found = result.departures
    if found is None or not found.examples:
        return ""
    farthest = found.examples[0]
    by_token = bool(farthest.tokens)
    return (
        f"Of {found.documents:,} documents the student is farthest from its teacher in number {farthest.document + 1}: "
        f"{formatting.significant(farthest.nats)} nats{' a token' if by_token else ''}. The report shows it"
        f"{' token by token' if by_token else ', with what both answer'}."
    )
