"""How well passages are found, and how much as the teacher finds them: each number over questions, with an interval."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Interval
from stillhouse.core.retrieval_results import Difference, RetrievalResult, RetrieverResult
from stillhouse.evaluation.intervals import Sampled, bootstrapped, ratio, spread
from stillhouse.retrieval.hits import Hit, Retriever
from stillhouse.retrieval.index import DenseIndex
from stillhouse.retrieval.questions import Question

DEPTH = 100
"""How far down each retriever is asked."""

TOP = 10
PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten ranks then carry 86 % of it."""

Values = NDArray[np.float64]
"""One number a question."""


@dataclass(frozen=True)
class Entrant:
    """A retriever that is measured."""

    name: str
    title: str
    detail: str
    retriever: Retriever
    dense: DenseIndex | None = None
    """The same, where it embeds: it then has scores for any passage, a size, and a speed of embedding."""
    parameters: int | None = None
    times: bool = True
    timed: Retriever | None = None
    """What is timed in its place: the same without what it remembers."""
    timed_queries: int = 24
    """Over how many questions it is timed: fewer where each takes seconds."""


def without_same_id(hits: Sequence[Sequence[Hit]], questions: Sequence[Question]) -> list[list[Hit]]:
    """What was found, less the passage whose id is the question's own; those below move up."""
    kept = [[hit for hit in found if hit.id != one.id] for found, one in zip(hits, questions, strict=True)]
    return [[Hit(hit.id, hit.score, rank) for rank, hit in enumerate(found, start=1)] for found in kept]


def ranking_quality(questions: Sequence[Question], hits: Sequence[Sequence[Hit]]) -> dict[str, Values]:
    """nDCG@10 with grades, MAP and recall by trec_eval's own code, and MRR@10: one number a question."""
    import ir_measures
    from ir_measures import AP, R, nDCG

    measures = {nDCG @ TOP: f"ndcg@{TOP}", AP: "map", R @ TOP: f"recall@{TOP}", R @ DEPTH: f"recall@{DEPTH}"}
    qrels = {str(number): dict(one.relevant) for number, one in enumerate(questions)}
    # By rank: trec_eval would order equal scores by the passages' ids.
    run = {str(number): {hit.id: -float(hit.rank) for hit in found} for number, found in enumerate(hits) if found}
    found = {name: np.zeros(len(questions)) for name in measures.values()}
    for measured in ir_measures.iter_calc(list(measures), qrels, run):
        found[measures[measured.measure]][int(measured.query_id)] = measured.value
    found[f"mrr@{TOP}"] = np.array([reciprocal_rank(one, hit) for one, hit in zip(questions, hits, strict=True)])
    return found


def reciprocal_rank(question: Question, hits: Sequence[Hit], *, cut_off: int = TOP) -> float:
    """1 / rank of the first passage that answers, 0 if none does up to the cut-off. trec_eval's own knows no cut-off."""
    return next((1 / hit.rank for hit in hits[:cut_off] if question.relevant.get(hit.id, 0) > 0), 0.0)


def overlap(ours: Sequence[Hit], theirs: Sequence[Hit], *, top: int = TOP) -> float:
    """The share of the teacher's first passages that are among the student's."""
    wanted = {hit.id for hit in theirs[:top]}
    return len(wanted & {hit.id for hit in ours[:top]}) / len(wanted) if wanted else 1.0


def rank_biased_overlap(ours: Sequence[Hit], theirs: Sequence[Hit], *, persistence: float = PERSISTENCE) -> float:
    """How alike two rankings are, the first ranks counting most, extrapolated beyond the shorter one's end: 0 to 1.

    Source: Webber, Moffat and Zobel, 2010, 'A similarity measure for indefinite rankings', equation 23.
    """
    depth = min(len(ours), len(theirs))
    if not depth:
        return float(len(ours) == len(theirs))
    seen: tuple[set[str], set[str]] = (set(), set())
    total, share = 0.0, 0.0
    for rank in range(1, depth + 1):
        seen[0].add(ours[rank - 1].id)
        seen[1].add(theirs[rank - 1].id)
        share = len(seen[0] & seen[1]) / rank
        total += share * persistence**rank
    return float(total * (1 - persistence) / persistence + share * persistence**depth)


def rank_correlation(ours: Values, theirs: Values) -> float:
    """Spearman's: of the ranks that two scores give the same passages, equals sharing their mean rank; 0 where one is flat."""
    first, second = _ranks(ours), _ranks(theirs)
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / size) if size else 0.0


def _ranks(values: Values) -> Values:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(ends[places] - (counts[places] - 1) / 2, dtype=np.float64)


