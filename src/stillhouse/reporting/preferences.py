"""What the report, the card and the terminal say of which answers a model prefers."""

from stillhouse.core.results import EvaluationResult, Interval, Liking, PreferenceReading, PreferenceResult
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

LIKINGS: dict[Liking, str] = {"reward": "by its own reward", "likelihood": "by likelihood alone"}
INTRO = (
    "What counts tokens elsewhere on this page is of the chosen answers. A model's own reward for an answer is by how much "
    "likelier it finds it than the model that it was before."
)


REWARD_INTRO = (
    "Each model reads an answer whole and gives it one number. Only the difference of two answers to the same prompt means "
    "anything, the margin."
)


def preference_view(result: EvaluationResult) -> Prose | None:
    """The whole section; None where the data has no pairs of answers."""
    found, intro = result.preferences, REWARD_INTRO if result.task == "reward" else INTRO
    return None if found is None else Prose(preference_lines(found), [_table(found)], intro=intro)


def preference_lines(found: PreferenceResult) -> list[str]:
    """What length alone would make of the pairs, and whether the student goes by it."""
    chosen, rejected = (formatting.interval_text(one, "") for one in (found.chosen_tokens, found.rejected_tokens))
    longer = formatting.interval_text(found.chosen_is_longer, "share")
    lines = [
        f"Of {formatting.count(found.pairs)} held-out pairs to {formatting.count(found.prompts)} prompts, the chosen answer "
        f"has {chosen} tokens and the rejected one {rejected}. Who always prefers the longer answer is right on {longer}."
    ]
    student = next((row for row in found.readings if (row.role, row.liking) == ("student", "reward")), None)
    if student is not None:
        correlation = formatting.interval_text(student.length_correlation, "")
        # A model that is rewarded for what it has come to find likelier has two likings, and its margins are in nats.
        is_implicit = any(row.liking == "likelihood" for row in found.readings)
        margin = formatting.interval_text(student.margin, "nats" if is_implicit else "")
        longer = formatting.interval_text(student.prefers_longer, "share")
        before = ", before beta" if is_implicit else ""
        lines.append(
            f"The student's own reward is {margin} higher for the chosen answer than for the other{before}. Of pairs of "
            f"different length it prefers the longer one in {longer}; rank correlation of the margin with the difference in "
            f"length: {correlation}."
        )
    return lines


def _table(found: PreferenceResult) -> Table:
    """Every model, by its reward where it has one, and by likelihood."""
    return Table(
        caption=f"Which answer is preferred: {formatting.count(found.pairs)} held-out pairs, 95 % intervals over prompts.",
        corner="model",
        columns=[
            ("pair accuracy", "a tie counts half; higher is better"),
            ("margin", "of rewards, chosen over rejected"),
            ("correlation with length", "of the margin, by rank; 0 is blind to it"),
            ("prefers the longer", "of pairs of different length"),
        ],
        rows=[_row(reading) for reading in sorted(found.readings, key=_place)],
    )


def _place(reading: PreferenceReading) -> tuple[str, int]:
    return ("0" if reading.liking == "reward" else "1"), ROLE_ORDER.index(reading.role)


def _row(reading: PreferenceReading) -> Row:
    shown = ((reading.accuracy, "share"), (reading.margin, ""), (reading.length_correlation, ""))
    cells = [_cell(*one) for one in (*shown, (reading.prefers_longer, "share"))]
    return Row(SHORT_TITLES[reading.role], LIKINGS[reading.liking], reading.role, cells)


def _cell(interval: Interval, unit: str) -> Cell:
    return Cell(formatting.value_text(interval, unit), formatting.bounds_text(interval, unit))
