"""What to do next, by rules over the numbers of one run."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from stillhouse.core.results import BASELINES, EvaluationResult, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.charts import LAST_TERMS, POSITIONS, WATCHED, Point, series, term_words
from stillhouse.reporting.verdicts import (
    ANSWERS,
    CONTROLS,
    can_have_control,
    counted_documents,
    metric_names,
    verdict,
    verdicts,
)

STILL_FALLING = 0.02  # below 2 % over a fifth of the run, a longer one would be slow to pay
LARGE_GAP = 0.25  # agreement lost; beyond this a flat loss points to the student's size
MANY_DROPPED = 0.3
MOST_OF_THE_TIME = 0.6


@dataclass(frozen=True)
class Advice:
    """One thing to try, and the numbers that speak for it."""

    title: str
    reason: str


Curves = Mapping[str, Sequence[Mapping[str, float]]]


def advise(
    result: EvaluationResult, *, curves: Curves, data: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]
) -> list[Advice]:
    """What the numbers of this run suggest, the most important first."""
    rules: Sequence[Callable[[], Iterator[Advice]]] = (
        lambda: _without_control(result),
        lambda: _not_better_than_control(result),
        lambda: _alarmed(data),
        lambda: _worse_after_training(result),
        lambda: _length_of_training(result, curves),
        lambda: _wide_intervals(result),
        lambda: _better_than_teacher(result),
        lambda: _embeddings_dominate(result),
        lambda: _many_dropped(data),
        lambda: _slow_stage(stages),
    )
    return [advice for rule in rules for advice in rule()]


def _without_control(result: EvaluationResult) -> Iterator[Advice]:
    others = (*CONTROLS, *BASELINES)
    is_missed = can_have_control(result.task) and not any(result.model(role) for role in others)
    if is_missed and not result.made_here:
        reason = "Alone beside its teacher, a student may keep no more than any model of its size."
        yield Advice("Hold another small model beside the two: --baseline MODEL", reason)
    elif is_missed and result.model("student"):
        reason = "Without one, better numbers may come from the training text alone and not from the teacher's signals."
        yield Advice("Train a control: evaluation.control: hard_labels", reason)


def _not_better_than_control(result: EvaluationResult) -> Iterator[Advice]:
    for other in CONTROLS:
        rows = verdicts(result, other)
        worse, gained = (
            _titles(result, (row.metric for row in rows if row.outcome == outcome)) for outcome in ("worse", "gain")
        )
        if worse and gained:
            reason = f"Against {_named(other)} the student is better on {gained} and worse on {worse}."
            yield Advice("Decide which metric counts for your use", reason)
        elif worse:
            reason = (
                f"It is worse on {worse} than {_named(other)}, and better on nothing. Give the data's own labels "
                "more weight, lower the temperature, or check that the teacher is good at this text."
            )
            yield Advice("Use the control instead of this student", reason)
        elif rows and not gained:
            reason = (
                f"No metric tells the student from {_named(other)}. Either the budget is too small for the teacher's "
                "signals to matter, or too little text is held out to show it: change one of the two."
            )
            yield Advice("Do not claim a gain from distillation yet", reason)


def _named(control: Role) -> str:
    return {"control_from_scratch": "the control from a random start"}.get(control, "the control without a teacher")


def _worse_after_training(result: EvaluationResult) -> Iterator[Advice]:
    names = _titles(result, (row.metric for row in verdicts(result, "student_before") if row.outcome == "worse"))
    if names:
        yield Advice("Lower the learning rate", f"Training made the student worse on {names}.")


AGAINST_ALARMS: Mapping[str, str] = {
    "answers_grow": "Let answers end: mix in the data's own (source.kind: mixed), or raise max_new_tokens",
    "answers_collapse": "Keep answers from shrinking: mix in the data's own (source.kind: mixed), or lower the learning rate",
    "end_never_learnt": "Teach the end first: distil offline before, or raise source.sampling.max_new_tokens",
    "entropy_collapses": "Keep the student's choice open: forward_kl or jsd beside reverse_kl, or more temperature in sampling",
    "agreement_falls": "Lower the learning rate, or begin from a student that is nearer to its teacher",
    "rows_without_weight": "Look at the rows that teach nothing: stillhouse inspect shows what is learnt",
}


def _alarmed(data: Mapping[str, Any]) -> Iterator[Advice]:
    """One piece of advice for each kind of alarm, with the last that was said."""
    last = {alarm["alarm"]: alarm for alarm in data.get("alarms") or ()}
    for name, title in AGAINST_ALARMS.items():
        if name in last:
            said = formatting.one_line(str(last[name]["says"]))
            yield Advice(title, f"Alarm in step {last[name]['step']}: {said}.")


def _length_of_training(result: EvaluationResult, curves: Curves) -> Iterator[Advice]:
    lines = curves.get("student", ())
    logged = dict.fromkeys(name for line in lines for name in line if name not in (*POSITIONS, *WATCHED, *LAST_TERMS))
    wanted = ("forward_kl", "reverse_kl", *(name for name in logged if name != "next_token"), "loss", "next_token")
    term = next((name for name in wanted if _fall(series(lines, name))), None)
    if term is None:
        return
    before, after, error = _fall(series(lines, term)) or (0.0, 0.0, 0.0)
    name = term_words(term)
    change = f"{name} went from {formatting.significant(before)} to {formatting.significant(after)}"
    agreement = _agreement(result)
    if before > 0 and before - after > max(STILL_FALLING * before, 2 * error):
        reason = f"Over the last fifth {change} ({formatting.percent((before - after) / before)} lower): still falling."
        yield Advice("Train longer", reason)
    elif agreement is not None and agreement < 1 - LARGE_GAP:
        reason = f"Training has levelled off ({change}), yet only {_agreed(result, agreement)}."
        yield Advice("Keep more layers, or use more varied text", reason)


def _agreed(result: EvaluationResult, agreement: float) -> str:
    return f"{formatting.percent(agreement)} of {ANSWERS[result.task]} agree"


def _fall(points: Sequence[Point]) -> tuple[float, float, float] | None:
    """Mean over the last fifth but one, over the last fifth, and the standard error of their difference.

    None when there are too few points to tell.
    """
    fifth = len(points) // 5
    if fifth < 3:
        return None
    before, after = ([y for _, y in part] for part in (points[-2 * fifth : -fifth], points[-fifth:]))
    error = math.sqrt((variance(before) + variance(after)) / fifth)
    return fmean(before), fmean(after), error


def _wide_intervals(result: EvaluationResult) -> Iterator[Advice]:
    undecided = [row for other in CONTROLS for row in verdicts(result, other) if row.outcome == "none"]
    if undecided:
        reason = (
            f"On {_titles(result, (row.metric for row in undecided))} the difference to the control is within its "
            f"interval, from {counted_documents(result)}. Four times as many would halve the interval."
        )
        yield Advice("Hold out more text", reason)


def _better_than_teacher(result: EvaluationResult) -> Iterator[Advice]:
    rows = [row for row in map(verdict, result.comparisons) if row.other == "teacher" and row.outcome == "gain"]
    names = _titles(result, (row.metric for row in rows))
    if names:
        reason = (
            f"The student beats its teacher on {names}. That is specialisation, or held-out text that is too much like "
            "the training text: measure on other text before claiming more."
        )
        yield Advice("Evaluate on text from elsewhere", reason)


def _embeddings_dominate(result: EvaluationResult) -> Iterator[Advice]:
    student = result.model("student")
    if student is None or student.cost.parameters <= 0:
        return
    share = 1 - student.cost.parameters_without_embeddings / student.cost.parameters
    if share > 0.5:
        reason = (
            f"{formatting.percent(share)} of the student's parameters are embeddings, which fewer layers do not shrink."
        )
        yield Advice("Choose a teacher with a smaller vocabulary, if size matters", reason)


def _many_dropped(data: Mapping[str, Any]) -> Iterator[Advice]:
    synthesised = data.get("synthesised") or {}
    dropped: Mapping[str, int] = synthesised.get("dropped") or {}
    num_dropped, num_kept = sum(dropped.values()), synthesised.get("documents") or 0
    if num_dropped and num_dropped / (num_dropped + num_kept) > MANY_DROPPED:
        worst = max(dropped, key=lambda reason: dropped[reason]).replace("_", " ")
        share = formatting.percent(num_dropped / (num_dropped + num_kept))
        yield Advice(
            "Look at what the filters removed", f"{share} of what the teacher wrote was dropped, mostly as {worst}."
        )


def _slow_stage(stages: Sequence[Mapping[str, Any]]) -> Iterator[Advice]:
    total = sum(stage.get("seconds") or 0 for stage in stages)
    for stage in stages:
        share = (stage.get("seconds") or 0) / total if total else 0
        if share > MOST_OF_THE_TIME and len(stages) > 1:
            reason = f"{formatting.percent(share)} of {formatting.duration(total)} went there."
            yield Advice(
                f"To go faster, look at the stage `{formatting.one_line(str(stage.get('name')))}` first", reason
            )


def _agreement(result: EvaluationResult) -> float | None:
    student = result.model("student")
    return (
        None if student is None or "top1_agreement" not in student.metrics else student.metrics["top1_agreement"].value
    )


def _titles(result: EvaluationResult, names: Iterable[str]) -> str:
    return ", ".join(formatting.describe(name).title for name in sorted(set(names), key=metric_names(result).index))
