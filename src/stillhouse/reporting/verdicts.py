"""What the numbers allow one to say: a gain, no gain shown, or worse; in one place for terminal, report and card."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.core.results import (
    BASELINES,
    HEADLINE,
    METRICS,
    MOST_COMPARED,
    Comparison,
    EvaluationResult,
    Interval,
    ModelResult,
    Retention,
    Role,
    SpeedUp,
)
from stillhouse.core.task import Task
from stillhouse.reporting import formatting

Outcome = Literal["gain", "none", "worse", "unknown", "mixed"]
"""How a comparison turned out; `mixed` only for a finding whose metrics do not all say the same."""

CONTROLS: Sequence[Role] = (
    "control_hard_labels_flops",
    "control_hard_labels",
    "control_from_scratch_flops",
    "control_from_scratch",
)
OTHERS: Sequence[Role] = (*CONTROLS, *BASELINES, "student_before")
"""What the student is held against, the strictest first."""

ROLE_ORDER: Sequence[Role] = ("teacher", "student", *CONTROLS, *BASELINES, "student_before")

SHORT_TITLES: Mapping[Role, str] = {
    "teacher": "teacher",
    "student": "student",
    "control_hard_labels": "control: no teacher",
    "control_from_scratch": "control: random start",
    "control_hard_labels_flops": "control: no teacher, same FLOPs",
    "control_from_scratch_flops": "control: random start, same FLOPs",
    "baseline": "baseline",
    "baseline_2": "second baseline",
    "baseline_3": "third baseline",
    "student_before": "before training",
}

METRIC_ORDER: Mapping[Task, Sequence[str]] = {task: (name,) for task, name in HEADLINE.items()} | {
    "causal_lm": ("preference_accuracy", "top1_agreement", "forward_kl", "bits_per_byte", "perplexity")
}
"""Which metric the headline speaks of: the first that was measured. A language model is worth more than its likeliest
token, so of one it speaks of likeness to the teacher; where it learnt from pairs of answers, of which it prefers."""

ANSWERS: Mapping[Task, str] = {
    "causal_lm": "tokens",
    "masked_lm": "hidden tokens",
    "sequence_classification": "documents",
    "regression": "documents",
    "reward": "pairs of answers",
    "token_classification": "tokens",
    "sentence_embedding": "pairs of sentences",
}
"""What is answered, and right or wrong."""

BEGINNINGS: Mapping[Role, str] = {
    "control_hard_labels": "Trained for the same budget without teacher signals, it would",
    "control_from_scratch": "From a random start, for the same budget without teacher signals, it would",
    "control_hard_labels_flops": "Trained for the same FLOPs without teacher signals, it would",
    "control_from_scratch_flops": "From a random start, for the same FLOPs without teacher signals, it would",
    "baseline": "The baseline",
    "baseline_2": "The second baseline",
    "baseline_3": "The third baseline",
    "student_before": "Before training it",
}

CAUSES: Mapping[Role, str] = {
    "control_hard_labels": "the teacher's signals",
    "control_from_scratch": "distillation",
    "control_hard_labels_flops": "the teacher's signals",
    "control_from_scratch_flops": "distillation",
    "student_before": "training",
}


Tense = Literal["now", "before", "would"]

PHRASES: Mapping[str, tuple[Mapping[Tense, str], str]] = {
    "top1_agreement": (
        {"now": "agrees with its teacher", "before": "agreed", "would": "agree"},
        "on {value} of {answers} {bounds}",
    ),
    "preference_accuracy": (
        {
            "now": "prefers the chosen answer",
            "before": "preferred the chosen answer",
            "would": "prefer the chosen answer",
        },
        "in {value} of pairs {bounds}",
    ),
    "accuracy": ({"now": "is right", "before": "was right", "would": "be right"}, "on {value} of {answers} {bounds}"),
    "bits_per_byte": ({"now": "spends", "before": "spent", "would": "spend"}, "{value} per byte {bounds}"),
}
NOT_COMPARABLE: Mapping[Tense, str] = {
    "now": "is measured otherwise",
    "before": "was measured otherwise",
    "would": "be measured otherwise",
}
PLAIN_PHRASE: tuple[Mapping[Tense, str], str] = (
    {"now": "has", "before": "had", "would": "have"},
    "a {title} of {value} {bounds}",
)


REACHES: Mapping[str, str] = {
    "preference_accuracy": "prefer the chosen answer in {value}",
    "top1_agreement": "agree on {value}",
    "accuracy": "be right on {value}",
}
"""What a control would do, where there is no room for more."""


NO_CONTROL = "No control was trained, so nothing here says how much of this is owed to the teacher's signals."
ALONE = (
    "No third model stands beside the two, so nothing here says whether another of the student's size keeps as much."
)


@dataclass(frozen=True)
class Verdict:
    """The student against one other model on one metric. `gain` is positive where the student is better."""

    metric: str
    other: Role
    outcome: Outcome
    gain: Interval


@dataclass(frozen=True)
class Finding:
    """One sentence about one control, and how it turned out."""

    outcome: Outcome
    text: str


def verdict(comparison: Comparison) -> Verdict:
    """A gain is shown only when the whole interval of the difference lies on the better side of zero."""
    difference = comparison.difference
    if formatting.describe(comparison.metric).better == "lower":
        difference = Interval(-difference.value, -difference.high, -difference.low)
    outcome: Outcome = "gain" if difference.low > 0 else "worse" if difference.high < 0 else "none"
    return Verdict(comparison.metric, comparison.other, outcome, difference)


def verdicts(result: EvaluationResult, other: Role) -> list[Verdict]:
    """Verdicts against one other model, one per metric whose better side is known."""
    known = [row for row in result.comparisons if row.other == other and row.metric in METRICS]
    return sorted(map(verdict, known), key=lambda row: metric_names(result).index(row.metric))


def metric_names(result: EvaluationResult) -> list[str]:
    """Every metric that was measured or compared, the headline's first."""
    names = [name for model in result.models for name in model.metrics] + [row.metric for row in result.comparisons]
    first = METRIC_ORDER[result.task]
    return [name for name in first if name in names] + [name for name in dict.fromkeys(names) if name not in first]


