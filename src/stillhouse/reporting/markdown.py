"""Text and tables as Markdown that shows exactly what was meant."""

import re
from collections.abc import Sequence

from stillhouse.reporting import formatting


def escaped(text: str) -> str:
    """Text as one line of Markdown that shows exactly these characters."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", formatting.one_line(text))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks inside it."""
    text = formatting.clean(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table; its columns but the first hold numbers, on the right, or text, on the left."""
    alignment = ["---", *["---:" if numbers else "---"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, alignment, *rows])
