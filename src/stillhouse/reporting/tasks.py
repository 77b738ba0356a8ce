"""What the report shows of the user's own questions: every model, what it keeps, and which answers changed."""

from collections.abc import Mapping, Sequence

from stillhouse.core.measures import Scored, TaskKind, TaskResult
from stillhouse.core.results import Flips, Interval
from stillhouse.core.suite_results import found_by
from stillhouse.core.tasks import TasksFound
from stillhouse.reporting import formatting
from stillhouse.reporting.account import Account
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

BLIND_SPOTS: Mapping[TaskKind, str] = {
    "multiple_choice": "Nothing was written: a model that would never say any of the choices still has a likeliest one.",
    "minimal_pairs": "Which of two sentences is likelier, by the whole of it; a tie is wrong.",
    "answers": "By a pattern: a right answer in other words is not found, and a number that stands there by chance is.",
    "generation": "By words and signs in common with a reference: blind to what is right in other words.",
    "bbq": "By the likeliest of three answers. Bias is 0 for a model that answers at random, too: read it beside accuracy.",
    "group_gaps": "How likely the same words are, not whether anybody would write them.",
    "lm_eval": "As the library scores every example; intervals and flips are ours.",
}


def tasks_view(account: Account) -> Prose | None:
    """The whole section; None where the recipe asked no questions."""
    found = found_by(account.result).get("tasks")
    if not isinstance(found, TasksFound) or not found.tasks:
        return None
    return Prose(
        intro="Questions of the recipe's own, the same for every model. Brackets hold 95 % intervals over questions; what is "
        "beside the teacher is paired, question by question.",
        lines=[line for task in found.tasks if (line := task_line(task))],
        tables=[table for task in found.tasks for table in (_table(task), *_groups(task))],
        notes=[f"{task.name}: {_note(task)}" for task in found.tasks],
    )


def task_line(task: TaskResult) -> str:
    """What the student keeps, in a sentence; empty where there is no student."""
    student = task.scores("student")
    if student is None or task.headline not in student.metrics:
        return ""
    metric = formatting.describe(task.headline)
    value = formatting.interval_text(student.metrics[task.headline], metric.unit)
    text = f"{task.name}: the student's {metric.title} is {value}"
    if task.chance is not None and metric.unit == "share":
        text += f", where guessing gives {formatting.percent(task.chance)}"
    kept = student.retained.get("beyond_chance") or student.retained.get(task.headline)
    if kept is not None:
        what = "of what the teacher has beyond chance" if "beyond_chance" in student.retained else "of the teacher's"
        text += f"; it keeps {formatting.interval_text(kept, 'share')} {what}"
    elif task.chance is not None and metric.unit == "share" and task.scores("teacher") is not None:
        text += "; the teacher itself is not shown to do better than that, so there is no share to keep"
    return f"{text}. {_flipped(student.flips)}".strip()


def _flipped(flips: Flips | None) -> str:
    if flips is None:
        return ""
    sure = f"p = {flips.p_value:.2g}" if flips.p_value >= 0.001 else "p < 0.001"
    return (
        f"Right by the teacher and wrong by the student: {formatting.count(flips.lost)}; the other way round: "
        f"{formatting.count(flips.won)} (McNemar, {sure})."
    )


def _table(task: TaskResult) -> Table:
    names = list(dict.fromkeys(name for one in task.scored for name in one.metrics))
    has_flips = any(one.flips for one in task.scored)
    has_share = any(task.headline in one.retained for one in task.scored)
    columns = [_column(name) for name in names]
    columns += [("share kept", f"of {formatting.describe(task.headline).title}")] if has_share else []
    columns += [("flips", "lost / won, McNemar")] if has_flips else []
    chance = (
        "" if task.chance is None or task.kind == "group_gaps" else f"; guessing: {formatting.percent(task.chance)}"
    )
    return Table(
        caption=f"{formatting.one_line(task.name)}: {formatting.count(task.examples)} questions{chance}.",
        corner="model",
        columns=columns,
        rows=[_row(task, one, names, has_share=has_share, has_flips=has_flips) for one in in_order(task.scored)],
    )


def in_order(scored: Sequence[Scored]) -> list[Scored]:
    """Teacher and student first."""
    order = {role: place for place, role in enumerate(ROLE_ORDER)}
    return sorted(scored, key=lambda one: order.get(one.role, len(order)))


def _column(name: str) -> tuple[str, str]:
    metric = formatting.describe(name)
    better = f"{metric.better} is better" if metric.meaning and name != "answer_words" else ""
    return metric.title, better


def _row(task: TaskResult, one: Scored, names: Sequence[str], *, has_share: bool, has_flips: bool) -> Row:
    cells = [interval_cell(one.metrics.get(name), formatting.describe(name).unit) for name in names]
    if has_share:
        cells.append(interval_cell(one.retained.get(task.headline), "share"))
    if has_flips:
        cells.append(Cell("-") if one.flips is None else _flips_cell(one.flips))
    return Row(SHORT_TITLES[one.role], "", one.role, cells)


def _flips_cell(flips: Flips) -> Cell:
    return Cell(f"{flips.lost} / {flips.won}", "p < 0.001" if flips.p_value < 0.001 else f"p = {flips.p_value:.2g}")


def interval_cell(interval: Interval | None, unit: str) -> Cell:
    """A number with its bounds below; a dash where there is none."""
    if interval is None:
        return Cell("-")
    written = unit if unit == "share" else ""
    return Cell(formatting.value_text(interval, written), formatting.bounds_text(interval, unit))


def _groups(task: TaskResult) -> list[Table]:
    """Group by group, by the headline."""
    if not task.groups:
        return []
    unit = formatting.describe(task.headline).unit
    roles = [one.role for one in in_order(task.groups[0].scored)]
    found = {(group.group, one.role): one.metrics[task.headline] for group in task.groups for one in group.scored}
    return [
        Table(
            caption=f"{formatting.one_line(task.name)}, group by group: {formatting.describe(task.headline).title}.",
            corner="model",
            columns=[
                (formatting.one_line(group.group), f"{formatting.count(group.examples)} questions")
                for group in task.groups
            ],
            rows=[
                Row(
                    SHORT_TITLES[role],
                    "",
                    role,
                    [interval_cell(found[group.group, role], unit) for group in task.groups],
                )
                for role in roles
            ],
        )
    ]


def _note(task: TaskResult) -> str:
    return ". ".join([BLIND_SPOTS[task.kind].rstrip("."), *(formatting.one_line(note) for note in task.notes)]) + "."
