"""Hard negatives: passages that a retriever finds for a question, that do not answer it."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random

from stillhouse.retrieval.hits import Hit
from stillhouse.retrieval.questions import Question

MOST_POSITIVES = 8
"""Passages of a question, such as all of a document, among which the teacher says which one answers best."""


@dataclass(frozen=True)
class Candidates:
    """What may become a question's negatives: hardest first, and nothing that is known to answer it."""

    question: Question
    passages: tuple[str, ...]


@dataclass(frozen=True)
class FalseNegatives:
    """When a candidate is taken for one that answers after all, and left out. The teacher's scores decide."""

    margin: float | None = None
    """Left out if it scores above the positive less this."""
    relative_margin: float | None = None
    """Left out if it scores above the positive less this share of the positive's size: 0.05 keeps those below 95 % of it, as
    NV-Retriever does (Moreira et al., 2024, arXiv:2407.15831, 'TopK-PercPos')."""
    max_score: float | None = None
    """Left out if it scores above this."""
    percentile: float | None = None
    """Left out if it scores above this percentile of all positives' scores."""

    def limit(self, positive: float, positives: Sequence[float]) -> float:
        """The highest score with which a candidate still counts as a negative of this positive."""
        limits = [math.inf]
        if self.margin is not None:
            limits.append(positive - self.margin)
        if self.relative_margin is not None:
            limits.append(positive - abs(positive) * self.relative_margin)
        if self.max_score is not None:
            limits.append(self.max_score)
        if self.percentile is not None:
            limits.append(_percentile(positives, self.percentile))
        return min(limits)


def _percentile(values: Sequence[float], percent: float) -> float:
    import numpy as np

    return float(np.percentile(np.asarray(values), percent))


@dataclass(frozen=True)
class TrainingRow:
    """A question, the passage that answers it, its negatives, and what the teacher says of each: the positive first."""

    question: Question
    passages: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass
class MiningAccount:
    """What became of the candidates."""

    questions: int = 0
    candidates: int = 0
    taken_for_answers: int = 0
    """Left out because the teacher thinks that they answer."""
    filled_up: int = 0
    """Negatives drawn at random where too few candidates were left."""
    by_source: dict[str, int] = field(default_factory=dict)


def candidates_of(
    questions: Sequence[Question],
    found: Mapping[str, Sequence[Sequence[Hit]]],
    *,
    same_text: Mapping[str, Sequence[str]],
    depth: int,
) -> list[Candidates]:
    """Candidates for each question from what several retrievers found, in turn by rank, each passage once, up to `depth`.

    A passage that is said to answer is none, nor is one that says the same words as such a passage.
    """
    return [
        Candidates(question, tuple(_in_turn([lists[number] for lists in found.values()], question, same_text, depth)))
        for number, question in enumerate(questions)
    ]


def positives_of(question: Question) -> tuple[str, ...]:
    """The passages that may stand for the answer: those of the highest grade, the first `MOST_POSITIVES` of them."""
    highest = max(question.relevant.values())
    return tuple(one for one, grade in question.relevant.items() if grade == highest)[:MOST_POSITIVES]


def answers_of(question: Question, same_text: Mapping[str, Sequence[str]]) -> set[str]:
    """All passages that answer a question: those that are named, and copies of them."""
    return {copy for one in question.relevant for copy in same_text.get(one, (one,))}


def _in_turn(
    lists: Sequence[Sequence[Hit]], question: Question, same_text: Mapping[str, Sequence[str]], depth: int
) -> Iterator[str]:
    taken = answers_of(question, same_text)
    left = depth
    for hits in zip_longest(*lists):
        for hit in hits:
            if hit is not None and hit.id not in taken and left:
                taken.update(same_text.get(hit.id, (hit.id,)))  # of copies, one is enough
                left -= 1
                yield hit.id


def choose_negatives(
    candidates: Sequence[Candidates],
    scores: Mapping[tuple[str, str], float],
    *,
    number: int,
    filters: FalseNegatives,
    corpus: Sequence[str],
    same_text: Mapping[str, Sequence[str]],
    pick: str = "hardest",
    seed: int = 0,
) -> tuple[list[tuple[Question, tuple[str, ...]]], MiningAccount]:
    """The positive and `number` negatives of each question: the `hardest` that the filters leave, or drawn from them at
    `random`. Where too few are left, others of the corpus fill up, so that every question has as many.

    `scores` are the teacher's, by question and passage id; of several passages that answer alike, the positive is the one that
    it scores highest.
    """
    account = MiningAccount(questions=len(candidates), candidates=sum(len(one.passages) for one in candidates))
    best = [_best(one.question, scores) for one in candidates]
    positives = [scores[one.question.id, answer] for one, answer in zip(candidates, best, strict=True)]
    chosen = []
    for one, answer, positive in zip(candidates, best, positives, strict=True):
        limit, draw = filters.limit(positive, positives), Random(f"{seed}, {one.question.id}")
        left = [passage for passage in one.passages if scores[one.question.id, passage] <= limit]
        account.taken_for_answers += len(one.passages) - len(left)
        if pick == "random":
            draw.shuffle(left)
        negatives = left[:number]
        known = answers_of(one.question, same_text) | set(one.passages)
        more = list(_others(corpus, known, number - len(negatives), draw))
        account.filled_up += len(more)
        chosen.append((one.question, (answer, *negatives, *more)))
    return chosen, account


def _best(question: Question, scores: Mapping[tuple[str, str], float]) -> str:
    return max(positives_of(question), key=lambda one: scores.get((question.id, one), -math.inf))


def _others(corpus: Sequence[str], known: Collection[str], number: int, draw: Random) -> Iterable[str]:
    """So many passages of the corpus that are not known, at random; fewer only where there are no more."""
    if number <= 0:
        return []
    tries = draw.sample(range(len(corpus)), min(len(corpus), number + len(known)))
    return [corpus[place] for place in tries if corpus[place] not in known][:number]
