"""What the report shows of how models behave: every number beside what it cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillhouse.core.behaviour_results import (
    AGAIN,
    FEATURES,
    KINDS,
    BehaviourResult,
    Disagreement,
    Judgement,
    Measure,
    Measured,
    ToldApart,
)
from stillhouse.core.results import Interval
from stillhouse.core.suite_results import found_by
from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

TITLES: dict[str, str] = {AGAIN: "teacher, asked again", **{str(who): title for who, title in SHORT_TITLES.items()}}
ORDER = ("teacher", AGAIN, *(role for role in ROLE_ORDER if role != "teacher"))
NOTHING = Cell("-")
FEATURES_SHOWN = 14
TELLS = (
    "A classifier reads the characters of the answers, and says which are the teacher's, on prompts that it has not seen: 0.5 "
    "is a coin. It finds that two sound different, and roughly by what, not whether anybody minds. The lists of words are "
    "English."
)


@dataclass(frozen=True)
class BehaviourView(Prose):
    """Sentences and tables, then what they are blind to, and what is to be read."""

    blind_spots: Sequence[tuple[str, str]] = ()
    disagreements: Sequence[Disagreement] = ()


def behaviour_view(account: Account) -> BehaviourView | None:
    """The whole section; None where nobody was asked."""
    found = found_by(account.result).get("behaviour")
    if not isinstance(found, BehaviourResult) or not found.prompts:
        return None
    return BehaviourView(
        intro=f"Everyone was asked the same {formatting.count(found.prompts)} prompts ({formatting.one_line(found.source)}; "
        f"{found.sampling}). Brackets hold 95 % intervals over prompts; a change is the model's number less the teacher's, "
        "paired prompt by prompt. The teacher, asked again, shows what chance alone changes.",
        lines=behaviour_lines(found),
        tables=_tables(found),
        notes=[*map(formatting.one_line, found.notes), *([TELLS] if found.tone else [])],
        blind_spots=[(KINDS[one.name].title, KINDS[one.name].blind_spot) for one in found.measures],
        disagreements=[_clean(one) for one in found.disagreements],
    )


def _clean(one: Disagreement) -> Disagreement:
    prompt, teacher, student = (formatting.clean(text) for text in (one.prompt, one.teacher, one.student))
    return replace(one, prompt=prompt, teacher=teacher, student=student)


def behaviour_lines(found: BehaviourResult) -> list[str]:
    """What changed for certain, who can be told apart, and what the matcher is worth."""
    changed = [line for one in found.measures if (line := _changed(one))]
    lines = changed or ["In nothing that was counted here was a difference shown between student and teacher."]
    told = next((one for one in found.tone if one.who == "student"), None)
    if told is not None:
        lines.append(
            f"Student and teacher can be told apart with an AUC of {formatting.interval_text(told.auc, '')}; by length alone "
            f"{formatting.interval_text(told.by_length, '')}."
        )
    if found.matcher is not None:
        hit, clear = (
            formatting.interval_text(one, "share") for one in (found.matcher.sensitivity, found.matcher.specificity)
        )
        lines.append(
            f"On the labelled sample, {hit} of {found.matcher.refusals} refusals were matched, and {clear} of "
            f"{found.matcher.others} other answers were not."
        )
        lines += [line for one in found.measures if (line := _corrected(one))]
    return lines


def _corrected(measure: Measure) -> str:
    """What a rate of refusals is once the matcher's errors are taken out; empty where that cannot be said."""
    told = [
        f"{TITLES.get(one.who, one.who)} {formatting.interval_text(one.corrected, 'share')}"
        for one in measure.models
        if one.corrected is not None
    ]
    title = KINDS[measure.name].title
    return f"{title[:1].upper()}{title[1:]}, corrected by that sample: {'; '.join(told)}." if told else ""


