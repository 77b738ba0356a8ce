"""What the report and the terminal say of a reward: what choosing by it did, and how it went beside agreement in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.core.results import Interval
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import CurvePanel, curve_panels
from stillhouse.reporting.shapes import Cell, Row, Table

MOST_ROWS = 12
"""Looks at the student that the table shows, first and last among them: the chart shows them all."""
NOTABLE = 0.2
"""A rank correlation with length that is worth a word of warning."""
KINDS: Mapping[str, str] = {
    "best_of_n": "the best answer to each question was kept",
    "threshold": "answers above a reward were kept",
    "rejection": "answers that a checker found right were kept",
    "agreement": "the answer that most samples came to was kept",
    "pairs": "the best answer was written down beside a worse one",
    "weights": "every answer counts by its reward",
}


@dataclass(frozen=True)
class RewardView:
    """A section of the report."""

    lines: Sequence[str]
    panels: Sequence[CurvePanel]
    table: Table | None


def reward_view(reward: Mapping[str, Any], steps: Sequence[Mapping[str, float]]) -> RewardView | None:
    """The whole section; None where no reward was at work."""
    looks = _looks(steps)
    lines = reward_lines(reward, steps)
    if not lines:
        return None
    shown = [
        {name: line[name] for name in ("step", "held_out_reward", "held_out_agreement") if name in line}
        for line in looks
    ]
    return RewardView(lines, curve_panels({"student": shown}) if len(shown) > 1 else [], _table(looks))


def reward_lines(reward: Mapping[str, Any], steps: Sequence[Mapping[str, float]]) -> list[str]:
    """A few sentences, also for the terminal."""
    parts = (
        _chosen(reward),
        _length(reward),
        _bound(reward),
        _pairs(reward),
        _unread(reward),
        _over_training(_looks(steps)),
    )
    return [part for part in parts if part]


def without_looks(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """The curves without what this section shows."""
    names = ("held_out_reward", "teacher_reward", "held_out_agreement")
    return {arm: [{n: v for n, v in line.items() if n not in names} for line in lines] for arm, lines in curves.items()}


def _looks(steps: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [line for line in steps if "held_out_reward" in line]


def _chosen(reward: Mapping[str, Any]) -> str:
    if not reward.get("kind"):
        return ""
    name = formatting.one_line(str(reward.get("reward") or reward.get("check") or "")).replace("_", " ")
    answers, questions = (formatting.count(reward.get(name, 0)) for name in ("samples", "prompts"))
    text = f"Of {answers} answers to {questions} questions, "
    text += KINDS.get(str(reward["kind"]), formatting.one_line(str(reward["kind"])))
    text += f" (by {name})" if name else ""
    if "kept" in reward:
        text += f": {formatting.count(reward['kept'])} in all"
    if "mean_after" in reward:
        before, after = (formatting.significant(reward[f"mean_{when}"]) for when in ("before", "after"))
        text += f". The mean reward went from {before} to {after}"
    if "accepted" in reward:
        text += f". {formatting.percent(reward['accepted'])} of the answers were right, and "
        text += f"{formatting.percent(reward['answered'])} of the questions have a right one"
    if "mean_agreement" in reward:
        text += f". On average {formatting.percent(reward['mean_agreement'])} of a question's samples came to the same"
    return text + "."


def _length(reward: Mapping[str, Any]) -> str:
    if "mean_length_after" not in reward:
        return ""
    before, after = (formatting.significant(reward[f"mean_length_{when}"]) for when in ("before", "after"))
    text = f"Answers had {before} characters before choosing and {after} after."
    if "length_correlation" not in reward:
        return text
    within = _interval(reward, "length_correlation")
    own, mixed = (formatting.interval_text(_interval(reward, f"length_correlation{name}"), "") for name in ("", "_all"))
    text += (
        f" Among answers to one question, reward and length have a rank correlation of {own}; over all answers {mixed}."
    )
    if abs(within.value) >= NOTABLE and within.low * within.high > 0:
        taste = "long" if within.value > 0 else "short"
        text += f" This reward likes {taste} answers: see whether these are better before you believe it."
    return text


def _interval(reward: Mapping[str, Any], name: str) -> Interval:
    return Interval(reward[name], reward[f"{name}_low"], reward[f"{name}_high"])


def _bound(reward: Mapping[str, Any]) -> str:
    if "kl_bound" not in reward:
        return ""
    nats = formatting.significant(reward["kl_bound"])
    return f"Best of {reward['n']} is at most {nats} nats a whole answer from what the writer says by itself."


def _pairs(reward: Mapping[str, Any]) -> str:
    if "pairs" not in reward:
        return ""
    pairs, ties, alone = (formatting.count(reward[name]) for name in ("pairs", "ties", "alone"))
    text = f"{pairs} pairs; left out: {ties} ties or within the margin, {alone} with no second answer."
    if "chosen_longer" in reward:
        text += f" In {formatting.percent(reward['chosen_longer'])} of the pairs the better answer is the longer one."
    return text


def _unread(reward: Mapping[str, Any]) -> str:
    names = {
        "unparsable": "judgements could not be read",
        "unscored": "answers have no score and were left out",
        "cut": "conversations were longer than the reward model reads, and cut",
    }
    said = [f"{formatting.count(reward[name])} {words}" for name, words in names.items() if reward.get(name)]
    if "first_wins" in reward:
        said.append(
            f"the answer that the judge was shown first won {formatting.percent(reward['first_wins'])} of comparisons"
        )
    return f"{'; '.join(said).capitalize()}." if said else ""


def _over_training(looks: Sequence[Mapping[str, float]]) -> str:
    if not looks:
        return ""
    first, last = looks[0], looks[-1]
    text = (
        f"Over training the reward of held-out answers went from {formatting.significant(first['held_out_reward'])} to "
    )
    text += formatting.significant(last["held_out_reward"])
    if "teacher_reward" in last:
        text += f" (the teacher's: {formatting.significant(last['teacher_reward'])})"
    if "held_out_agreement" in last and "held_out_agreement" in first:
        text += f", and agreement with the teacher from {formatting.percent(first['held_out_agreement'], 1)} to "
        text += formatting.percent(last["held_out_agreement"], 1)
    return text + "."


def _table(looks: Sequence[Mapping[str, float]]) -> Table | None:
    if not looks:
        return None
    size = max(1, -(-(len(looks) - 1) // (MOST_ROWS - 1)))
    shown = [*looks[:-1:size], looks[-1]]

    def row(line: Mapping[str, float]) -> Row:
        agreement = line.get("held_out_agreement")
        cells = [
            Cell(formatting.significant(line["held_out_reward"])),
            Cell("-" if agreement is None else formatting.percent(agreement, 1)),
        ]
        return Row(f"step {formatting.count(line['step'])}", "", "student", cells)

    teacher = looks[-1].get("teacher_reward")
    rows = [row(line) for line in shown]
    if teacher is not None:
        rows.append(Row("teacher", "", "teacher", [Cell(formatting.significant(teacher)), Cell("100 %")]))
    caption = "The student's held-out answers over training: their reward, and its agreement with the teacher on held-out text."
    columns = [("reward", "of its own answers"), ("agreement", "likeliest token as the teacher's")]
    return Table(caption, "after", columns, rows)
