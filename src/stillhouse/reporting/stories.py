"""What is said of a story model: its report, its model card, and the lines in the terminal."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.results import Interval
from stillhouse.core.story_results import GRADES, MEASURES, RoundResult, StoryResult, WriterResult
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import curve_panels
from stillhouse.reporting.html import rendered, write_whole
from stillhouse.reporting.page import Page
from stillhouse.reporting.plans import plan_view
from stillhouse.reporting.samples import SamplesView, SampleView, Writer
from stillhouse.reporting.sections import RecipeView, Shown
from stillhouse.reporting.shapes import Cell, Facts, Prose, Row, Table, truncated
from stillhouse.reporting.verdicts import Finding, Outcome
from stillhouse.reporting.written import written_view

SHARES = ("grammatical", "unparsed", "repetition", "required_words")
ROLES = {"originals": "teacher", "student": "student", "student_before": "student_before"}
SHOWN_CHARACTERS = 1500


@dataclass(frozen=True)
class StoryAccount:
    """Everything that a report of a story model is made from."""

    title: str
    world: str
    teacher: str
    result: StoryResult
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    card: Mapping[str, Any]
    recipe_yaml: str
    tokens: int
    """Of the student's vocabulary."""
    stages: Sequence[Mapping[str, Any]]
    plan: Mapping[str, Any]
    """By how much it was wrong, where there was one."""


def write_story_report(path: Path, account: StoryAccount) -> None:
    """`report.html`, whole or not at all."""
    write_whole(path, rendered("report.html.jinja", page=story_page(account)))


def story_page(account: StoryAccount) -> Page:
    """The whole page."""
    return Page(
        title=formatting.one_line(account.title),
        teacher=formatting.one_line(account.teacher),
        student=f"{formatting.si(account.result.of('student').parameters or 0)} parameters",
        lead=lead_of(account.result),
        findings=findings_of(account.result),
        figures=(),
        tiles=(),
        sections=list(_sections(account)),
    )


def lead_of(result: StoryResult) -> str:
    """The one sentence to remember."""
    student = result.of("student")
    assert student.bits_per_byte is not None, "a student predicts"
    size = formatting.count(student.parameters or 0)
    lead = (
        f"A language model of {size} parameters, from nothing but its teacher: {_written(student.bits_per_byte)} bits per byte "
        f"on {formatting.count(result.held_out)} held-out texts."
    )
    if "grammatical" not in student.measures:
        return lead
    share = formatting.interval_text(student.measures["grammatical"], "share")
    return (
        f"{lead} Of {formatting.count(result.completions)} completions {share} are grammatical, by the measure below."
    )


def findings_of(result: StoryResult) -> list[Finding]:
    """What each round won over the one before."""
    return [
        Finding(_outcome(one.gain), f"Round {one.number} won {_written(one.gain)} bits per byte on held-out texts.")
        for one in result.rounds
        if one.gain is not None
    ]


def _outcome(gain: Interval) -> Outcome:
    if gain.low > 0:
        return "gain"
    return "worse" if gain.high < 0 else "none"


def _written(interval: Interval) -> str:
    def written(number: float) -> str:
        return formatting.number(number, 3)

    return f"{written(interval.value)} {_bounds(interval, written)}"


def _bounds(interval: Interval, written: Callable[[float], str]) -> str:
    """In brackets; of a single text nothing is known."""
    if math.isinf(interval.low) and math.isinf(interval.high):
        return formatting.bounds_text(interval, "")
    return f"[{written(interval.low)}, {written(interval.high)}]"


def _sections(account: StoryAccount) -> Iterator[Shown]:
    def shown(name: str, title: str, link: str, view: object, template: str = "prose") -> Shown:
        return Shown(name, title, link, f"sections/{template}.html.jinja", view)

    result = account.result
    yield shown("quality", "Completions of held-out beginnings", "Quality", quality_view(result))
    if result.samples:
        yield shown("samples", "Samples", "Samples", samples_of(result), "samples")
    yield shown("rounds", "Rounds", "Rounds", rounds_view(result))
    yield shown("memory", "Memorisation", "Memory", memory_view(result))
    if panels := curve_panels(account.curves):
        yield shown("training", "Training", "Training", panels, "training")
    yield shown("written", "What the teacher wrote", "Written", written_view(account.card), "written")
    yield shown("coverage", "How much of the world is covered", "Coverage", coverage_view(account.card["coverage"]))
    yield shown("data", "What it took", "Cost", list(_facts(account)), "data")
    yield shown("recipe", "Recipe", "Recipe", RecipeView("", formatting.clean(account.recipe_yaml)), "recipe")
    if (view := plan_view(account.plan)) is not None:
        yield shown("plan", "What was planned", "Plan", view)


def quality_view(result: StoryResult) -> Prose:
    """Every writer by every measure."""
    tables = [measures_table(result), diversity_table(result)]
    notes = (
        [result.grammar]
        if result.grammar
        else ["Without a parser, or a teacher in this process, nothing tells grammar."]
    )
    notes.append(QUALITY_NOTE)
    if result.judge:
        tables.append(grades_table(result))
        notes.append(comparison_of(result))
    return Prose(tables=tables, notes=notes)


