"""Several runs in one report: what each keeps, and which of them no other beats on quality and cost."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from stillhouse.core.errors import DataError
from stillhouse.core.results import Cost, EvaluationResult, Interval, ModelResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.html import rendered, write_whole
from stillhouse.reporting.pareto import Candidate, ParetoPanel, pareto_panel, undominated
from stillhouse.reporting.seeds import combined
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import SHORT_TITLES, headline_metric, kept, models_in_order, verdicts

MOST_RUNS = 60
"""More rows and points nobody can tell apart."""


@dataclass(frozen=True)
class RunEntry:
    """One run: its name, what it found, and, where runs differ in their seed alone, what they have in common."""

    name: str
    result: EvaluationResult
    group: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    mark: str
    name: str
    entries: Sequence[RunEntry]

    def metric(self, role: Role, name: str) -> Interval | None:
        """The mean over seeds; None where a run has none."""
        found = [model.metrics.get(name) for model in self._models(role)]
        known = [one for one in found if one is not None]
        return combined(known) if known and len(known) == len(self.entries) else None

    def cost(self, read: Callable[[Cost], float | None]) -> float | None:
        """The mean cost of the student."""
        found = [read(model.cost) for model in self._models("student")]
        known = [one for one in found if one is not None and math.isfinite(one)]
        return fmean(known) if known else None

    def gain(self, other: Role, name: str) -> Interval | None:
        """What the student gains over another model, the mean over seeds; None where it was not measured."""
        found = [row.gain for one in self.entries for row in verdicts(one.result, other) if row.metric == name]
        return combined(found) if found and len(found) == len(self.entries) else None

    def _models(self, role: Role) -> list[ModelResult]:
        found = (entry.result.model(role) for entry in self.entries)
        return [model for model in found if model is not None]


@dataclass(frozen=True)
class RunsSection:
    """One section of the page."""

    name: str
    title: str
    prose: Prose
    panels: Sequence[ParetoPanel] = ()
    curves: Sequence[object] = ()
    command: str = ""
    """What a user types to make it again, as it stands."""


@dataclass(frozen=True)
class RunsPage:
    """The whole page."""

    title: str
    lead: str
    sections: Sequence[RunsSection]


def write_runs(
    path: str | os.PathLike[str],
    *,
    title: str,
    runs: Sequence[RunEntry],
    lead: str = "",
    sections: Sequence[RunsSection] = (),
) -> None:
    """Write one report of several runs to `path`, whole or not at all; more `sections` may stand before the usual ones.

    Raises:
        DataError: if they have no quality in common.
    """
    write_whole(Path(path), render_runs(title=title, runs=runs, lead=lead, sections=sections))


def render_runs(*, title: str, runs: Sequence[RunEntry], lead: str = "", sections: Sequence[RunsSection] = ()) -> str:
    """The report as one string of HTML."""
    groups, metric = grouped(runs[:MOST_RUNS]), common_metric(runs)
    page = RunsPage(
        title=formatting.one_line(title),
        lead=lead or runs_lead(groups, metric),
        sections=[
            *sections,
            RunsSection("quality", "Quality against cost", _notes(runs), _panels(groups, metric)),
            RunsSection("runs", "The runs", Prose(tables=[runs_table(groups, metric)])),
            RunsSection("each", "Each run in its own words", Prose(lines=_in_words(groups))),
        ],
    )
    return rendered("runs.html.jinja", page=page)


def common_metric(runs: Sequence[RunEntry]) -> str:
    """The quality that all runs speak of.

    Raises:
        DataError: if there is none, or no run at all.
    """
    if not runs:
        raise DataError("there is no run to report on. Name at least one run folder.")
    first = headline_metric(runs[0].result)
    names = [first, *(name for model in runs[0].result.models if model.role == "student" for name in model.metrics)]

    def everywhere(name: str) -> bool:
        students = [run.result.model("student") for run in runs]
        return all(student is not None and name in student.metrics for student in students)

    found = next((name for name in names if name is not None and everywhere(name)), None)
    if found is None:
        tasks = ", ".join(dict.fromkeys(run.result.task for run in runs))
        raise DataError(f"these runs have no measure of quality in common (they are of {tasks}). Report on them apart.")
    return found


def grouped(runs: Sequence[RunEntry]) -> list[Group]:
    """Runs with the same group together, each group with the letter that stands beside its point."""
    found: dict[str, list[RunEntry]] = {}
    for number, run in enumerate(runs):
        found.setdefault(run.group or f"\0{number}", []).append(run)
    return [Group(_mark(place), _name(entries), entries) for place, entries in enumerate(found.values())]


def _mark(place: int) -> str:
    letters = chr(ord("A") + place % 26)
    return letters if place < 26 else f"{letters}{place // 26}"


def _name(entries: Sequence[RunEntry]) -> str:
    name = formatting.one_line(entries[0].name)
    return name if len(entries) == 1 else f"{name} and {len(entries) - 1} more seed{'s' if len(entries) > 2 else ''}"


def runs_lead(groups: Sequence[Group], metric: str) -> str:
    """The one sentence: who is best, and whether that is sure."""
    described = formatting.describe(metric)
    known = [(one, found) for one in groups if (found := one.metric("student", metric)) is not None]
    if len(known) < 2:
        return kept(groups[0].entries[0].result)
    sign = 1 if described.better == "higher" else -1
    (best, top), (second, next_to) = sorted(known, key=lambda pair: -sign * pair[1].value)[:2]
    is_sure = top.low > next_to.high or top.high < next_to.low
    sure = (
        "their intervals do not overlap"
        if is_sure
        else "their intervals overlap, so which of the two is better is open"
    )
    return (
        f"Of {len(groups)} students {best.mark} ({best.name}) is best by {described.title}: "
        f"{formatting.interval_text(top, described.unit)}, before {second.mark} with "
        f"{formatting.interval_text(next_to, described.unit)}; {sure}."
    )


LATENCIES: Sequence[tuple[str, Callable[[Cost], float | None], str]] = (
    ("time a written token", lambda cost: _milliseconds(cost.decode_tokens_per_second), "ms"),
    (
        "time a document",
        lambda cost: None if cost.document_milliseconds is None else cost.document_milliseconds.value,
        "ms",
    ),
)
SIZES: Sequence[tuple[str, Callable[[Cost], float | None], str]] = (
    ("size on disk", lambda cost: float(cost.disk_bytes), "B"),
    ("parameters", lambda cost: float(cost.parameters), ""),
)


def _milliseconds(rate: Interval | None) -> float | None:
    return None if rate is None or rate.value <= 0 else 1000 / rate.value


def _panels(groups: Sequence[Group], metric: str) -> list[ParetoPanel]:
    """Quality against time and against size: the first of each kind that was measured."""
    panels = []
    for kinds in (LATENCIES, SIZES):
        made = (_panel(groups, metric, *kind) for kind in kinds)
        panels += [next((panel for panel in made if panel is not None), None)]
    return [panel for panel in panels if panel is not None]


def _panel(
    groups: Sequence[Group], metric: str, title: str, read: Callable[[Cost], float | None], unit: str
) -> ParetoPanel | None:
    candidates = [
        Candidate(one.mark, one.name, "student", quality, cost)
        for one in groups
        if (quality := one.metric("student", metric)) is not None and (cost := one.cost(read)) is not None
    ]
    return pareto_panel(candidates, metric=metric, x_title=title, x_unit=unit)


def _notes(runs: Sequence[RunEntry]) -> Prose:
    held_out = {
        (run.result.held_out.documents, run.result.held_out.bytes or run.result.held_out.tokens) for run in runs
    }
    machines = {tuple(sorted(run.result.machine.items())) for run in runs}
    notes = []
    if len(held_out) > 1:
        notes.append("The runs were not all measured on the same text: their qualities are not to be compared.")
    if len(machines) > 1:
        notes.append(
            "They were not all measured on the same machine, at the same number of threads: nor are their speeds."
        )
    if len(runs) > MOST_RUNS:
        notes.append(f"Shown are the first {MOST_RUNS} of {len(runs)} runs.")
    intro = (
        "Each letter is a student. The line joins those that no other beats on both; whiskers are 95 % intervals, each of one "
        "student alone: runs are not paired."
    )
    return Prose(intro=intro, lines=notes)


def runs_table(groups: Sequence[Group], metric: str) -> Table:
    """A row a group: what it keeps, what its control would, and what it costs."""
    described = formatting.describe(metric)
    controls = [role for role in _controls(groups) if any(one.metric(role, metric) for one in groups)]
    costs = [kind for kind in (*LATENCIES, *SIZES) if any(one.cost(kind[1]) is not None for one in groups)]
    best = _best(groups, metric)
    return Table(
        caption=f"{described.title} with 95 % intervals; over several seeds, for another seed on other documents.",
        corner="student",
        columns=[
            (described.title, f"{described.better} is better"),
            *((SHORT_TITLES[role], described.title) for role in controls),
            *((title, unit if unit == "ms" else "") for title, _, unit in costs),
        ],
        rows=[
            Row(
                f"{one.mark}  {one.name}",
                _settings(one),
                "student" if one in best else "each",
                [
                    _quality_cell(one.metric("student", metric), described.unit, is_best=one in best),
                    *(_quality_cell(one.metric(role, metric), described.unit) for role in controls),
                    *(_cost_cell(one.cost(read), unit) for _, read, unit in costs),
                ],
            )
            for one in groups
        ],
    )


def _settings(one: Group) -> str:
    return ", ".join(f"{name} {value}" for name, value in one.entries[0].settings.items())


def _controls(groups: Sequence[Group]) -> list[Role]:
    found = [model.role for one in groups for entry in one.entries for model in models_in_order(entry.result)]
    return [role for role in dict.fromkeys(found) if role not in ("student", "teacher")]


def _best(groups: Sequence[Group], metric: str) -> list[Group]:
    """Whoever no other beats in quality, at no cost."""
    candidates = {
        one.mark: Candidate(one.mark, one.name, "", quality, 1.0)
        for one in groups
        if (quality := one.metric("student", metric)) is not None
    }
    found = undominated(list(candidates.values()), formatting.describe(metric).better)
    return [one for one in groups if one.mark in {other.mark for other in found}]


def _quality_cell(found: Interval | None, unit: str, *, is_best: bool = False) -> Cell:
    if found is None:
        return Cell("-")
    return Cell(formatting.value_text(found, unit), formatting.bounds_text(found, unit), is_best=is_best)


def _cost_cell(cost: float | None, unit: str) -> Cell:
    if cost is None:
        return Cell("-")
    return Cell(formatting.significant(cost) if unit == "ms" else formatting.si(cost, unit))


def _in_words(groups: Sequence[Group]) -> list[str]:
    return [f"{one.mark}, {formatting.one_line(one.entries[0].name)}: {kept(one.entries[0].result)}" for one in groups]
