"""What people read: progress and results in the terminal, `report.html`, and the model card."""

from stillhouse.reporting.adapter_card import write_adapter_card
from stillhouse.reporting.card import write_card
from stillhouse.reporting.html import write_report
from stillhouse.reporting.rewards import reward_lines
from stillhouse.reporting.summary import write_summary
from stillhouse.reporting.terminal import (
    LiveProgress,
    PlainProgress,
    headline,
    results_table,
    terminal_progress,
    written_summary,
)

__all__ = [
    "LiveProgress",
    "PlainProgress",
    "headline",
    "results_table",
    "reward_lines",
    "terminal_progress",
    "write_adapter_card",
    "write_card",
    "write_report",
    "write_summary",
    "written_summary",
]
