"""What every model writes after the same beginning, as much of it as fits into the file."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.core.results import BASELINES, Role, Sample
from stillhouse.reporting import formatting
from stillhouse.reporting.shapes import truncated
from stillhouse.reporting.verdicts import CONTROLS, SHORT_TITLES

SAMPLE_BYTES = 1_200_000  # of escaped text; with curves and recipe the file stays well under 3 MB

SAMPLE_CHARACTERS = 1_500

SAMPLES_OPEN = 3

SAMPLE_ORDER: Sequence[Role] = ("teacher", "student", "student_before", *CONTROLS, *BASELINES)


@dataclass(frozen=True)
class Writer:
    """What one model wrote for a sample: the beginning it shares with the teacher's text, then its own."""

    role: Role
    title: str
    shared: str
    own: str
    left_out: str


@dataclass(frozen=True)
class SampleView:
    """A prompt and what every model made of it."""

    prompt: str
    left_out: str
    writers: Sequence[Writer]


@dataclass(frozen=True)
class SamplesView:
    """The section: as many samples as fit, and what was left out."""

    samples: Sequence[SampleView]
    note: str
    num_open: int = SAMPLES_OPEN


def samples_view(samples: Sequence[Sample]) -> SamplesView | None:
    """The whole section; None where nobody wrote anything."""
    views = sample_views(samples)
    return SamplesView(views, _samples_note(len(views), len(samples))) if views else None


def sample_views(samples: Sequence[Sample]) -> list[SampleView]:
    """As many samples as fit into the file, from the first on."""
    views: list[SampleView] = []
    spent_bytes = 0
    for sample in samples:
        view = _sample_view(sample)
        spent_bytes += _escaped_bytes(view)
        if spent_bytes > SAMPLE_BYTES:
            break
        views.append(view)
    return views


def _sample_view(sample: Sample) -> SampleView:
    prompt, left_out = truncated(formatting.clean(sample.prompt), SAMPLE_CHARACTERS)
    teacher = sample.continuations.get("teacher", "")
    roles = [role for role in SAMPLE_ORDER if role in sample.continuations]
    return SampleView(prompt, left_out, [_writer(role, sample.continuations[role], teacher) for role in roles])


def _writer(role: Role, text: str, teacher_text: str) -> Writer:
    shown, left_out = truncated(formatting.clean(text), SAMPLE_CHARACTERS)
    shared = 0 if role == "teacher" else _shared_characters(shown, formatting.clean(teacher_text))
    return Writer(role, SHORT_TITLES[role], shown[:shared], shown[shared:], left_out)


def _shared_characters(one: str, two: str) -> int:
    """Length of the common beginning, in whole words."""
    length = next(
        (index for index, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    if length == len(one) or one[length].isspace():
        return length
    return max(one.rfind(" ", 0, length), one.rfind("\n", 0, length)) + 1


def _escaped_bytes(view: SampleView) -> int:
    texts = [view.prompt, *(writer.shared + writer.own for writer in view.writers)]
    markup_bytes = 200 * len(texts)
    return markup_bytes + sum(len(html.escape(text).encode()) for text in texts)


def _samples_note(num_shown: int, num_samples: int) -> str:
    if num_shown == num_samples:
        return ""
    shown, all_samples = formatting.count(num_shown), formatting.count(num_samples)
    return f"The first {shown} of {all_samples} samples: more would make this page slow to open."
