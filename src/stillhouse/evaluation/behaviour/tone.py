"""How an answer sounds: numbers that a reader can check, and how far two models' answers lie apart in each of them.

The lists of words are English; of other languages the counts of sentences, questions, list items and marks alone are worth
something.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from stillhouse.core.behaviour_results import FEATURES, Feature
from stillhouse.core.errors import StillhouseError
from stillhouse.core.results import Interval
from stillhouse.evaluation.intervals import bootstrapped, ratio

BINS = 10
"""Of the teacher's and the other's values together, as many in each as equal values allow."""
SWAPS = 500
"""Random exchanges that show how far two models of one tone lie apart."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_LIST = re.compile(r"^\s*(?:[-*•+]|\d{1,3}[.)])\s+")
_MARKS = re.compile(r"^\s*#{1,6}\s|\*\*[^*]+\*\*|`[^`]+`|^\s*```|^\s*\|.*\|\s*$|^\s*>")

_INFORMAL = re.compile(
    r"\b(?:\w+n't|i'm|you're|we're|they're|i've|you've|we've|i'll|you'll|we'll|i'd|you'd|it's|that's|there's|what's|here's|let's"
    r"|he's|she's|gonna|wanna|gotta|kinda|sorta|yeah|yep|nope|ok|okay|hey|hi|lol|haha|btw|cool|awesome|guys?|stuff|thing|dude"
    r"|cuz|cause|ya|u|ur|pls|plz|thx|wow|oh|um|uh|totally|super|crazy|guess)\b",
    re.I,
)
_POLITE = re.compile(
    r"\b(?:please|thanks?|thank you|kindly|welcome|appreciate[ds]?|pleasure|glad to|happy to|would you|could you|may i"
    r"|if you like|feel free|pardon|excuse me|gladly|respectfully)\b",
    re.I,
)
_HEDGES = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|maybe|seems?|appears?|likely|unlikely|generally|usually|typically|often"
    r"|sometimes|somewhat|relatively|approximately|roughly|about|around|suggests?|i think|i believe|in my opinion|it depends"
    r"|tend to|tends to|can be|not sure|unclear|potentially|presumably|arguably)\b",
    re.I,
)
_APOLOGIES = re.compile(r"\b(?:sorry|apolog(?:y|ies|i[sz]e[ds]?)|i regret|regrettably|forgive me)\b", re.I)
_FIRST = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|ourselves|i'm|i've|i'll|i'd|we're|we've|we'll)\b", re.I)
_SECOND = re.compile(r"\b(?:you|your|yours|yourself|yourselves|you're|you've|you'll|you'd)\b", re.I)


def features(answer: str) -> dict[str, float]:
    """Every feature of one answer, by the names of FEATURES; 0 where there is nothing to count in."""
    plain = answer.replace("’", "'")
    words, lines = _WORD.findall(plain), [line for line in plain.split("\n") if line.strip()]
    sentences = [one for one in _SENTENCE.findall(plain) if _WORD.search(one)]

    def of_words(found: re.Pattern[str]) -> float:
        return 100 * len(found.findall(plain)) / len(words) if words else 0.0

    def of_sentences(sign: str) -> float:
        return sum(one.rstrip().endswith(sign) for one in sentences) / len(sentences) if sentences else 0.0

    def of_lines(found: re.Pattern[str]) -> float:
        return sum(bool(found.search(line)) for line in lines) / len(lines) if lines else 0.0

    return {
        "words": float(len(words)),
        "sentence_words": len(words) / len(sentences) if sentences else 0.0,
        "word_letters": sum(map(len, words)) / len(words) if words else 0.0,
        "informal": of_words(_INFORMAL),
        "polite": of_words(_POLITE),
        "hedges": of_words(_HEDGES),
        "apologies": of_words(_APOLOGIES),
        "first_person": of_words(_FIRST),
        "second_person": of_words(_SECOND),
        "sentiment": sentiment(plain),
        "questions": of_sentences("?"),
        "exclamations": of_sentences("!"),
        "list_lines": of_lines(_LIST),
        "marks": of_lines(_MARKS),
    }


def sentiment(text: str) -> float:
    """VADER's compound score, from -1 to 1: a lexicon made for English short messages.

    Source: Hutto and Gilbert, 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
    """
    return float(_vader().polarity_scores(text)["compound"])


@cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise StillhouseError(
            "the suite 'behaviour' needs vaderSentiment, which is not installed here: pip install 'stillhouse[eval]'."
        ) from None
    return SentimentIntensityAnalyzer()


def js_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Jensen-Shannon distance of two samples, over bins that both fill together: 0 where they fill them alike, 1 where they
    share none. Of few values it is never 0, not even of one model twice.

    Source: Endres and Schindelin, 2003, IEEE Transactions on Information Theory 49, 1858-1860.
    """
    filled = _filled(np.array([*one, *other], dtype=float))
    return float(_distance(filled[: len(one)].sum(0, keepdims=True), filled[len(one) :].sum(0, keepdims=True))[0])


def _filled(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of each value a 1 at its place among bins that hold as many each: `[values, bins]`. Equal values are in one bin."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    places = np.searchsorted(edges, values, side="left")  # so that 0 is alone where most are 0
    return np.eye(int(places.max()) + 1, dtype=np.int64)[places]


def _distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Of each two rows of counts, a bin each: `[rows, bins]`."""
    p, q = (counts / counts.sum(1, keepdims=True) for counts in (one, other))
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.sqrt(np.maximum(0.0, divergence))


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, in bits."""
    return rel_entr(p, q).sum(1) / np.log(2)


def compared(teacher: Sequence[str], model: Sequence[str], *, seed: int = 0) -> list[Feature]:
    """Every feature of two models' answers to the same prompts; the furthest apart beyond chance come first."""
    theirs, ours = ([features(one) for one in side] for side in (teacher, model))
    found = [_compared(name, _column(theirs, name), _column(ours, name), seed) for name in FEATURES]
    return sorted(found, key=lambda one: one.by_chance - one.distance)


def _column(rows: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows])


def _compared(name: str, theirs: NDArray[np.float64], ours: NDArray[np.float64], seed: int) -> Feature:
    return Feature(
        name,
        float(theirs.mean()),
        float(ours.mean()),
        mean_change(ours, theirs),
        js_distance(theirs.tolist(), ours.tolist()),
        _distance_by_chance(theirs, ours, seed),
    )


def mean_change(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Interval:
    """The mean of the differences, prompt by prompt, by a bootstrap over prompts."""
    differences = ours - theirs
    statistics: Mapping[str, Callable[..., Any]] = {"change": ratio(differences, np.ones_like(differences))}
    return bootstrapped(statistics, set_sizes=[len(differences)])["change"].interval()


def _distance_by_chance(theirs: NDArray[np.float64], ours: NDArray[np.float64], seed: int) -> float:
    """The 95th percentile where the two answers to a prompt change places like a coin falls."""
    filled, random = _filled(np.concatenate([theirs, ours])), np.random.default_rng(seed)
    one, other = filled[: len(theirs)], filled[len(theirs) :]
    moved = (random.random((SWAPS, len(one))) < 0.5).astype(np.int64) @ (other - one)
    return float(np.quantile(_distance(one.sum(0) + moved, other.sum(0) - moved), 0.95))
