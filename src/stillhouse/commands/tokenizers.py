"""`stillhouse tokenizers`: can this teacher teach that student token by token, and what is the way if not."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.commands.objectives import WIDEST
from stillhouse.models.load import check_exists, display_name, waits_for_unpacking
from stillhouse.models.tokenizers import Finding, TokenizerVerdict, Verdict, compare_tokenizers, read_speaker
from stillhouse.reporting.formatting import one_line

HEADLINES: dict[Verdict, tuple[str, str]] = {
    "identical": ("identical", "green"),
    "padded": ("same ids, padded heads", "green"),
    "different": ("different", "yellow"),
    "refused": ("refused", "red"),
}
EXIT_CODES: dict[Verdict, int] = {"identical": 0, "padded": 0, "different": 1, "refused": 2}
"""As of `diff`: 0 for the same tokens, 1 for others, 2 for what cannot be done."""


def show(teacher: str, student: str) -> int:
    """Print the verdict and what it rests on; return the exit code.

    Raises:
        ModelError: if either has no tokenizer that can be read.
    """
    for source in (teacher, student):
        check_exists(source)
    for source in (teacher, student):
        if waits_for_unpacking(source):
            print(f"reading the vocabulary of {Path(source).name}, once", file=sys.stderr)
    found = compare_tokenizers(read_speaker(teacher), read_speaker(student))
    _print(_page(found, [display_name(source) for source in (teacher, student)]))
    return EXIT_CODES[found.verdict]


def _print(parts: Iterable[Text | Table]) -> None:
    """In lines that fit the terminal, without the spaces that fill a table's cells up."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDEST)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _page(found: TokenizerVerdict, names: Sequence[str]) -> Iterator[Text | Table]:
    headline, style = HEADLINES[found.verdict]
    yield Text.assemble(("Tokenizers: ", "bold"), (headline, f"bold {style}"))
    yield Text(found.reason)
    yield Text()
    yield _table(found.findings, names)
    yield Text()
    steps = Table.grid(padding=(0, 1))
    for step in found.road:
        steps.add_row(Text("-"), Text(step))
    yield steps


def _table(findings: Sequence[Finding], names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="none")
    table.add_column("")
    for role, name in zip(("teacher", "student"), names, strict=True):
        table.add_column(Text(f"{role}\n{one_line(name)}"), overflow="fold")
    table.add_column("")
    for finding in findings:
        mark = Text("same", style="green") if finding.agrees else Text("differs", style="yellow")
        table.add_row(Text(finding.aspect), Text(one_line(finding.teacher)), Text(one_line(finding.student)), mark)
    return table