def can_have_control(task: Task) -> bool:
    """Whether a control can be trained: sentences teach nothing without the teacher, so what they gained, it gave."""
    return task != "sentence_embedding"


def other_tokens(result: EvaluationResult) -> str:
    """What to know where teacher and student cut text differently; nothing where they do not."""
    if result.teacher_tokens is None:
        return ""
    ours, theirs = (formatting.count(tokens) for tokens in (result.held_out.tokens, result.teacher_tokens))
    return (
        f"The teacher cuts the held-out text into {theirs} tokens of its own, the student into {ours}: bits per byte compare "
        "them, and what counts tokens does not. How much faster is for the same text; tokens a second are each model's own."
    )


def counted_documents(result: EvaluationResult) -> str:
    """What intervals are over, by its name; then, in brackets, each metric that is over something else."""
    held_out = result.held_out
    if result.task != "sentence_embedding":
        return f"{formatting.count(held_out.documents)} held-out document{'' if held_out.documents == 1 else 's'}"
    most = f"{formatting.count(held_out.documents)} held-out sentences"
    if held_out.answers is not None:
        most = f"{formatting.count(held_out.answers)} held-out pairs of sentences"
    others = [
        f"{formatting.describe(name).title}: {over}"
        for name, over in _over_sentences(held_out.documents).items()
        if name in metric_names(result) and over != most
    ]
    return f"{most} ({'; '.join(others)})" if others else most