def _changed(measure: Measure) -> str:
    """A sentence on a measure in which student and teacher differ; empty where no difference was shown."""
    student, teacher = measure.of("student"), measure.of("teacher")
    if student is None or teacher is None or student.change is None or student.change.low <= 0 <= student.change.high:
        return ""
    title = KINDS[measure.name].title
    by = formatting.difference_text(student.change, "share")
    ours, theirs = (formatting.value_text(one.value, "share") for one in (student, teacher))
    return f"{title[:1].upper()}{title[1:]}: student {ours}, teacher {theirs}; a change of {by}."


def _tables(found: BehaviourResult) -> list[Table]:
    tables = [_measures(found.measures)]
    if any(one.matrix for measure in found.measures for one in measure.models):
        tables.append(_matrices(found.measures))
    if found.tone:
        tables.append(_told(found.tone))
        tables += [_features(found.tone)]
    if found.judgements:
        tables.append(_judged(found))
    return tables


def _in_order(whos: Sequence[str]) -> list[str]:
    return sorted(set(whos), key=lambda who: ORDER.index(who) if who in ORDER else len(ORDER))


def _measures(measures: Sequence[Measure]) -> Table:
    whos = [one.who for measure in measures for one in measure.models]
    others = [who for who in _in_order(whos) if who not in ("teacher", "student", AGAIN)]
    return Table(
        caption="What answers do.",
        corner="measure",
        columns=[
            ("teacher", ""),
            ("student", ""),
            ("change", "student less teacher"),
            (TITLES[AGAIN], "change by chance"),
            ("by length alone", "AUC, or rank correlation"),
            *((TITLES.get(who, who), "") for who in others),
        ],
        rows=[_measure_row(one, others) for one in measures],
    )


def _measure_row(measure: Measure, others: Sequence[str]) -> Row:
    cells = [
        _value_cell(measure.of("teacher")),
        _value_cell(measure.of("student")),
        _change_cell(measure.of("student")),
        _change_cell(measure.of(AGAIN)),
        _length_cell(measure),
        *(_value_cell(measure.of(who)) for who in others),
    ]
    return Row(KINDS[measure.name].title, f"{formatting.count(measure.prompts)} prompts", "", cells)


def _value_cell(one: Measured | None) -> Cell:
    if one is None:
        return NOTHING
    return Cell(formatting.value_text(one.value, "share"), formatting.bounds_text(one.value, "share"))


def _change_cell(one: Measured | None) -> Cell:
    if one is None or one.change is None:
        return NOTHING
    value, _, bounds = _signed(one.change).partition(" [")
    return Cell(value, f"[{bounds}" if bounds else "")


def _length_cell(measure: Measure) -> Cell:
    if measure.by_length is None:
        return NOTHING
    kind = "AUC" if measure.is_yes_or_no else "rank"
    value, bounds = formatting.value_text(measure.by_length, ""), formatting.bounds_text(measure.by_length, "")
    return Cell(f"{kind} {value}", bounds)


def _signed(change: Interval) -> str:
    text = formatting.difference_text(change, "share")
    return f"+{text}" if change.value > 0 else text


def _matrices(measures: Sequence[Measure]) -> Table:
    rows = []
    for measure in measures:
        student = measure.of("student")
        if student is None or student.matrix is None:
            continue
        found = student.matrix
        counts = (found.both, found.only_teacher, found.only_model, found.neither)
        p_value = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
        rows.append(
            Row(KINDS[measure.name].title, "", "", [*(Cell(formatting.count(one)) for one in counts), Cell(p_value)])
        )
    return Table(
        caption="Who did what: prompts, of which both teacher and student could be judged.",
        corner="measure",
        columns=[
            ("both", ""),
            ("only the teacher", ""),
            ("only the student", ""),
            ("neither", ""),
            ("McNemar", "exact, two-sided"),
        ],
        rows=rows,
    )


