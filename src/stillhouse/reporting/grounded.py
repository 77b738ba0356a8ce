"""What the report and the terminal say of answers over retrieved passages."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.core.grounded_results import (
    GROUNDED_METRICS,
    GroundedExample,
    GroundedReading,
    GroundedResult,
    Latency,
    PairReading,
    Size,
    SupportAccount,
    grounded_result,
)
from stillhouse.core.results import Interval, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import Cell, Prose, Row, Table
from stillhouse.reporting.verdicts import ROLE_ORDER, SHORT_TITLES

RIGHT = ("token_f1", "exact_match", "token_recall", "rouge_l", "teacher_f1")
BORNE_OUT = ("answered", "k_precision", "bigram_precision", "unsupported", "embedded_support", "judged_support")
SAID_SO = (
    "abstention_precision",
    "abstention_recall",
    "over_refusal",
    "both_told",
    "citation_precision",
    "citation_recall",
)
ABLATION = ("token_f1", "exact_match", "answered", "k_precision")
CONDITIONS = {
    "as_read": "over its passages",
    "without_passages": "without passages",
    "shuffled": "passages in another order",
}
SHOWN_CHARACTERS = 240

WEAKNESSES = (
    "All of this is by words. Unsupported content is what no passage has: whether it is true, words do not say, and a wrong "
    "name out of the same passages is not found. Short answers score high in K-precision, and who always abstains has nothing "
    "unsupported: read it beside the answer rate.",
    "Whether passages tell is known by the words of a right answer, so that a short one, such as a number, may stand there by "
    "chance. Abstentions are found by the template's own words and by English patterns.",
)


SUPPORT_BLIND = {
    "embedded_support": "embeddings see what a sentence is about, so that a wrong name or a denial lies as near as the truth.",
    "judged_support": "a judge may take what is fluent, or what it knows itself, for what the passages say.",
}


def grounded_view(account: Mapping[str, Any] | None) -> Prose | None:
    """The whole section; None for other data."""
    if not account or not account.get("result"):
        return None
    found = grounded_result(account["result"])
    tables = [
        _readings_table("Right or not, where the passages tell the answer.", found, RIGHT),
        _readings_table("Borne out by the passages, of the answers that were given.", found, BORNE_OUT),
        _readings_table("Left unsaid where nothing tells, and cited where something does.", found, SAID_SO),
        _ablations(found),
        *([_pairs_table(found.pairs)] if found.pairs else []),
        *([_latency_table(found.latencies)] if found.latencies else []),
        *([_sizes_table(found.sizes)] if found.sizes else []),
        *([_examples_table(found.examples)] if found.examples else []),
    ]
    notes = [*WEAKNESSES, *(_support_note(one) for one in found.supports)]
    return Prose(grounded_lines(account), tables, intro=_intro(account), notes=notes)


def _support_note(one: SupportAccount) -> str:
    """Who said so, and what it says where everything is wrong."""
    title, by = GROUNDED_METRICS[one.metric].title, formatting.one_line(one.by)
    error = (
        "" if one.error is None else f" Beside another question's passages it calls {_share_text(one.error)} of the "
    )
    error += "" if one.error is None else "teacher's answers borne out, all of them wrongly."
    untold = f" Of {formatting.count(one.asked)} answers, {formatting.count(one.untold)} got no reply that can be read."
    blind = SUPPORT_BLIND[one.metric]
    return f"{title[0].upper()}{title[1:]}, by {by}: {blind}{error}{untold if one.untold else ''}"


def _share_text(share: Interval) -> str:
    return formatting.interval_text(share, "share")


def _intro(account: Mapping[str, Any]) -> str:
    mixture = ", ".join(f"{formatting.count(number)} {kind}" for kind, number in account["mixture"].items())
    return f"Teacher and student read the same passages in the same order. All questions were answered over: {mixture}."


def grounded_lines(account: Mapping[str, Any]) -> list[str]:
    """What a reader wants to know first."""
    found = grounded_result(account["result"])
    lines = [
        f"{formatting.count(found.questions)} held-out questions; the passages of {formatting.count(found.told)} tell the "
        f"answer, those of {formatting.count(found.untold)} do not."
    ]
    kept = (found.kept or {}).get("student", {})
    if kept:
        shares = [
            f"{formatting.interval_text(share, 'share')} of its teacher's {GROUNDED_METRICS[name].title}"
            for name, share in kept.items()
        ]
        lines.append(f"The student keeps {' and '.join(shares)}.")
    for row in found.comparisons:
        if row.metric == "token_f1" and row.other != "teacher":
            difference = formatting.difference_text(row.difference, "share")
            lines.append(f"Token F1 beside {SHORT_TITLES[row.other]}: {difference}.")
    lines += _ablation_lines(found)
    if found.speed_up is not None:
        as_long = found.speed_up_as_long
        if_longer = "" if as_long is None else f", and {_times(as_long)} had it written as much"
        lines.append(
            f"From question to last word the student is {_times(found.speed_up)} as fast as the teacher, one question at a "
            f"time{if_longer}."
        )
    if account.get("over_refusals"):
        number = formatting.count(account["over_refusals"])
        lines.append(f"The teacher over-refused {number} times; those answers were dropped.")
    return lines


def _times(gain: Interval) -> str:
    return formatting.interval_text(gain, "times")


def _ablation_lines(found: GroundedResult) -> list[str]:
    own, alone = (found.reading("student", one) for one in ("as_read", "without_passages"))
    if own is None or alone is None or not {"token_f1"} <= own.metrics.keys() & alone.metrics.keys():
        return []
    with_them, without = (formatting.interval_text(one.metrics["token_f1"], "share") for one in (own, alone))
    return [f"The student's token F1 is {with_them} over its passages and {without} without any."]


def _title(role: Role) -> str:
    return SHORT_TITLES[role]


def _cell(interval: Interval | None, unit: str = "share") -> Cell:
    if interval is None:
        return Cell("–")
    return Cell(formatting.value_text(interval, unit), formatting.bounds_text(interval, unit))


def _columns(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(GROUNDED_METRICS[name].title, f"{GROUNDED_METRICS[name].better} is better") for name in names]


def _ordered(found: GroundedResult) -> list[GroundedReading]:
    own = [one for one in found.readings if one.condition == "as_read"]
    return sorted(own, key=lambda one: ROLE_ORDER.index(one.role))


def _readings_table(caption: str, found: GroundedResult, names: Sequence[str]) -> Table:
    shown = [name for name in names if any(name in one.metrics for one in found.readings)]
    rows = [
        Row(_title(one.role), "", one.role, [_cell(one.metrics.get(name)) for name in shown]) for one in _ordered(found)
    ]
    return Table(caption, "model", _columns(shown), rows)


def _ablations(found: GroundedResult) -> Table:
    shown = [name for name in ABLATION if any(name in one.metrics for one in found.readings)]
    roles = {one.role for one in found.readings if one.condition != "as_read"}
    rows = [
        Row(_title(one.role), CONDITIONS[one.condition], one.role, [_cell(one.metrics.get(name)) for name in shown])
        for one in found.readings
        if one.role in roles
    ]
    rows.sort(key=lambda row: ROLE_ORDER.index(row.role))
    caption = "The same questions without passages, which tell what was known anyway, and with them in another order."
    return Table(caption, "model", _columns(shown), rows)


def _pairs_table(pairs: Sequence[PairReading]) -> Table:
    shown = list(dict.fromkeys(name for one in pairs for name in one.metrics))
    rows = [
        Row(
            formatting.one_line(one.retriever),
            f"and the {_title(one.role)}",
            one.role,
            [_cell(one.found), *(_cell(one.metrics.get(name)) for name in shown)],
        )
        for one in pairs
    ]
    columns = [("found", "questions whose passages tell"), *_columns(shown)]
    return Table(
        "Each retriever with each generator, over what is found as it comes: what was not found counts as wrong.",
        "pair",
        columns,
        rows,
    )


def _latency_table(latencies: Sequence[Latency]) -> Table:
    rows = [
        Row(
            _title(one.who) if one.who in SHORT_TITLES else formatting.one_line(one.who),  # type: ignore[arg-type]
            one.part,
            one.who if one.who in SHORT_TITLES else "",
            [Cell(formatting.significant(one.p50)), Cell(formatting.significant(one.p95))],
        )
        for one in latencies
    ]
    columns = [("p50", "milliseconds, lower is better"), ("p95", "milliseconds, lower is better")]
    caption = (
        "How long one question takes, alone: passages found, prompt read to the first token, answer written, and all."
    )
    return Table(caption, "part", columns, rows)


def _sizes_table(sizes: Sequence[Size]) -> Table:
    rows = [
        Row(
            _title(one.who) if one.who in SHORT_TITLES else formatting.one_line(one.who),  # type: ignore[arg-type]
            one.what,
            one.who if one.who in SHORT_TITLES else "",
            [Cell(formatting.si(one.bytes, "B"))],
        )
        for one in sizes
    ]
    caption = (
        "What it takes: an index on disk with its passages, and a model's most memory while it answers one question."
    )
    return Table(caption, "who", [("size", "lower is better")], rows)


def _examples_table(examples: Sequence[GroundedExample]) -> Table:
    roles = [role for role in ROLE_ORDER if any(role in one.answers for one in examples)]
    rows = [
        Row(
            formatting.one_line(one.question),
            _below(one),
            "",
            [Cell(formatting.one_line(one.answers.get(role, ""))[:SHOWN_CHARACTERS]) for role in roles],
        )
        for one in examples
    ]
    return Table(
        "The first held-out question of each kind of context.", "question", [(_title(role), "") for role in roles], rows
    )


def _below(one: GroundedExample) -> str:
    right = f"; right: {formatting.one_line(one.right[0])}" if one.right else ""
    return f"{one.mix}, {len(one.passages)} passages{right}"[:SHOWN_CHARACTERS]