def _over_sentences(num_sentences: int) -> dict[str, str]:
    """What the metrics of single sentences are over, whatever pairs there are."""
    first = "the first " if num_sentences > MOST_COMPARED else ""
    compared = formatting.count(min(num_sentences, MOST_COMPARED))
    return {
        "teacher_cosine": f"{formatting.count(num_sentences)} held-out sentences",
        "teacher_cka": f"{first}{compared} held-out sentences, each left out once",
    }


def num_judged(result: EvaluationResult) -> int:
    """How many documents the widest intervals are over: the fewer of sentences and pairs of them."""
    held_out = result.held_out
    if result.task != "sentence_embedding" or held_out.answers is None:
        return held_out.documents
    return min(held_out.documents, held_out.answers)


def models_in_order(result: EvaluationResult) -> list[ModelResult]:
    """Teacher, student, controls, and the student before training."""
    return sorted(result.models, key=lambda model: ROLE_ORDER.index(model.role))


def best_roles(result: EvaluationResult, metric: str) -> frozenset[Role]:
    """Who is best on a metric among student, its start and controls: both of two where no difference was shown."""
    rivals = [model for model in result.models if model.role != "teacher" and metric in model.metrics]
    if metric not in METRICS or len(rivals) < 2:
        return frozenset()
    sign = 1 if METRICS[metric].better == "higher" else -1
    best = max(rivals, key=lambda model: sign * model.metrics[metric].value).role
    equals = {row.other for row in map(verdict, result.comparisons) if row.metric == metric and row.outcome == "none"}
    tied = equals if best == "student" else {role for role in ROLE_ORDER if role == "student" and best in equals}
    return frozenset({best} | (tied & {model.role for model in rivals}))


def headline(result: EvaluationResult) -> str:
    """What was kept, and one sentence on the gain over each control with its interval."""
    return " ".join([kept(result), *(finding.text for finding in findings(result))])


def kept(result: EvaluationResult) -> str:
    """One sentence: the student's size, its speed, and how near it is to its teacher."""
    student, teacher = result.model("student"), result.model("teacher")
    if student is None:
        return "No student was measured."
    parts = [] if teacher is None else [_size_phrase(student, teacher), _speed_phrase(result)]
    name = headline_metric(result)
    share = _share_of_headline(result, "student")
    if share is not None:
        parts.append(_share_phrase(result, share))
    elif name is not None:
        parts.append(_standing(result, name, student.metrics[name], "now") + _beside_teacher(result, name))
    return f"The student {_listed(parts)}." if parts else "Nothing about the student was measured."


def _share_of_headline(result: EvaluationResult, role: Role) -> Retention | None:
    """What share of the teacher's headline metric a model has."""
    share = result.retention(role)
    return share if share is not None and share.metric == headline_metric(result) else None


def _share_phrase(result: EvaluationResult, share: Retention) -> str:
    kept = formatting.interval_text(share.share, "share")
    return f"keeps {kept} of its teacher's {formatting.describe(share.metric).title} ({against_teacher(result, share.metric)})"


def against_teacher(result: EvaluationResult, metric: str) -> str:
    """The student's value against the teacher's."""
    unit, roles = formatting.describe(metric).unit, ("student", "teacher")
    models = sorted(
        (model for model in result.models if model.role in roles), key=lambda model: roles.index(model.role)
    )
    return " against ".join(formatting.value_text(model.metrics[metric], unit) for model in models)


def lead(result: EvaluationResult) -> str:
    """`kept`, and in the same breath how the strictest control did: the one sentence that must be honest alone."""
    metric = headline_metric(result)
    if metric is None:
        return kept(result)
    beside = _against_strictest_control(result, metric)
    return kept(result).removesuffix(".") + f"; {beside}." if beside else kept(result)


