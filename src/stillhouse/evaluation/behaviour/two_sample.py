"""Whether a classifier can tell two models' answers apart, and by what: if it cannot, neither can a reader by those signs."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import StillhouseError
from stillhouse.core.results import Interval
from stillhouse.evaluation.intervals import DEVIATIONS, LEVELS

FOLDS = 5
FEWEST_PROMPTS = 2 * FOLDS
"""Of fewer, nothing could be learnt and tried on others."""
DRAWS = 1000
TELLING = 8
"""Pieces of text that are shown of each side."""


def check_installed() -> None:
    """Say now what would be missed later.

    Raises:
        StillhouseError: if a package is missing.
    """
    for module, package in (("sklearn", "scikit-learn"), ("vaderSentiment", "vaderSentiment")):
        if find_spec(module) is None:
            raise StillhouseError(
                f"the suite 'behaviour' needs {package}, which is not installed here: pip install 'stillhouse[eval]'."
            )


def told_apart(teacher: Sequence[str], model: Sequence[str], *, seed: int = 0) -> tuple[Interval, list[str], list[str]]:
    """AUC of a logistic regression over character n-grams that is to tell the model's answers from the teacher's, and the
    pieces of text by which it knows the one and the other. Both answers to a prompt are in one fold, so that what a prompt is
    about tells nothing; 0.5 where it cannot tell.

    Source: Lopez-Paz and Oquab, 2017, arXiv:1610.06545.
    """
    texts, labels, groups = _sides(teacher, model)
    scores = _scores(texts, labels, groups, seed=seed)
    learnt = _classifier().fit(texts, labels)
    names = learnt[0].get_feature_names_out()
    order = np.argsort(learnt[1].coef_[0])
    return auc(scores, labels, groups), _telling(names, order), _telling(names, order[::-1])


def by_length(teacher: Sequence[str], model: Sequence[str], *, seed: int = 0) -> Interval:
    """The same, but that the number of words is all that the classifier reads."""
    texts, labels, groups = _sides(teacher, model)
    lengths = np.log1p([[len(text.split())] for text in texts])
    return auc(_scores(lengths, labels, groups, seed=seed, is_text=False), labels, groups)


def _sides(teacher: Sequence[str], model: Sequence[str]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    number = len(teacher)
    assert number == len(model) >= FEWEST_PROMPTS, "too few prompts to learn from some and to be tried on others"
    return [*teacher, *model], np.repeat([0, 1], number), np.tile(np.arange(number), 2)


def _classifier(is_text: bool = True) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Letters within words and at their ends, case and marks as they are: those are a matter of tone too.
    reads = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, 4), lowercase=False, sublinear_tf=True, max_features=20_000
    )
    return make_pipeline(reads if is_text else StandardScaler(), LogisticRegression(C=10.0, max_iter=1000))


def _scores(
    texts: Any, labels: NDArray[np.int64], groups: NDArray[np.int64], *, seed: int, is_text: bool = True
) -> NDArray[np.float64]:
    """Of each text the log-odds by a classifier that has seen neither it nor the other answer to its prompt. Each fold's are
    centred: another fold's classifier may be surer of one side."""
    folds = np.random.default_rng(seed).permutation(groups.max() + 1) % FOLDS
    scores = np.zeros(len(labels))
    for fold in range(FOLDS):
        unseen = folds[groups] == fold
        known, asked = ([texts[n] for n in np.flatnonzero(side)] for side in (~unseen, unseen))
        found = _classifier(is_text).fit(known, labels[~unseen]).decision_function(asked)
        scores[unseen] = found - found.mean()
    return scores


def auc(scores: NDArray[np.float64], labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Interval:
    """How often a text of side 1 scores higher than one of side 0, ties being half. The interval is the wider, on either side,
    of a bootstrap over groups and of `auc_interval`: of two sides without one text between them every draw is separate too.
    """
    number = int(groups.max()) + 1
    draws = np.random.default_rng(0).integers(0, number, (DRAWS, number))
    times = np.stack([np.bincount(draw, minlength=number) for draw in draws])
    value, drawn = float(_auc(scores, labels, np.ones((1, len(scores))))[0]), _auc(scores, labels, times[:, groups])
    if not np.isfinite(drawn).any():
        return Interval(value, -np.inf, np.inf)
    low, high = np.nanquantile(drawn, LEVELS)
    wide = auc_interval(value, *(int((labels == side).sum()) for side in (0, 1)))
    return Interval(value, min(float(low), wide.low), max(float(high), wide.high))


def auc_interval(value: float, num_theirs: int, num_ours: int) -> Interval:
    """An AUC of so many texts a side: as wide as they are few, also at 0 and 1. Takes the texts to be independent.

    Source: Newcombe, 2006, Statistics in Medicine 25, 559-573, method 5: Hanley and McNeil's variance at the bound itself.
    """
    pairs, others = num_theirs * num_ours, (num_theirs + num_ours) / 2 - 1

    def is_inside(bound: float) -> bool:
        spread = 1 + others * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        return (value - bound) ** 2 <= DEVIATIONS**2 * bound * (1 - bound) * spread / pairs

    return Interval(value, _farthest(value, 0.0, is_inside), _farthest(value, 1.0, is_inside))


def _farthest(inside: float, outside: float, is_inside: Callable[[float], bool]) -> float:
    """Where it ends, by halving; `outside` itself where it never does."""
    if inside == outside or is_inside(outside):
        return outside
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return inside


def _auc(scores: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """The Mann-Whitney statistic under each row of weights; not a number where one side has none."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan))  # equal scores are one rank
    ours, theirs = (np.add.reduceat((weights * (labels == side))[:, order], starts, axis=1) for side in (1, 0))
    below = np.cumsum(theirs, axis=1) - theirs / 2
    total = ours.sum(1) * theirs.sum(1)
    return np.where(total > 0, (ours * below).sum(1) / np.maximum(total, 1), np.nan)


def _telling(names: NDArray[Any], order: NDArray[np.int64]) -> list[str]:
    """The pieces with the largest weight, none of them a part of another or the other way round."""
    found: list[str] = []
    for number in order[: 10 * TELLING]:
        piece = str(names[number])
        if piece.strip() and not any(piece.strip() in one or one.strip() in piece for one in found):
            found.append(piece)
        if len(found) == TELLING:
            break
    return found
