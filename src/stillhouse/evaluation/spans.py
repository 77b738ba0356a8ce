"""Spans in a row of BIO tags, and how many were found."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.evaluation.intervals import Statistic
from stillhouse.evaluation.statistics import quotient

Span = tuple[str, int, int]
"""Kind, first token, and the token after the last."""


def are_spans(tags: Sequence[str]) -> bool:
    """Whether the tags are BIO: `O`, and kinds that begin with `B-` or go on with `I-`."""
    return any(tag.startswith("B-") for tag in tags) and all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of one document. An `I-` that continues nothing of its kind begins a span, as conlleval has it."""
    found: set[Span] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        if tag != f"I-{kind}":
            if kind:
                found.add((kind, start, place))
            kind, start = ("" if tag == "O" else tag[2:]), place
    return found


def span_f1(
    chosen: NDArray[np.int64], target: NDArray[np.int64], document: NDArray[np.int64], tags: Sequence[str]
) -> Statistic:
    """F1 of whole spans, over all kinds together; `document` counts from 0, in order."""
    breaks = np.flatnonzero(np.diff(document)) + 1
    rows = zip(np.split(chosen, breaks), np.split(target, breaks), strict=True)
    counts = np.array([_counts([tags[i] for i in ours], [tags[i] for i in right]) for ours, right in rows])
    both, either = 2 * counts[:, 0], counts[:, 1]
    return lambda draws: quotient(draws @ both, draws @ either)


def _counts(ours: Sequence[str], right: Sequence[str]) -> tuple[float, float]:
    """Spans in both, and spans in either counted apart."""
    named, actual = spans(ours), spans(right)
    return float(len(named & actual)), float(len(named) + len(actual))
