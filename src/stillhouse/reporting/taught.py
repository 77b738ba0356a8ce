"""What is said of a teacher behind an API: how near the student is to its answers, and what could not be measured of it."""

from collections.abc import Sequence

from stillhouse.core.results import EvaluationResult, Interval, Role, TaughtReading, TaughtResult
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

METRICS = ("top1_agreement", "bits_per_byte", "teacher_rouge_l")
INTRO = (
    "The teacher is behind an API and was never loaded here. It was asked for its likeliest answers to held-out prompts, and "
    "every model is measured on these."
)


def taught_view(result: EvaluationResult) -> Prose | None:
    """The whole section; None where the teacher was here."""
    found = result.taught
    if found is None:
        return None
    tables = [_table(found)] if found.readings else []
    return Prose(taught_lines(found), tables, intro=INTRO, notes=[unmeasured(found)])


def taught_lines(found: TaughtResult) -> list[str]:
    """How near the student comes to what the teacher answered, over its start and each control."""
    student = found.reading("student")
    if student is None:
        return [
            f"The teacher answered none of {formatting.count(found.asked)} held-out prompts, so nothing is known of how near "
            "the "
            "student is to it."
        ]
    shares = {name: formatting.interval_text(student.metrics[name], "share") for name in METRICS if name in _SHARES}
    line = (
        f"Of {formatting.count(found.tokens)} tokens in {formatting.count(found.answers)} answers of the teacher, the "
        f"student's likeliest is the teacher's in {shares['top1_agreement']}; its own answers share "
        f"{shares['teacher_rouge_l']} of their "
        "words with the teacher's (ROUGE-L)"
    )
    return [f"{line}.", *(_beside(found, one.role) for one in found.readings if one.role != "student")]


_SHARES = ("top1_agreement", "teacher_rouge_l")


def _beside(found: TaughtResult, other: Role) -> str:
    gain = next(row.difference for row in found.comparisons if (row.metric, row.other) == ("top1_agreement", other))
    shown = formatting.difference_text(gain, "share")
    if gain.low <= 0 <= gain.high:
        return f"Over the {SHORT_TITLES[other]}, no gain of agreement was shown there: {shown} includes 0."
    less = formatting.difference_text(Interval(-gain.value, -gain.high, -gain.low), "share")
    return (
        f"Over the {SHORT_TITLES[other]}, agreement gained {shown} there."
        if gain.low > 0
        else f"The {SHORT_TITLES[other]} agrees more there, by {less}."
    )


def unmeasured(found: TaughtResult) -> str:
    """What nobody could measure of the teacher, in one sentence."""
    return f"Not measured of {formatting.one_line(found.teacher)}: {'; '.join(found.unmeasured)}."


def absent_row(result: EvaluationResult, num_cells: int) -> list[Row]:
    """The teacher's row in a table of models where it was not here to be measured; none where it was."""
    if result.taught is None:
        return []
    name = formatting.one_line(result.taught.teacher)
    return [Row(SHORT_TITLES["teacher"], f"{name}, behind an API", "teacher", [Cell("-", "not here")] * num_cells)]


def _table(found: TaughtResult) -> Table:
    """Every model on the teacher's answers."""
    columns = [(formatting.describe(name).title, f"{formatting.describe(name).better} is better") for name in METRICS]
    readings = sorted(found.readings, key=lambda one: ROLE_ORDER.index(one.role))
    return Table(
        caption=f"On {formatting.count(found.answers)} answers of the teacher to held-out prompts, 95 % intervals.",
        corner="model",
        columns=columns,
        rows=[Row(SHORT_TITLES[one.role], "", one.role, _cells(one, METRICS)) for one in readings],
    )


def _cells(one: TaughtReading, names: Sequence[str]) -> list[Cell]:
    units = {name: formatting.describe(name).unit for name in names}
    return [
        Cell(
            formatting.value_text(one.metrics[name], units[name] if units[name] == "share" else ""),
            formatting.bounds_text(one.metrics[name], units[name]),
        )
        for name in names
    ]
