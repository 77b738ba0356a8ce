"""What a model's own texts are worth, by measures that need no judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.results import Interval
from stillhouse.core.rouge import words_of
from stillhouse.data.repetition import repeated_share
from stillhouse.evaluation.intervals import bootstrapped, ratio

REPEATED_RUN = 4
"""Words of a run that counts as said again."""
BOUND = 0.95
"""Share of the held-out originals that themselves pass each bound of the measure of grammar."""
MOST_COMPARED = 100
"""Texts whose self-BLEU is taken: it compares each with all others."""


Measure = Literal["unparsed", "teacher_bits"]
MEASURES: tuple[Measure, ...] = ("unparsed", "teacher_bits")
"""What can tell grammar, the better one first: a parser, and how likely the teacher finds a text."""


@dataclass(frozen=True)
class Written:
    """One text that a model, or whoever wrote the originals, put behind a beginning."""

    beginning: str
    text: str
    """What follows the beginning."""
    lacking: tuple[str, ...] = ()
    """Words that were asked for and are not in beginning or text."""
    asked: int = 0
    """How many words were asked for."""
    teacher_bits: float | None = None
    """Bits per byte that the teacher needs for the text behind its beginning; None of a teacher that is not here."""
    unparsed: float | None = None
    """Share of its sentences, the one that the beginning breaks off in among them, in which a parser finds no grammar; None
    where none is asked."""

    @property
    def words(self) -> int:
        """How many it has."""
        return len(words_of(self.text))

    @property
    def repetition(self) -> float:
        """Share of its letters in runs of four words that came before in it."""
        return repeated_share(words_of(self.text), REPEATED_RUN)


@dataclass(frozen=True)
class GrammarBounds:
    """What a text may lack at most to be called grammatical, and how long it is at least."""

    measure: Measure
    most: float
    repetition: float
    words: int

    def holds(self, one: Written) -> bool:
        """Whether a text is within them."""
        told = getattr(one, self.measure)
        assert told is not None, "all are measured alike"
        return bool(told <= self.most and one.repetition <= self.repetition and one.words >= self.words)


def grammar_bounds(
    originals: Sequence[Written], *, words: int, measures: Sequence[Measure] = MEASURES
) -> GrammarBounds | None:
    """The bounds within which 95 of 100 held-out originals lie: by the first of the measures that is known of all, and in how
    little they repeat. None where none is."""
    for measure in measures:
        told = [getattr(one, measure) for one in originals]
        if None not in told:
            repeated = [one.repetition for one in originals]
            return GrammarBounds(measure, _bound(told), _bound(repeated), words)
    return None


def _bound(values: Sequence[float]) -> float:
    return float(np.quantile(values, BOUND))


def measures_of(
    written: Sequence[Written], copied: Sequence[int], *, bounds: GrammarBounds | None
) -> dict[str, Interval]:
    """Each measure as a mean over texts, with a 95 % interval over texts: words, repetition, the longest run of words that
    was copied; where words were asked for the share of them that is there; what a parser and a teacher made of them, where they
    are here, and the share of texts that are grammatical by the bounds."""
    columns: dict[str, NDArray[np.float64]] = {
        "words": np.array([float(one.words) for one in written]),
        "repetition": np.array([one.repetition for one in written]),
        "copied_words": np.array(copied, dtype=np.float64),
    }
    for name in MEASURES:
        told = [getattr(one, name) for one in written]
        if None not in told:
            columns[name] = np.array(told, dtype=np.float64)
    if bounds is not None:
        columns["grammatical"] = np.array([float(bounds.holds(one)) for one in written])
    statistics = {name: ratio(values, np.ones(len(values))) for name, values in columns.items()}
    asked = np.array([float(one.asked) for one in written])
    if asked.any():
        there = asked - np.array([float(len(one.lacking)) for one in written])
        statistics["required_words"] = ratio(there, np.maximum(asked, 1e-12))
    found = bootstrapped(statistics, set_sizes=[len(written)])
    return {name: one.interval() for name, one in found.items()}


def self_bleu(texts: Sequence[str]) -> float | None:
    """Each text's BLEU against all others, averaged: 1 where all are alike. By sacrebleu; None without it, or of one text.

    Source: Zhu et al., 2018, Texygen, arXiv:1802.01886.
    """
    texts = texts[:MOST_COMPARED]
    if find_spec("sacrebleu") is None or len(texts) < 2:
        return None
    measure: Any = import_module("sacrebleu").BLEU(effective_order=True)
    scores = [
        measure.sentence_score(text, [*texts[:place], *texts[place + 1 :]]).score for place, text in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100