QUALITY_NOTE = (
    "Words asked for: of those that an instruction names, the share that is there, in any form. Repetition: the share of "
    "letters in runs of four words that came before. The originals are what the teacher wrote behind the same beginnings: "
    "they set the bounds, and pass them by that. Distinct-n falls with the number of words and is counted over as many of "
    "each; self-BLEU is each text's BLEU against all others."
)


def measures_table(result: StoryResult) -> Table:
    """What needs no judge."""
    names = [name for name in MEASURES if any(name in one.measures for one in result.writers)]
    return Table(
        caption=f"{formatting.count(result.completions)} beginnings and instructions, 95 % intervals over them.",
        corner="writer",
        columns=[("bits per byte", "of held-out texts"), *((MEASURES[name], "") for name in names)],
        rows=[
            _row(one, [_bits(one), *(_cell(name, one.measures.get(name)) for name in names)]) for one in result.writers
        ],
    )


def _bits(one: WriterResult) -> Cell:
    return Cell("-") if one.bits_per_byte is None else _cell("bits_per_byte", one.bits_per_byte)


def _cell(name: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("-")
    if name in SHARES:
        return Cell(formatting.percent(interval.value), _bounds(interval, formatting.percent))
    places = 1 if name in ("words", "copied_words", *GRADES) else 3
    return Cell(
        formatting.number(interval.value, places), _bounds(interval, lambda number: formatting.number(number, places))
    )


def diversity_table(result: StoryResult) -> Table:
    """How much completions differ from each other."""
    names = {
        "distinct_1": "distinct-1",
        "distinct_2": "distinct-2",
        "distinct_3": "distinct-3",
        "self_bleu": "self-BLEU",
    }
    return Table(
        caption="How varied the completions are.",
        corner="writer",
        columns=[(title, "lower is better" if name == "self_bleu" else "") for name, title in names.items()],
        rows=[_row(one, [_number(one.diversity.get(name)) for name in names]) for one in result.writers],
    )


def _number(value: float | None) -> Cell:
    return Cell("-" if value is None else formatting.number(value, 3))


def grades_table(result: StoryResult) -> Table:
    """What a judge gave."""
    return Table(
        caption=f"Grades by {formatting.one_line(result.judge)}, from 1 to 10.",
        corner="writer",
        columns=[*((name, "") for name in GRADES), ("unreadable", "")],
        rows=[
            _row(one, [*(_cell(name, one.grades.get(name)) for name in GRADES), Cell(str(one.ungraded))])
            for one in result.writers
        ],
    )


def comparison_of(result: StoryResult) -> str:
    """The student beside the originals, in both orders."""
    found = result.comparison
    counts = ", ".join(f"{formatting.count(found[name])} {name}" for name in COUNTED)
    return f"Compared with the originals, each pair in both orders, the student has {counts}."


COUNTED = ("wins", "losses", "ties", "undecided", "unreadable")


def _row(one: WriterResult, cells: Sequence[Cell]) -> Row:
    below = "" if one.parameters is None else f"{formatting.count(one.parameters)} parameters"
    return Row(one.title, below, ROLES[one.name], cells)


def samples_of(result: StoryResult) -> SamplesView:
    """Beginnings, the originals and what the student made of them."""
    return SamplesView([_sample(one.beginning, one.original, one.student) for one in result.samples], "")


def _sample(beginning: str, original: str, student: str) -> SampleView:
    prompt, left_out = truncated(formatting.clean(beginning), SHOWN_CHARACTERS)
    texts = {"teacher": ("the original", original), "student": ("the student", student)}
    writers = []
    for role, (title, text) in texts.items():
        shown, rest = truncated(formatting.clean(text), SHOWN_CHARACTERS)
        writers.append(Writer(role, title, "", shown, rest))  # type: ignore[arg-type]
    return SampleView(prompt, left_out, writers)


def rounds_view(result: StoryResult) -> Prose:
    """What each round asked for, and what it won."""
    rows = [
        Row(
            f"round {one.number}",
            _asked_in(one),
            "student",
            [
                Cell(formatting.count(one.asked), f"{formatting.count(one.kept)} kept"),
                Cell(formatting.count(one.texts)),
                _cell("bits_per_byte", one.bits_per_byte),
                Cell("-") if one.gain is None else _gained(one.gain),
                Cell(str(len(one.weak)), _weakest(one)),
            ],
        )
        for one in result.rounds
    ]
    titles = ("texts asked for", "learnt from by now", "bits per byte", "gain", "weak cells left")
    table = Table("Each goes on from the student before it.", "round", [(title, "") for title in titles], rows)
    return Prose(tables=[table], notes=[f"No further round: {result.rounds[-1].stop}.", ROUNDS_NOTE])


ROUNDS_NOTE = (
    "A cell is a feature, a length or a word. It is weak where the filters leave fewer of its texts than chance explains, or "
    "where the student needs clearly more bits per byte for held-out texts than elsewhere. The gain is paired: the same texts "
    "before and after. Part of it comes from more steps alone; rounds.ask=random is the control."
)


def _gained(gain: Interval) -> Cell:
    cell = _cell("bits_per_byte", gain)
    return Cell(cell.value, cell.below, outcome=_outcome(gain))


def _asked_in(one: RoundResult) -> str:
    if not one.cells:
        return "drawn at random"
    return ", ".join(f"{formatting.one_line(name)} {count}" for name, count in one.cells.items())


def _weakest(one: RoundResult) -> str:
    shown = [f"{cell['axis']} {cell['name']}: {cell['why']}" for cell in one.weak[:3]]
    return formatting.one_line("; ".join(shown))


def memory_view(result: StoryResult) -> Prose:
    """The longest runs of words that stand in a training text."""
    rows = [
        _row(
            one,
            [
                Cell(formatting.count(one.copied.words)),
                _cell("copied_words", one.measures["copied_words"]),
                Cell(formatting.percent(one.copied.long_share)),
            ],
        )
        for one in result.writers
    ]
    columns = [("longest of all", "words"), ("longest of each, mean", "words"), ("with a run of 13 or more", "")]
    table = Table("Runs of words in common with any training text.", "writer", columns, rows)
    run = formatting.one_line(result.of("student").copied.run)
    lines = [f"The student's longest: “{run}”."] if run else []
    note = "The originals were never trained on: what they have in common with training texts is what the world makes alike."
    return Prose(lines=lines, tables=[table], notes=[note])


def coverage_view(coverage: Mapping[str, Any]) -> Prose:
    """Words, features and lengths, and what comes together."""
    rows = [_covered(f"different words: {kind}", counts) for kind, counts in coverage["words"].items()]
    rows.append(_covered("combinations of words", coverage["word_combinations"]))
    rows.append(_covered("combinations of features and length", coverage["feature_combinations"]))
    whole = Table("Of what the world has.", "", [("asked for", ""), ("kept", ""), ("there are", "")], rows)
    cells = coverage["cells"]
    each = [
        Row(formatting.one_line(name), "", "student", [_count(asked), _count(cells["kept"].get(name, 0))])
        for name, asked in cells["asked"].items()
    ]
    return Prose(tables=[whole, Table("Texts in each cell.", "cell", [("asked for", ""), ("kept", "")], each)])


def _covered(title: str, counts: Mapping[str, int]) -> Row:
    return Row(formatting.one_line(title), "", "student", [_count(counts[n]) for n in ("asked", "kept", "there_are")])


def _count(value: int) -> Cell:
    return Cell(formatting.count(value) if value < 1e9 else formatting.si(value))


def _facts(account: StoryAccount) -> Iterator[Facts]:
    card, seconds = account.card, float(account.card["seconds"])
    speed = formatting.si(card["tokens"] / seconds, "tokens a second") if seconds else "-"
    cost = card.get("cost")
    writing = [
        ("texts", formatting.count(card["replies"])),
        ("tokens written", formatting.count(card["tokens"])),
        ("throughput", speed),
        ("cost", f"{cost['money']:,.4f} {cost['currency']}".rstrip() if cost else "none told"),
    ]
    yield Facts("The teacher's writing", writing)
    yield Facts("The student", [("vocabulary", f"{formatting.count(account.tokens)} tokens"), ("world", account.world)])
    yield Facts("Stages", [(str(one["name"]), formatting.duration(float(one["seconds"]))) for one in account.stages])


def story_lines(result: StoryResult) -> list[str]:
    """What the terminal says in the end."""
    lines = []
    for one in result.rounds:
        won = "" if one.gain is None else f", won {_written(one.gain)}"
        lines.append(
            f"round {one.number}  {one.kept:,} of {one.asked:,} texts kept, {_written(one.bits_per_byte)} bits per byte{won}"
        )
    lines.append(f"no further round: {result.rounds[-1].stop}")
    copied = result.of("student").copied
    lines += [f"longest run of words copied from a training text: {copied.words}", "", lead_of(result)]
    return lines


def write_story_card(path: Path, account: StoryAccount) -> None:
    """The student's model card, whole or not at all."""
    result, student = account.result, account.result.of("student")
    measures = [f"| {MEASURES[name]} | {_written(value)} |" for name, value in student.measures.items()]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [distillation, stories, stillhouse]",
        "---",
        "",
        f"# {formatting.one_line(account.title)}",
        "",
        f"Distilled with stillhouse from texts by {formatting.one_line(account.teacher)}. {lead_of(result)}",
        "",
        "| of its completions | |",
        "|---|---|",
        *measures,
        "",
        f"{result.grammar} 95 % intervals over completions. It knows the world `{account.world}` and nothing else.".strip(),
        "",
        "```yaml",
        account.recipe_yaml.rstrip(),
        "```",
        "",
    ]
    write_whole(path, "\n".join(lines))
