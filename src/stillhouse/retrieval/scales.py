"""How far scores of one question spread, before anybody trains on them: which temperature, which scale, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import DataError
from stillhouse.retrieval.teachers import Output

Table = NDArray[np.float64]
"""[questions, candidates], the positive first."""

UNDERFLOW = 100.0
"""A float32 softmax gives exactly 0 to what lies further below the best than this, in temperatures."""

FROM_ITS_BEST = 0.5
"""The entropy that a proposed temperature gives, as a share of that of equal candidates: neither one passage nor all alike."""


@dataclass(frozen=True)
class Side:
    """One side's scores of the same candidates."""

    deviation: float
    """Standard deviation over a question's candidates, averaged over questions."""
    reach: float
    """Highest less lowest score of a question, averaged over questions."""
    margin: float
    """How far the positive lies above the negatives, on average."""
    entropy: float
    """Of the softmax at the temperature in use, in nats, averaged over questions."""
    candidates: float
    """How many candidates that softmax really chooses between: the exponential of each entropy, averaged."""
    temperature: float
    """In use."""
    proposed: float
    """At which the entropy is half of what equal candidates have."""


@dataclass(frozen=True)
class ScaleCheck:
    """Both sides, and what to do about them."""

    teacher: Side
    student: Side
    output: Output
    scale: float
    """By which the student's margins would spread as the teacher's do: for margin_mse and score_mse."""
    lost: float
    """Share of candidates whose probability under the teacher's temperature is 0 in float32."""
    advice: tuple[str, ...]


def check_scales(
    teacher: Table,
    student: Table,
    *,
    output: Output,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    scale: float = 1.0,
    objectives: Sequence[str] = (),
) -> ScaleCheck:
    """Look at both sides' scores of the same candidates, with what the objectives are about to do with them.

    Raises:
        DataError: if margins or scores themselves are to be matched and the teacher's are probabilities: a sigmoid has
            pressed all good passages together.
    """
    refuse_probabilities(teacher, output=output, objectives=objectives)
    ours = _side(student, student_temperature)
    theirs = _side(teacher, teacher_temperature)
    fitting = theirs.deviation / max(ours.deviation, 1e-12)
    lost = float(np.mean((teacher.max(1, keepdims=True) - teacher) / teacher_temperature > UNDERFLOW))
    advice = list(_advice(theirs, ours, scale=scale, fitting=fitting, lost=lost, objectives=objectives))
    return ScaleCheck(theirs, ours, output, fitting, lost, tuple(advice))


def refuse_probabilities(teacher: Table, *, output: Output, objectives: Sequence[str]) -> None:
    """See `check_scales`."""
    matched = [name for name in objectives if name in ("margin_mse", "score_mse")]
    if matched and output == "probability":
        raise DataError(
            f"the teacher's scores are probabilities (from {teacher.min():.3f} to {teacher.max():.3f}), and {matched[0]} "
            "matches them as they are: a sigmoid presses all good passages together. Take the cross-encoder's raw logits "
            "(activation_fn=Identity()), or use listwise_kl."
        )


def looks_like_probabilities(scores: Table) -> bool:
    """Whether scores of an unknown unit are probabilities: all within [0, 1], and most of them near one of its ends."""
    inside = float(scores.min()) >= 0 and float(scores.max()) <= 1
    return inside and float(np.mean((scores < 0.05) | (scores > 0.95))) > 0.5


def _side(scores: Table, temperature: float) -> Side:
    entropies = entropies_of(scores / temperature)
    return Side(
        deviation=float(scores.std(1).mean()),
        reach=float((scores.max(1) - scores.min(1)).mean()),
        margin=float((scores[:, :1] - scores[:, 1:]).mean()),
        entropy=float(entropies.mean()),
        candidates=float(np.exp(entropies).mean()),
        temperature=temperature,
        proposed=proposed_temperature(scores),
    )


def entropies_of(scores: Table) -> NDArray[np.float64]:
    """Of each question's softmax, in nats."""
    logits = scores - scores.max(1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return np.asarray(-(np.exp(logprobs) * logprobs).sum(1), dtype=np.float64)


def proposed_temperature(scores: Table) -> float:
    """The temperature at which a question's candidates have half the entropy, on average, that equal ones would have. It goes
    with the scores: of scores ten times as large it is ten times as large.
    """
    wanted = FROM_ITS_BEST * float(np.log(scores.shape[1]))
    spread = max(float(scores.std(1).mean()), 1e-12)
    low, high = spread * 1e-3, spread * 1e3
    for _ in range(60):  # halves the distance each time, on a scale of ratios
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if float(entropies_of(scores / middle).mean()) < wanted else (low, middle)
    return float(f"{np.sqrt(low * high):.2g}")


def _advice(
    teacher: Side, student: Side, *, scale: float, fitting: float, lost: float, objectives: Sequence[str]
) -> list[str]:
    said = []
    if "listwise_kl" in objectives:
        for name, side in {"teacher": teacher, "student": student}.items():
            if not 1 / 3 < side.temperature / side.proposed < 3:
                said.append(
                    f"{name}_temperature is {side.temperature:g}, at which the {name} chooses between {side.candidates:.1f} "
                    f"candidates of a question; {side.proposed:g} would be in the middle."
                )
        if lost > 0.01:
            said.append(f"{lost:.0%} of the candidates have a probability of 0 under teacher_temperature: raise it.")
    matching = [name for name in objectives if name in ("margin_mse", "score_mse")]
    if matching and not 1 / 5 < scale / fitting < 5:
        said.append(
            f"{matching[0]} compares the student's scores, times {scale:g}, with a teacher's that spread {fitting:.3g} times "
            f"as far: scale {fitting:.2g} would bring them together."
        )
    return said