def _told(tone: Sequence[ToldApart]) -> Table:
    by_who = {one.who: one for one in tone}
    return Table(
        caption="Who can be told from the teacher by the look of the answers; 0.5 is a coin.",
        corner="model",
        columns=[
            ("told apart", "AUC"),
            ("by length alone", "AUC"),
            ("pieces that say teacher", ""),
            ("pieces that say the other", ""),
        ],
        rows=[_told_row(by_who[who]) for who in _in_order(list(by_who))],
    )


def _told_row(one: ToldApart) -> Row:
    aucs = [
        Cell(formatting.value_text(found, ""), formatting.bounds_text(found, "")) for found in (one.auc, one.by_length)
    ]
    surely = one.auc.low > 0.5  # what a coin went by tells nothing
    pieces = [Cell(_pieces(side) if surely else "-") for side in (one.teachers, one.others)]
    role = "teacher" if one.who == AGAIN else one.who
    return Row(TITLES.get(one.who, one.who), "", role, [*aucs, *pieces])


def _pieces(found: Sequence[str]) -> str:
    return "  ".join(formatting.clean(piece).replace(" ", "␣").replace("\n", "⏎") for piece in found)


def _features(tone: Sequence[ToldApart]) -> Table:
    """The student's, beside what the teacher alone would show."""
    told = next((one for one in tone if one.who == "student"), tone[0])
    again = {one.name: one for other in tone if other.who == AGAIN for one in other.features}
    rows = []
    for one in told.features[:FEATURES_SHOWN]:
        beyond = one.distance > one.by_chance
        distance = Cell(f"{one.distance:.2f}", "beyond chance" if beyond else "", is_best=False)
        null = again.get(one.name)
        cells = [
            Cell(formatting.significant(one.teacher)),
            Cell(formatting.significant(one.value)),
            Cell(formatting.value_text(one.change, ""), formatting.bounds_text(one.change, "")),
            distance,
            Cell(f"{one.by_chance:.2f}"),
            NOTHING if null is None else Cell(f"{null.distance:.2f}"),
        ]
        rows.append(Row(FEATURES.get(one.name, one.name), "", "", cells))
    return Table(
        caption="How the answers sound: means, and the Jensen-Shannon distance of student and teacher.",
        corner="feature",
        columns=[
            ("teacher", "mean"),
            ("student", "mean"),
            ("change", "paired"),
            ("distance", "0 alike, 1 never meet"),
            ("by chance", "95 of 100 lie below"),
            ("teacher, asked again", "distance"),
        ],
        rows=rows,
    )


def _judged(found: BehaviourResult) -> Table:
    by_who = {one.who: one for one in found.judgements}
    return Table(
        caption=f"Beside the teacher's answers, as {formatting.one_line(found.judge)} judges each pair in both orders.",
        corner="model",
        columns=[
            ("score", "won, ties half; 50 % is as good"),
            ("won / tied / lost", ""),
            ("of two minds", "changed with the order"),
            ("unreadable", "left out"),
            ("agrees with itself", ""),
            ("first one won", "50 % where place is nothing"),
        ],
        rows=[_judged_row(by_who[who]) for who in _in_order(list(by_who))],
    )


def _judged_row(one: Judgement) -> Row:
    agreement = NOTHING
    if one.agreement is not None:
        agreement = Cell(formatting.value_text(one.agreement, "share"), formatting.bounds_text(one.agreement, "share"))
    score = NOTHING
    if one.prompts > one.unreadable:
        score = Cell(formatting.value_text(one.score, "share"), formatting.bounds_text(one.score, "share"))
    cells = [
        score,
        Cell(f"{one.wins} / {one.ties} / {one.losses}"),
        Cell(formatting.count(one.undecided)),
        Cell(f"{formatting.count(one.unreadable)} of {formatting.count(one.prompts)}"),
        agreement,
        NOTHING if one.first_wins is None else Cell(formatting.percent(one.first_wins)),
    ]
    role = "teacher" if one.who == AGAIN else one.who
    return Row(TITLES.get(one.who, one.who), "", role, cells)
