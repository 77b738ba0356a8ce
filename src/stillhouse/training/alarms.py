"""What goes wrong while a student learns from its own answers, told from the numbers of its steps.

An alarm is a sentence with its figures, or None. Each compares the means of the first and of the last `WINDOW` steps that have
a number, and says nothing before there are two windows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

WINDOW = 10
"""Steps of a mean: of one step's few answers, length and agreement jump about."""

GROWN = 1.5
"""Times as long as at first. Longer answers alone are no fault: fewer of them must end, too."""
FINISHED_LOST = 0.2
COLLAPSED = 0.25
"""Share of the first length that is left of it. Answers of fewer than `SHORT` tokens have nothing to lose."""
SHORT = 4
HARDLY_ANY = 0.05
"""Share of answers that end by themselves. Where only one in twenty does, the end of a text is not being learnt."""
CERTAIN_NATS = 0.1
"""Of a token. Chat models have 0.5 to 2; below this hardly any second answer to a prompt differs from the first."""
ENTROPY_LOST = 0.25
"""Share of the first entropy. One that was near 0 from the start, as at short facts, has not collapsed."""
AGREEMENT_LOST = 0.1
"""Of all tokens, from the best window to the last: several times what chance moves a window's mean by."""
ERRORS = 2.0
"""Standard errors by which a mean over the same prompts must have moved to be more than chance."""
WEIGHTLESS = 0.25
"""Share of rows from which nothing is learnt."""

Steps = Sequence[Mapping[str, float]]
"""Each step's numbers as in `metrics.jsonl`, among them those of `Watch`."""


@dataclass(frozen=True)
class _Course:
    """How one number went."""

    first: float
    best: float
    last: float
    since: int
    """The first step of the last window."""


def _course(steps: Steps, name: str) -> _Course | None:
    """None before there are two windows of steps with this number."""
    lines = [line for line in steps if name in line]
    if len(lines) < 2 * WINDOW:
        return None
    values = [line[name] for line in lines]
    means = [fmean(values[end - WINDOW : end]) for end in range(WINDOW, len(values) + 1)]
    return _Course(means[0], max(means), means[-1], int(lines[-WINDOW]["step"]))


def answers_grow(steps: Steps, *, most_tokens: int) -> str | None:
    """Answers get longer, and fewer of them end."""
    tokens, finished = _course(steps, "answer_tokens"), _course(steps, "finished_share")
    if tokens is None or finished is None:
        return None
    if tokens.last < GROWN * tokens.first or finished.last > finished.first - FINISHED_LOST:
        return None
    return (
        f"answers grow to the limit of {most_tokens} tokens: {tokens.last:.0f} since step {tokens.since} where the first had "
        f"{tokens.first:.0f}, and {finished.last:.0%} of them end where {finished.first:.0%} did"
    )


def answers_collapse(steps: Steps, *, most_tokens: int) -> str | None:
    """Answers shrink to nothing."""
    tokens = _course(steps, "answer_tokens")
    if tokens is None or tokens.first < SHORT or tokens.last > COLLAPSED * tokens.first:
        return None
    return (
        f"answers shrink to {tokens.last:.1f} tokens since step {tokens.since}, where the first had {tokens.first:.0f}"
    )


def end_never_learnt(steps: Steps, *, most_tokens: int) -> str | None:
    """Hardly any answer ends by itself, and none of the windows was better."""
    finished = _course(steps, "finished_share")
    if finished is None or finished.best > HARDLY_ANY:
        return None
    return f"{finished.last:.0%} of the answers end before {most_tokens} tokens since step {finished.since}, and never more did"


def entropy_collapses(steps: Steps, *, most_tokens: int) -> str | None:
    """The student is sure of every token that it writes."""
    entropy = _course(steps, "answer_entropy")
    if entropy is None or entropy.last > min(CERTAIN_NATS, ENTROPY_LOST * entropy.first):
        return None
    return (
        f"the student's entropy on its own answers fell to {entropy.last:.3f} nats a token since step {entropy.since}, from "
        f"{entropy.first:.2f} at first"
    )


def agreement_falls(steps: Steps, *, most_tokens: int) -> str | None:
    """Teacher and student name the same likeliest token less and less often."""
    agreement = _course(steps, "top1_agreement")
    if agreement is None or agreement.last > agreement.best - AGREEMENT_LOST:
        return None
    return (
        f"the likeliest tokens of teacher and student agree on {agreement.last:.0%} since step {agreement.since}, where "
        f"{agreement.best:.0%} was reached"
    )


def rows_without_weight(steps: Steps, *, most_tokens: int) -> str | None:
    """Nothing is learnt from many rows."""
    weightless = _course(steps, "weightless_share")
    if weightless is None or weightless.last <= WEIGHTLESS:
        return None
    return f"{weightless.last:.0%} of the rows carry no weight since step {weightless.since}"


ALARMS: Mapping[str, Callable[..., str | None]] = {
    alarm.__name__: alarm
    for alarm in (
        answers_grow,
        answers_collapse,
        end_never_learnt,
        entropy_collapses,
        agreement_falls,
        rows_without_weight,
    )
}


def alarms(steps: Steps, *, most_tokens: int) -> dict[str, str]:
    """What is wrong now, by name."""
    found = {name: alarm(steps, most_tokens=most_tokens) for name, alarm in ALARMS.items()}
    return {name: sentence for name, sentence in found.items() if sentence is not None}


@dataclass(frozen=True)
class Inspected:
    """What was found of a student after a step, prompt by prompt: the same prompts at every step."""

    step: int
    rewards: Sequence[float]
    """Of its answers; NaN where there is none."""
    agreements: Sequence[float]
    """Share of a held-out text's tokens of which teacher and student name the same likeliest."""


def reward_outruns_agreement(before: Sequence[Inspected], now: Inspected) -> str | None:
    """The reward of the student's answers has risen since some earlier step, and its agreement with the teacher has fallen,
    each by more than chance: the reward is being learnt, and not the teacher. Either alone is no fault.
    """
    for then in before:
        rise, fall = _moved(then.rewards, now.rewards), _moved(now.agreements, then.agreements)
        if rise > 0 and fall > 0:
            return (
                f"the reward of held-out answers has risen by {rise:.3g} since step {then.step}, while agreement with the "
                f"teacher has fallen by {fall:.1%}: the student learns the reward, and not the teacher"
            )
    return None


def _moved(one: Sequence[float], other: Sequence[float]) -> float:
    """By how much a mean over the same prompts has risen; 0 where that may be chance."""
    rises = [b - a for a, b in zip(one, other, strict=True) if not math.isnan(a + b)]
    if len(rises) < 2:
        return 0.0
    return fmean(rises) if fmean(rises) > ERRORS * stdev(rises) / math.sqrt(len(rises)) else 0.0
