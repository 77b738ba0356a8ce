"""A sweep's report: curves over budgets, laws, the break-even, and every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.core.results import Interval, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.evidence import Setting, break_even_lines, loss_of, seeds_line
from stillhouse.reporting.html import write_whole
from stillhouse.reporting.markdown import escaped, fenced, table
from stillhouse.reporting.pareto import Candidate, ParetoPanel, pareto_panel
from stillhouse.reporting.runs import RunEntry, RunsSection, common_metric, grouped, runs_lead, runs_table, write_runs
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import CONTROLS, SHORT_TITLES

FORMULA = "L(D) = E + A / D^a, where D is the tokens that were learnt from"


@dataclass(frozen=True)
class FittedLaw:
    """A law for one arm of one setting, or why there is none."""

    setting: str
    role: Role
    why_not: str
    floor: Interval | None = None
    amount: Interval | None = None
    exponent: Interval | None = None
    ahead: Mapping[str, Interval] = field(default_factory=dict)
    is_open: bool = False


def write_sweep(
    folder: Path,
    *,
    settings: Sequence[Setting],
    runs: Sequence[RunEntry],
    laws: Sequence[FittedLaw],
    planned: int,
    command: str = "",
) -> None:
    """Write `sweep.html` and `sweep.md` into the folder, each whole or not at all; with the command that makes the same again,
    where it is given."""
    loss = loss_of(settings)
    words = evidence_words(settings, loss)
    so_far = f"So far {len(runs)} of {planned} runs. " if len(runs) < planned else ""
    groups, metric = grouped(runs), common_metric(runs)
    lead = so_far + _lead(words, settings, runs_lead(groups, metric))
    sections = [RunsSection("evidence", "What the evidence supports", Prose(lines=words))]
    if loss is not None:
        panel = _budget_panel(settings, loss)
        if panel is not None:
            intro = "Capital letters are students, small ones their controls: the same letter is the same run."
            sections.append(RunsSection("budgets", "Loss against budget", Prose(intro=intro), [panel]))
    if laws:
        sections.append(RunsSection("law", "Scaling laws", _laws_prose(laws, loss or "")))
    if command:
        sections.append(RunsSection("again", "The same again", Prose(), command=formatting.one_line(command)))
    write_runs(folder / "sweep.html", title=folder.name, runs=runs, lead=lead, sections=sections)
    page = _markdown(folder.name, lead, words, laws, runs_table(groups, metric))
    write_whole(folder / "sweep.md", f"{page}\n{fenced(command, 'sh')}\n" if command else page)


def _lead(words: Sequence[str], settings: Sequence[Setting], of_runs: str) -> str:
    """Where distilling is ahead, if that is one sentence; of several settings, which run is best."""
    if len(settings) > 1 or len(words) < 2:
        return of_runs
    first = words[1].partition(". ")[0].removesuffix(".")
    return f"{first[0].upper()}{first[1:]}."


def evidence_words(settings: Sequence[Setting], loss: str | None) -> list[str]:
    """How many runs there are, and where the break-even lies."""
    if loss is None:
        return [seeds_line(settings), "The runs have no loss in common, so no curve over budgets can be drawn."]
    return [seeds_line(settings), *(line for setting in settings for line in break_even_lines(setting, loss))]


def _budget_panel(settings: Sequence[Setting], loss: str) -> ParetoPanel | None:
    roles: list[Role] = ["student", *CONTROLS]
    candidates, taken = list[Candidate](), set[str]()
    for setting in settings:
        for one in setting.budgets:
            for place, role in enumerate(roles):
                found = one.group.metric(role, loss)
                if found is None:
                    continue
                mark = one.group.mark if role == "student" else one.group.mark.lower()
                mark = mark if mark not in taken else f"{mark}{place}"
                taken.add(mark)
                name = f"{setting.name} {SHORT_TITLES[role]}".strip()
                candidates.append(Candidate(mark, name, role, found, one.tokens, line=name))
    return pareto_panel(candidates, metric=loss, x_title="training tokens")


def _laws_prose(laws: Sequence[FittedLaw], loss: str) -> Prose:
    fitted = [law for law in laws if law.floor is not None]
    refused = [law for law in laws if law.floor is None]
    lines = [f"{_whose(law)}: no law is fitted, as {law.why_not}." for law in refused]
    notes = [
        f"{_whose(law)}: the points do not bound the exponent, so what lies ahead is a guess."
        for law in fitted
        if law.is_open
    ]
    intro = (
        f"{FORMULA}: {formatting.describe(loss).title}, by weighted least squares, with 95 % intervals of a parametric "
        "bootstrap. A law says what lies ahead only as far as nothing else changes."
    )
    tables = [_laws_table(fitted)] if fitted else []
    return Prose(lines=lines, tables=tables, intro=intro, notes=notes)


def _whose(law: FittedLaw) -> str:
    return f"{law.setting or 'the recipe'}, {SHORT_TITLES[law.role]}"


def _laws_table(laws: Sequence[FittedLaw]) -> Table:
    aheads = list(dict.fromkeys(budget for law in laws for budget in law.ahead))

    def row(law: FittedLaw) -> Row:
        found = [law.floor, law.amount, law.exponent, *(law.ahead.get(budget) for budget in aheads)]
        return Row(_whose(law), "", law.role, [_cell(one) for one in found])

    columns = [
        ("E", "never below"),
        ("A", ""),
        ("a", "exponent"),
        *((f"at {budget}", "tokens, expected") for budget in aheads),
    ]
    return Table(FORMULA + ".", "arm", columns, [row(law) for law in laws])


def _cell(found: Interval | None) -> Cell:
    return Cell("-") if found is None else Cell(formatting.value_text(found, ""), formatting.bounds_text(found, ""))


def _markdown(title: str, lead: str, words: Sequence[str], laws: Sequence[FittedLaw], runs: Table) -> str:
    parts = [f"# {escaped(title)}", escaped(lead), "\n".join(f"- {escaped(line)}" for line in words)]
    parts.append(
        table(
            [runs.corner, *(escaped(f"{name} {below}".strip()) for name, below in runs.columns)],
            [[escaped(row.title), *(f"{cell.value} {cell.below}".strip() for cell in row.cells)] for row in runs.rows],
        )
    )
    told = [
        f"- {escaped(_whose(law))}: "
        + (
            f"no law is fitted, as {escaped(law.why_not)}."
            if law.floor is None or law.amount is None or law.exponent is None
            else f"E {formatting.interval_text(law.floor, '')}, A {formatting.interval_text(law.amount, '')}, "
            f"a {formatting.interval_text(law.exponent, '')}."
        )
        for law in laws
    ]
    if told:
        parts.append(f"{escaped(FORMULA)}:\n\n" + "\n".join(told))
    return "\n\n".join(parts) + "\n"
