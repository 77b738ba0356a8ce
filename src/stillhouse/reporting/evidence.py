"""What a sweep's runs support, in words, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from stillhouse.core.results import Interval, Role
from stillhouse.reporting import formatting
from stillhouse.reporting.runs import Group
from stillhouse.reporting.verdicts import CONTROLS

LOSSES = ("bits_per_byte", "cross_entropy", "mean_squared_error", "forward_kl")
"""What a curve over budgets is of: the first that was measured."""

WITHOUT: dict[Role, str] = {
    "control_hard_labels": "training on the text alone",
    "control_from_scratch": "training from scratch",
    "control_hard_labels_flops": "training on the text alone for the same FLOPs",
    "control_from_scratch_flops": "training from scratch for the same FLOPs",
}


@dataclass(frozen=True)
class Budgeted:
    """One setting at one budget, over all of its seeds."""

    tokens: float
    group: Group


@dataclass(frozen=True)
class Setting:
    """The same recipe at several budgets, the smallest first."""

    name: str
    budgets: Sequence[Budgeted]

    @property
    def num_seeds(self) -> int:
        """The fewest seeds that any budget has."""
        return min(len(one.group.entries) for one in self.budgets)


def loss_of(settings: Sequence[Setting]) -> str | None:
    """The loss that all runs have."""
    groups = [one.group for setting in settings for one in setting.budgets]
    return next((name for name in LOSSES if all(group.metric("student", name) for group in groups)), None)


def break_even_lines(setting: Setting, loss: str) -> list[str]:
    """Where learning from the teacher stops to pay, against each control that was trained."""
    lines = [_against(setting, role, loss) for role in CONTROLS]
    found = [line for line in lines if line]
    if not found:
        return [f"{_opening(setting)}: no control was trained, so nothing can be said of a break-even."]
    return found


Outcome = Literal["gain", "none", "worse"]


def outcome_of(gain: Interval) -> Outcome:
    """Ahead or behind only where the whole interval is."""
    return "gain" if gain.low > 0 else "worse" if gain.high < 0 else "none"


def _against(setting: Setting, role: Role, loss: str) -> str:
    gains = [(one.tokens, gain) for one in setting.budgets if (gain := one.group.gain(role, loss)) is not None]
    if not gains:
        return ""
    line = f"{_opening(setting)}, against {WITHOUT[role]}: {_where(gains, formatting.describe(loss).unit)}"
    times = _times(setting, role, loss)
    return f"{line} {times} {_sureness(setting, len(gains))}".replace("  ", " ")


def _opening(setting: Setting) -> str:
    return setting.name or "The recipe"


def _where(gains: Sequence[tuple[float, Interval]], unit: str) -> str:
    outcomes = [outcome_of(gain) for _, gain in gains]
    (first, at_first), (last, at_last) = gains[0], gains[-1]
    spans = (
        f"{formatting.count(first)} to {formatting.count(last)} tokens"
        if len(gains) > 1
        else f"{formatting.count(first)} tokens"
    )
    told = f"{formatting.interval_text(at_first, unit)} at {formatting.count(first)}"
    if len(gains) > 1:
        told += f", {formatting.interval_text(at_last, unit)} at {formatting.count(last)}"
    if set(outcomes) == {"gain"}:
        return f"distilling is ahead at every budget tried ({spans}): by {told}. A break-even, if there is one, lies beyond."
    if set(outcomes) == {"worse"}:
        return f"distilling is behind at every budget tried ({spans}): by {told}."
    if "gain" not in outcomes and "worse" not in outcomes:
        return f"no difference was shown at any budget tried ({spans}): {told}."
    ahead = [place for place, outcome in enumerate(outcomes) if outcome == "gain"]
    if ahead and ahead == list(range(len(ahead))):
        until, after = gains[len(ahead) - 1][0], gains[len(ahead)]
        shown = "it is behind" if outcomes[len(ahead)] == "worse" else "no gain is shown"
        return (
            f"distilling is ahead up to {formatting.count(until)} tokens; at {formatting.count(after[0])} {shown} "
            f"({formatting.interval_text(after[1], unit)}). The break-even lies between the two, or the runs are too few to "
            "see a gain there."
        )
    each = ", ".join(
        f"{_word(one)} at {formatting.count(tokens)}" for one, (tokens, _) in zip(outcomes, gains, strict=True)
    )
    return f"the budgets do not agree ({each}), so no break-even can be named."


def _word(outcome: Outcome) -> str:
    return {"gain": "ahead", "none": "no difference shown", "worse": "behind"}[outcome]


def _times(setting: Setting, role: Role, loss: str) -> str:
    """How many times as many tokens the control needs for what the student has at its smallest budget that can be told."""
    curve = [
        (one.tokens, found.value) for one in setting.budgets if (found := one.group.metric(role, loss)) is not None
    ]
    for one in setting.budgets:
        student = one.group.metric("student", loss)
        needed = None if student is None else tokens_for(student.value, curve)
        if needed is not None and needed > one.tokens:
            return (
                f"What it reaches with {formatting.count(one.tokens)} tokens, the control reaches with about "
                f"{formatting.count(round(needed, -max(0, math.floor(math.log10(needed)) - 1)))} "
                f"({formatting.ratio(needed / one.tokens)} as many; read between measured budgets)."
            )
    return ""


def tokens_for(loss: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """Where a falling curve reaches a loss, on a logarithmic axis between its points; None outside of them."""
    for (tokens, high), (more, low) in pairwise(curve):
        if high >= loss >= low and high > low:
            share = (high - loss) / (high - low)
            return math.exp(math.log(tokens) + share * (math.log(more) - math.log(tokens)))
    return None


def _sureness(setting: Setting, num_compared: int) -> str:
    seeds = setting.num_seeds
    if seeds == 1:
        how = "One seed each: the intervals are over held-out documents alone, and another seed may turn out otherwise."
    else:
        how = f"Each budget has {seeds} seeds, and the intervals count how they differ."
    if num_compared > 1:
        how += f" Of {num_compared} such comparisons one in twenty would show a difference by chance."
    return how


def seeds_line(settings: Sequence[Setting]) -> str:
    """How many runs there are, and how many seeds of each."""
    runs = sum(len(one.group.entries) for setting in settings for one in setting.budgets)
    fewest = min(setting.num_seeds for setting in settings)
    seeds = "one seed each" if fewest == 1 else f"at least {fewest} seeds each"
    budgets = fmean(len(setting.budgets) for setting in settings)
    of = f"{len(settings)} settings" if len(settings) > 1 else "one setting"
    counted = "one budget" if budgets == 1 else f"{budgets:.3g} budgets"
    return f"{runs} run{'s' if runs > 1 else ''} of {of}, {counted}{' each' if len(settings) > 1 else ''}, {seeds}."
