"""What a terminal shows of a student while it learns: each term with its course, speed, memory, alarms, and a sample."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from stillhouse.core.following import Followed
from stillhouse.core.memory import Memory
from stillhouse.core.results import Sample
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import FAR_OUT, shown_terms, term_title, trend

BARS = "▁▂▃▄▅▆▇█"
TERMS_SHOWN = 8
ALARMS_SHOWN = 3
SAMPLE_LINES = 5
SPARK_WIDTH = 32
NARROW = 72
"""Columns below which the sparkline goes, and a sample's sides stand below each other."""

Steps = Sequence[Mapping[str, float]]


def live_view(known: Followed, memory: Memory, *, width: int, ascii_only: bool = False) -> RenderableType:
    """Everything about the arm that learns, for a terminal of this width."""
    steps = known.curves.get(known.arm, [])
    parts: list[RenderableType] = [
        Text(),
        _terms(steps, width=width, ascii_only=ascii_only),
        Text(),
        _speeds(known, memory),
    ]
    parts += [
        Text(f"  alarm in step {alarm['step']}: {formatting.one_line(str(alarm['says']))}", style="yellow")
        for alarm in known.alarms[-ALARMS_SHOWN:]
    ]
    if known.samples and known.sampled_step is not None:
        parts += [Text(), _sample(known.samples[0], known.sampled_step, width=width)]
    return Group(*parts)


def _terms(steps: Steps, *, width: int, ascii_only: bool) -> Table:
    """A row for each: its mean of late, how it went, and where it began."""
    table = Table.grid(padding=(0, 2, 0, 0))
    has_room = width >= NARROW and not ascii_only
    for justify in ("left", "right", *(["left"] if has_room else []), "left"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in shown_terms({"": steps})[:TERMS_SHOWN]:
        values = [float(step[name]) for step in steps if _is_number(step.get(name))]
        if not values:
            continue
        smooth = [y for _, y in trend([(float(place), value) for place, value in enumerate(values)])]
        first = Text(f"from {_written(smooth[0])}" if len(values) > 1 else "", style="dim")
        spark = [Text(sparkline(values), style="dark_orange3")] if has_room else []
        table.add_row(Text(f"  {term_title(name)}"), Text(_written(smooth[-1]), style="bold"), *spark, first)
    return table


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _written(value: float) -> str:
    return formatting.significant(value) if abs(value) >= 1e-3 else formatting.short(value)


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """How values went, in at most `width` characters. A few first values far above all others are cut off: they would
    flatten the rest."""
    size = math.ceil(len(values) / width)
    means = [sum(part) / len(part) for part in (values[at : at + size] for at in range(0, len(values), max(1, size)))]
    if not means:
        return ""
    low, high = min(means), max(means)
    usual = sorted(means)[int(0.9 * (len(means) - 1))]
    if high - low > FAR_OUT * (usual - low) > 0:
        high = usual
    span = high - low
    return "".join(BARS[0 if span <= 0 else round((len(BARS) - 1) * min(1.0, (mean - low) / span))] for mean in means)


def _speeds(known: Followed, memory: Memory) -> Text:
    steps = known.curves.get(known.arm, [])
    speed = known.tokens_per_second
    parts = [
        *([f"{formatting.significant(speed)} tokens/s"] if speed else []),
        *([f"{formatting.count(steps[-1]['tokens'])} tokens learnt"] if steps and "tokens" in steps[-1] else []),
        *memory_parts(memory, peak_bytes=known.now.peak_bytes),
    ]
    return Text("  " + " · ".join(parts), style="dim")


def memory_parts(memory: Memory, *, peak_bytes: int) -> list[str]:
    """What a process holds, in words."""
    if not memory.resident:
        return []
    most = f", at most {formatting.si(peak_bytes, 'B')}" if peak_bytes > 1.05 * memory.resident else ""
    found = [f"{formatting.si(memory.resident, 'B')} of memory{most}"]
    return found + ([f"{formatting.si(memory.accelerator, 'B')} of the GPU's"] if memory.accelerator else [])


def _sample(sample: Sample, step: int, *, width: int) -> Group:
    """What both answer to the same prompt: side by side where there is room."""
    asked = Text(f"  {formatting.one_line(sample.prompt)}", style="italic", no_wrap=True, overflow="ellipsis")
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    table.add_column(width=1)
    is_wide = width >= NARROW
    sides = [(role, formatting.one_line(text)) for role, text in sample.continuations.items()]
    titles = [
        Text(f"{role}{f', step {step}' if role == 'student' else ''}", style="bold dark_orange3" * (role == "student"))
        for role, _ in sides
    ]
    said = [_Lines(Text(text), SAMPLE_LINES) for _, text in sides]
    for _ in sides if is_wide else [0]:
        table.add_column(ratio=1)
    if is_wide:
        table.add_row("", *titles)
        table.add_row("", *said)
    else:
        for title, text in zip(titles, said, strict=True):
            table.add_row("", title)
            table.add_row("", text)
    return Group(asked, table)


class _Lines:
    """A text's first lines."""

    def __init__(self, text: Text, most: int) -> None:
        self.text, self.most = text, most

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        lines = self.text.wrap(console, options.max_width)
        shown = Text("\n").join(lines[: self.most])
        return [Text.assemble(shown, " ..." if len(lines) > self.most else "")]