def _against_strictest_control(result: EvaluationResult, metric: str) -> str:
    other = next((role for role in CONTROLS if result.model(role) is not None), None)
    baseline = result.model("baseline")
    if other is None and baseline is not None:
        has_value = metric in baseline.metrics
        return f"the baseline {_standing(result, metric, baseline.metrics[metric], 'now')}" if has_value else ""
    if other is None and not result.made_here:
        return ""
    if other is None:
        is_missed = can_have_control(result.task)
        return "no control was trained to compare it with" if is_missed else _against_the_start(result)
    model = result.model(other)
    outcome = next((row.outcome for row in verdicts(result, other) if row.metric == metric), "unknown")
    if model is None or metric not in model.metrics or outcome not in ("gain", "worse"):
        return f"no gain from {CAUSES[other]} was shown"
    share = _share_of_headline(result, other)
    value = formatting.value_text(model.metrics[metric], formatting.describe(metric).unit)
    reach = (
        f"would keep {formatting.value_text(share.share, 'share')}"
        if share
        else "would " + REACHES.get(metric, "be at {value}").format(value=value)
    )
    start = "from a random start and" if other == "control_from_scratch" else "trained"
    verdict_word = ", which is better" if outcome == "worse" else ""
    return f"{start} without the teacher's signals, it {reach}{verdict_word}"


def _against_the_start(result: EvaluationResult) -> str:
    """What was kept before training; empty where no share was measured."""
    share = _share_of_headline(result, "student_before")
    return "" if share is None else f"before training it kept {formatting.value_text(share.share, 'share')}"


def headline_metric(result: EvaluationResult) -> str | None:
    """The metric that the headline speaks of."""
    student = result.model("student")
    return None if student is None else next((name for name in metric_names(result) if name in student.metrics), None)


def findings(result: EvaluationResult) -> list[Finding]:
    """One finding for each control and for the student's start; and one that says so where a control was left out."""
    metric = headline_metric(result)
    if metric is None:
        return []
    found = [_finding(result, other, metric) for other in OTHERS if result.model(other) is not None]
    if any(result.model(other) for other in (*CONTROLS, *BASELINES)):
        return found
    if not result.made_here:
        found.insert(0, Finding("unknown", ALONE))
    elif can_have_control(result.task):
        found.insert(0, Finding("unknown", NO_CONTROL))
    return found


def speed_up(result: EvaluationResult) -> SpeedUp | None:
    """How many times as fast as its teacher the student is; None where they were not timed, or it is not a number.

    A result from before repeats were paired gives the widest bounds that the two intervals allow.
    """
    found = result.speed("student") or _unpaired_speed_up(result)
    return None if found is None or math.isnan(found.ratio.value) else found


def _unpaired_speed_up(result: EvaluationResult) -> SpeedUp | None:
    student, teacher = result.model("student"), result.model("teacher")
    mine, theirs = (None if model is None else model.cost.decode_tokens_per_second for model in (student, teacher))
    if mine is None or theirs is None or min(theirs.value, theirs.low, theirs.high) <= 0:
        return None
    ratio = Interval(mine.value / theirs.value, mine.low / theirs.high, mine.high / theirs.low)
    return SpeedUp("student", "decode", ratio)


def _size_phrase(student: ModelResult, teacher: ModelResult) -> str:
    share = student.cost.parameters / max(1, teacher.cost.parameters)
    return f"has {formatting.percent(share)} of the teacher's parameters"


def _speed_phrase(result: EvaluationResult) -> str:
    speed = speed_up(result)
    if speed is None:
        return "was not timed against it"
    if speed.ratio.low <= 1 <= speed.ratio.high:
        return "shows no difference in speed"
    return f"runs {formatting.ratio(speed.ratio.value)} as fast"


def _standing(result: EvaluationResult, metric: str, interval: Interval, tense: Tense) -> str:
    """What a model scores, as the end of a sentence about it."""
    described = formatting.describe(metric)
    verbs, rest = PHRASES.get(metric, PLAIN_PHRASE)
    value, bounds = (write(interval, described.unit) for write in (formatting.value_text, formatting.bounds_text))
    answers = ANSWERS[result.task]
    return f"{verbs[tense]} {rest.format(title=described.title, value=value, bounds=bounds, answers=answers)}".rstrip()


