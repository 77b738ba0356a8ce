"""Progress and results in a terminal, or as plain lines where the stream is not one."""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast, runtime_checkable

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from stillhouse.core.following import Follower
from stillhouse.core.memory import memory_now
from stillhouse.core.progress import Progress
from stillhouse.core.results import METRICS, EvaluationResult, Interval, ModelResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.contexts import context_lines
from stillhouse.reporting.figures import headline_figures
from stillhouse.reporting.live import live_view
from stillhouse.reporting.preferences import preference_lines
from stillhouse.reporting.replays import replay_lines
from stillhouse.reporting.taught import taught_lines, unmeasured
from stillhouse.reporting.verdicts import (
    SHORT_TITLES,
    Outcome,
    best_roles,
    counted_documents,
    findings,
    headline,
    kept,
    metric_names,
    models_in_order,
    other_tokens,
)
from stillhouse.reporting.written import written_lines

__all__ = ["LiveProgress", "PlainProgress", "headline", "results_table", "terminal_progress", "written_summary"]

ACCENT = "dark_orange3"
OUTCOME_STYLES: Mapping[Outcome, str] = {
    "gain": "green",
    "none": "yellow",
    "worse": "red",
    "unknown": "yellow",
    "mixed": "yellow",
}
HEADING_WIDTH = 14  # as wide as the widest usual interval, `[0.278, 0.296]`
UNLIMITED = 10_000
FRAMES_PER_SECOND = 4.0
PLAIN_LINE_SECONDS = 5.0  # a log of an hour's work stays under a thousand lines


@runtime_checkable
class TextStream(Protocol):
    """Anything that text can be written to: standard error, an open file, a buffer."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def terminal_progress(stream: TextStream | None = None) -> Progress:
    """A live view where the stream (standard error by default) is a terminal, plain lines elsewhere."""
    stream = sys.stderr if stream is None else stream
    console = Console(file=cast(IO[str], stream), highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(console)
    return PlainProgress(stream)


@dataclass
class Work:
    """One piece of counted work under way."""

    title: str
    total: int
    unit: str
    started_seconds: float
    done: int = 0
    note: str = ""

    def rate(self, now_seconds: float) -> float:
        """Units a second since the start."""
        return self.done / max(1e-9, now_seconds - self.started_seconds)

    def rate_text(self, now_seconds: float) -> str:
        """The rate as written: `33.1 documents/s`."""
        return f"{formatting.significant(self.rate(now_seconds))} {self.unit or 'steps'}/s"

    def summary(self, now_seconds: float) -> str:
        """What was done, how long it took, how fast, and the last note."""
        done = formatting.count(self.done)
        amount = done if self.done >= self.total else f"stopped at {done} of {formatting.count(self.total)}"
        parts = [f"{amount} {self.unit}".rstrip(), formatting.duration(now_seconds - self.started_seconds)]
        return ", ".join(
            [*parts, *([self.rate_text(now_seconds)] if self.done else []), *([self.note] if self.note else [])]
        )


class LiveProgress:
    """Numbered stages above, and below them a bar with rate, time left and a live note for each piece of work. While a
    student learns, also its terms, speed, memory, alarms and last sample, as they are written into the run folder."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._num_stages = 0
        self._under_way: list[tuple[TaskID, Work]] = []
        self._bars = Bars(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=None, style="grey30", complete_style=ACCENT, finished_style=ACCENT),
            TextColumn("{task.fields[amount]}", markup=False, justify="right"),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="cyan", markup=False),
            console=console,
            expand=True,
        )
        self._follower: Follower | None = None
        self._steps_before = 0
        self._live = Live(
            get_renderable=self._view, console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True
        )

    def follow(self, run: Path) -> None:
        self._follower = Follower(run)

    def _view(self) -> RenderableType:
        bars = self._bars.get_renderable()
        if self._follower is None:
            return bars
        known = self._follower.look()
        if known.num_steps == self._steps_before:
            return bars
        options = self._console.options
        learning = live_view(known, memory_now(), width=options.max_width, ascii_only=options.ascii_only)
        return Group(bars, learning)

    def stage(self, name: str, detail: str = "") -> None:
        self._num_stages += 1
        number, title = Text(f"\n{self._num_stages} ", style=f"bold {ACCENT}"), Text(_safe(name), style="bold")
        self._console.print(Text.assemble(number, title, Text(f"  {_safe(detail)}" if detail else "", style="dim")))

    def start(self, title: str, total: int, unit: str = "") -> None:
        work = Work(_safe(title), total, _safe(unit), self._clock())
        if not self._under_way:
            self._steps_before = self._follower.look().num_steps if self._follower else 0
            self._live.start()
        task = self._bars.add_task(work.title, total=total, amount=_amount(work), note="", unit=work.unit)
        self._under_way.append((task, work))

    def advance(self, amount: int = 1, note: str = "") -> None:
        if not self._under_way:
            return
        task, work = self._under_way[-1]
        work.done += amount
        work.note = _safe(note) or work.note
        self._bars.update(task, advance=amount, amount=_amount(work), note=work.note)

    def finish(self) -> None:
        if not self._under_way:
            return
        task, work = self._under_way.pop()
        self._bars.remove_task(task)
        if not self._under_way:
            self._live.stop()
        is_whole = work.done >= work.total
        mark = Text("  done " if is_whole else "  stopped ", style="green" if is_whole else "yellow")
        self._console.print(Text.assemble(mark, work.title, Text(f"  {work.summary(self._clock())}", style="dim")))

    def say(self, text: str) -> None:
        self._console.print(Text(f"  {formatting.clean(text)}"))


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit") or "steps"
        return Text(f"{formatting.significant(speed)} {unit}/s" if speed else "", style="dim")