def margin_errors(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Values:
    """How far the student's margins are from the teacher's, as a share of the teacher's: one number a question.

    Margins are between the teacher's first passage and each other one. The student's are first multiplied by the one number,
    over all questions, that fits best: a cosine and a logit have no common unit. 0 is the teacher, 1 a student without margins.
    """
    student, teacher = ours[:, :1] - ours[:, 1:], theirs[:, :1] - theirs[:, 1:]
    scale = float((student * teacher).sum() / max(float((student**2).sum()), 1e-12))
    size = float(np.sqrt((teacher**2).mean()))
    return np.asarray(np.sqrt(((scale * student - teacher) ** 2).mean(1)) / max(size, 1e-12), dtype=np.float64)


def agreement(
    entrant: Entrant, questions: Sequence[Question], hits: Sequence[Sequence[Hit]], teacher: Sequence[Sequence[Hit]]
) -> dict[str, Values]:
    """How much a retriever finds as the teacher does; scores are compared over the teacher's own first passages."""
    pairs = list(zip(hits, teacher, strict=True))
    found = {
        f"overlap@{TOP}": np.array([overlap(ours, theirs) for ours, theirs in pairs]),
        "rbo": np.array([rank_biased_overlap(ours, theirs) for ours, theirs in pairs]),
    }
    width = min((len(one) for one in teacher), default=0)
    top = min(2 * TOP, width)
    if entrant.dense is None or top < 2:
        return found
    ids = [[hit.id for hit in one[:top]] for one in teacher]
    theirs = np.array([[hit.score for hit in one[:top]] for one in teacher], dtype=np.float64)
    ours = entrant.dense.pair_scores([one.text for one in questions], ids)
    found["spearman"] = np.array([rank_correlation(one, other) for one, other in zip(ours, theirs, strict=True)])
    found["margin_error"] = margin_errors(ours, theirs)
    return found


def speed(search: Callable[[Sequence[str]], object], texts: Sequence[str], *, repeats: int = 3) -> Interval:
    """Texts a second, one at a time as people ask, over repeats: the median, the slowest and the fastest."""
    search(texts[:1])  # what is made on the first call is not timed
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        for text in texts:
            search([text])
        seconds.append(time.perf_counter() - started)
    return spread([len(texts) / taken for taken in seconds])


def evaluate_retrievers(
    entrants: Sequence[Entrant],
    questions: Sequence[Question],
    *,
    num_passages: int,
    teacher: str = "teacher",
    student: str = "student",
    ignores_same_id: bool = False,
    timed_passages: Sequence[str] = (),
    progress: Progress = SILENT,
) -> RetrievalResult:
    """Measure every entrant on the same questions; the student is compared with each other one over the same draws of them."""
    asked = [one.text for one in questions]
    found = _found(entrants, asked, progress)
    if ignores_same_id:
        found = {name: without_same_id(hits, questions) for name, hits in found.items()}
    quality = {name: ranking_quality(questions, hits) for name, hits in found.items()}
    agreements = {
        one.name: agreement(one, questions, found[one.name], found[teacher]) if one.name != teacher else {}
        for one in entrants
    }
    sampled = _sampled(quality | {f"{name} agrees": values for name, values in agreements.items()}, len(questions))
    speeds = _speeds(entrants, asked, timed_passages, progress)
    results = [
        RetrieverResult(
            one.name,
            one.title,
            one.detail,
            {metric: sampled[one.name, metric].interval() for metric in quality[one.name]},
            {metric: sampled[f"{one.name} agrees", metric].interval() for metric in agreements[one.name]},
            speeds[one.name].queries,
            speeds[one.name].passages,
            None if one.dense is None else one.dense.num_bytes,
            one.parameters,
        )
        for one in entrants
    ]
    metrics = list(quality[student])
    differences = [
        Difference(metric, one.name, sampled[student, metric].minus(sampled[one.name, metric]).interval())
        for one in entrants
        if one.name != student
        for metric in metrics
    ]
    shares = {metric: sampled[student, metric].share_of(sampled[teacher, metric]).interval() for metric in metrics}
    return RetrievalResult(len(questions), num_passages, ignores_same_id, results, differences, shares)


def _found(entrants: Sequence[Entrant], asked: Sequence[str], progress: Progress) -> dict[str, list[list[Hit]]]:
    found = {}
    with working(progress, "questions are searched for", len(entrants) * len(asked), "questions"):
        for one in entrants:
            found[one.name] = one.retriever.search(asked, DEPTH)
            progress.advance(len(asked))
    return found


@dataclass(frozen=True)
class _Speed:
    """Of a retriever, a second; None where it is not timed, or embeds nothing."""

    queries: Interval | None = None
    passages: Interval | None = None


def _speeds(
    entrants: Sequence[Entrant], asked: Sequence[str], passages: Sequence[str], progress: Progress
) -> dict[str, _Speed]:
    found = {one.name: _Speed() for one in entrants}
    timed = [one for one in entrants if one.times]
    with working(progress, "timing", len(timed), "retrievers"):
        for one in timed:
            found[one.name] = _Speed(_queries_a_second(one, asked), _passages_a_second(one, passages))
            progress.advance(1)
    return found


def _sampled(values: Mapping[str, Mapping[str, Values]], num_questions: int) -> dict[tuple[str, str], Sampled]:
    ones = np.ones(num_questions)
    statistics = {
        (name, metric): ratio(numbers, ones) for name, metrics in values.items() for metric, numbers in metrics.items()
    }
    return bootstrapped(statistics, set_sizes=[num_questions])


def _queries_a_second(entrant: Entrant, texts: Sequence[str]) -> Interval:
    searched = entrant.timed or entrant.retriever
    return speed(lambda one: searched.search(one, TOP), texts[: entrant.timed_queries])


def _passages_a_second(entrant: Entrant, texts: Sequence[str]) -> Interval | None:
    if entrant.dense is None or not texts:
        return None
    return speed(entrant.dense.embedder.documents, texts)