def _beside_teacher(result: EvaluationResult, metric: str) -> str:
    """The teacher's own value, unless the metric is a distance from the teacher."""
    teacher = result.model("teacher")
    if teacher is None or metric not in teacher.metrics or formatting.is_exact(teacher.metrics[metric]):
        return ""
    return f" (its teacher {formatting.value_text(teacher.metrics[metric], formatting.describe(metric).unit)})"


def _finding(result: EvaluationResult, other: Role, metric: str) -> Finding:
    rows = verdicts(result, other)
    main = next((row for row in rows if row.metric == metric), None)
    model = result.model(other)
    assert model is not None
    tense: Tense = "before" if other == "student_before" else "now" if other in BASELINES else "would"
    standing = (
        _standing(result, metric, model.metrics[metric], tense) if metric in model.metrics else NOT_COMPARABLE[tense]
    )
    sentence = f"{BEGINNINGS[other]} {standing}"
    if main is None:
        return Finding("unknown", f"{sentence}; the difference was not measured, so no gain was shown.")
    dissent = [row for row in rows if row.outcome != main.outcome and row.metric in _worth_a_word(rows, metric)]
    return Finding("mixed" if dissent else main.outcome, f"{sentence}: {_clause(main)}.{_asides(dissent)}")


def _asides(dissent: Sequence[Verdict]) -> str:
    """What other metrics say otherwise: with its numbers where one says it, in one breath where several do."""
    rows: dict[Outcome, list[Verdict]] = {}
    for row in dissent:
        rows.setdefault(row.outcome, []).append(row)
    sentences = [
        f" On {_listed([formatting.describe(row.metric).title for row in same])}, "
        f"{_clause(same[0]) if len(same) == 1 else _short_clause(same[0])}."
        for same in rows.values()
    ]
    return "".join(sentences)


def _short_clause(row: Verdict) -> str:
    """How comparisons of this outcome turned out, without numbers."""
    if row.other in BASELINES and row.outcome != "worse":
        return "the student is better" if row.outcome == "gain" else "no difference was shown"
    if row.outcome == "gain":
        return f"{CAUSES[row.other]} did gain"
    if row.outcome == "none":
        return f"no gain from {CAUSES[row.other]} was shown"
    return (
        "training made the student worse"
        if row.other == "student_before"
        else f"the student is worse than this {_kind(row.other)}"
    )


def _worth_a_word(rows: Sequence[Verdict], headline: str) -> set[str]:
    """Metrics that may add to the headline's; perplexity says nothing that bits per byte has not said."""
    names = {row.metric for row in rows} - {headline}
    return names - {"perplexity"} if "bits_per_byte" in names | {headline} else names


def _clause(row: Verdict) -> str:
    unit = formatting.describe(row.metric).unit
    loss = Interval(-row.gain.value, -row.gain.high, -row.gain.low)
    if row.other in BASELINES and row.outcome == "gain":
        return f"the student is better by {formatting.difference_text(row.gain, unit)}"
    if row.other in BASELINES and row.outcome == "none":
        return f"no difference was shown: {formatting.difference_text(row.gain, unit)} includes 0"
    if row.outcome == "gain":
        return f"{CAUSES[row.other]} gained {formatting.difference_text(row.gain, unit)}"
    if row.outcome == "none":
        return f"no gain from {CAUSES[row.other]} was shown: {formatting.difference_text(row.gain, unit)} includes 0"
    if row.other == "student_before":
        return f"training made the student worse by {formatting.difference_text(loss, unit)}"
    return f"the student is worse than this {_kind(row.other)} by {formatting.difference_text(loss, unit)}"


def _kind(other: Role) -> str:
    return "baseline" if other in BASELINES else "control"


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    return "".join(_with_separators(parts))


def _with_separators(parts: Sequence[str]) -> Iterator[str]:
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        separator = "" if index == 0 else " and " if len(parts) == 2 else ", and " if is_last else ", "
        yield separator + part