class PlainProgress:
    """The same as lines of plain text, at most one every few seconds for each piece of work: for logs and pipes."""

    def __init__(
        self,
        stream: TextStream,
        *,
        line_seconds: float = PLAIN_LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._line_seconds = line_seconds
        self._clock = clock
        self._num_stages = 0
        self._under_way: list[Work] = []
        self._last_line_seconds = clock()

    def stage(self, name: str, detail: str = "") -> None:
        self._num_stages += 1
        self.say(f"[{self._num_stages}] {_safe(name)}" + (f": {_safe(detail)}" if detail else ""))

    def start(self, title: str, total: int, unit: str = "") -> None:
        self._under_way.append(Work(_safe(title), total, _safe(unit), self._clock()))
        self._last_line_seconds = self._clock()

    def advance(self, amount: int = 1, note: str = "") -> None:
        if not self._under_way:
            return
        work = self._under_way[-1]
        work.done += amount
        work.note = _safe(note) or work.note
        now = self._clock()
        if now - self._last_line_seconds >= self._line_seconds and work.done < work.total:
            self._last_line_seconds = now
            self.say(f"    {work.title}: {_line(work, now)}")

    def finish(self) -> None:
        if self._under_way:
            work = self._under_way.pop()
            self.say(f"    {work.title}: {work.summary(self._clock())}")

    def say(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = formatting.clean(text).encode(encoding, "replace").decode(encoding)
        self._stream.write(line + "\n")
        self._stream.flush()


def _safe(text: str) -> str:
    return formatting.one_line(text)


def _amount(work: Work) -> str:
    return f"{formatting.count(work.done)}/{formatting.count(work.total)} {work.unit}".rstrip()


def _line(work: Work, now_seconds: float) -> str:
    left = formatting.duration((work.total - work.done) / work.rate(now_seconds)) if work.done else formatting.EMPTY
    parts = [_amount(work), work.rate_text(now_seconds), f"{left} left", work.note]
    return ", ".join(part for part in parts if part)


def results_table(result: EvaluationResult) -> Group:
    """Every model with its metrics, size and speed; the best of student and controls marked; the gains in words."""
    figures = headline_figures(result)
    lines = [Text.assemble((f"{figure.name:<7}", f"bold {ACCENT}"), figure.text) for figure in figures]
    lines += [Text()] if figures else []
    lines.append(Text(kept(result), style="bold"))
    lines += [Text(finding.text, style=OUTCOME_STYLES[finding.outcome]) for finding in findings(result)]
    lines += [Text(line) for line in (context_lines(result.context) if result.context else [])]
    if result.taught is not None:
        lines += [Text(line) for line in (*taught_lines(result.taught), unmeasured(result.taught))]
    lines += [Text(line) for line in (replay_lines(result.replay) if result.replay else [])]
    lines += [Text(line) for line in (preference_lines(result.preferences) if result.preferences else [])]
    note = Text("* best of the student, its start and the controls; two where no difference was shown. ", style="dim")
    note.append(f"Brackets: 95 % intervals over {counted_documents(result)}.")
    if said := other_tokens(result):
        note.append(f" {said}")
    return Group(_Results(result), note, Text(), *lines)


def written_summary(card: Mapping[str, Any]) -> Group:
    """What a teacher wrote and what filters left of it, by `data/card.json`."""
    first, *others = written_lines(card)
    return Group(Text(first, style="bold"), *(Text(f"  {line}") for line in others))


@dataclass(frozen=True)
class _Results:
    """One table where the terminal is wide enough, otherwise quality and cost below each other."""

    result: EvaluationResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        def fits(columns: Sequence[_Column]) -> bool:
            table = _table(self.result, columns)
            return Measurement.get(console, options.update(max_width=UNLIMITED), table).minimum <= options.max_width

        quality, cost = _quality_columns(self.result), _cost_columns(self.result)
        groups = [[*quality, *cost]] if fits([*quality, *cost]) else [*_packed(quality, fits), *_packed(cost, fits)]
        yield from (_table(self.result, columns) for columns in groups)


def _packed(columns: Sequence["_Column"], fits: Callable[[Sequence["_Column"]], bool]) -> list[list["_Column"]]:
    groups: list[list[_Column]] = []
    for column in columns:
        if groups and fits([*groups[-1], column]):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


@dataclass(frozen=True)
class _Column:
    heading: Sequence[str]
    cell: Callable[[ModelResult], Text]


def _table(result: EvaluationResult, columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    height = max(len(column.heading) for column in columns)
    table.add_column("\n" * (height - 1) + "model", min_width=19, max_width=40)
    for column in columns:
        heading = "\n" * (height - len(column.heading)) + "\n".join(column.heading)
        table.add_column(heading, justify="right", no_wrap=True, min_width=_width(result, column))
    for model in models_in_order(result):
        name = Text.assemble((SHORT_TITLES[model.role], _role_style(model.role)), ("\n" + _safe(model.name), "dim"))
        table.add_row(name, *(column.cell(model) for column in columns))
    return table


def _width(result: EvaluationResult, column: _Column) -> int:
    """The longest line of the column: rich alone would measure its longest word."""
    cells = [line for model in result.models for line in column.cell(model).plain.split("\n")]
    return max(len(line) for line in [*cells, *column.heading])


def _role_style(role: Role) -> str:
    return f"bold {ACCENT}" if role == "student" else ""


def _quality_columns(result: EvaluationResult) -> list[_Column]:
    return [_metric_column(name, best_roles(result, name)) for name in metric_names(result)]


def _metric_column(name: str, best: frozenset[Role]) -> _Column:
    metric = formatting.describe(name)
    unit = "" if metric.title.startswith(metric.unit) else formatting.written_unit(metric.unit).strip("%")
    title = textwrap.wrap(", ".join(part for part in (metric.title, unit) if part), HEADING_WIDTH)
    direction = [f"{metric.better} better"] if name in METRICS else []

    def cell(model: ModelResult) -> Text:
        interval = model.metrics.get(name)
        if interval is None:
            return Text("-", style="dim")
        return _number(interval, metric.unit, is_best=model.role in best)

    return _Column([*title, *direction], cell)


def _number(interval: Interval, unit: str, *, is_best: bool = False) -> Text:
    value = formatting.value_text(interval, unit if unit == "share" else "")
    bounds = formatting.bounds_text(interval, unit)
    mark = ("* ", "bold green") if is_best else ("", "")
    return Text.assemble(mark, (value, "bold green" if is_best else ""), (f"\n{bounds}" if bounds else "", "dim"))


def _cost_columns(result: EvaluationResult) -> list[_Column]:
    """Sizes, and the speeds that this kind of model has."""
    speeds: Sequence[tuple[Sequence[str], Callable[[ModelResult], Interval | None]]] = (
        (["decode", "tokens/s"], lambda model: model.cost.decode_tokens_per_second),
        (["prefill", "tokens/s"], lambda model: model.cost.prefill_tokens_per_second),
        (["a document", "ms"], lambda model: model.cost.document_milliseconds),
    )
    return [
        _Column(["parameters"], lambda model: Text(formatting.si(model.cost.parameters))),
        _Column(["on disk"], lambda model: Text(formatting.si(model.cost.disk_bytes, "B"))),
        *(_speed_column(*speed) for speed in speeds if any(speed[1](model) is not None for model in result.models)),
    ]


def _speed_column(heading: Sequence[str], speed: Callable[[ModelResult], Interval | None]) -> _Column:
    def cell(model: ModelResult) -> Text:
        interval = speed(model)
        return Text("-", style="dim") if interval is None else _number(interval, "")

    return _Column(heading, cell)
