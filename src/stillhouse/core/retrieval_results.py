"""What an evaluation of retrievers found: the one form that the evaluation writes and the report reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stillhouse.core.results import Interval

QUALITY: Mapping[str, str] = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@10": "Recall@10",
    "recall@100": "Recall@100",
    "map": "MAP",
}
"""Of the questions' relevant passages: by name, as it is written."""

AGREEMENT: Mapping[str, str] = {
    "overlap@10": "top 10 in common",
    "rbo": "rank-biased overlap",
    "spearman": "Spearman",
    "margin_error": "margin error",
}
"""With the teacher's ranking: by name, as it is written. Only of the last is less better."""


@dataclass(frozen=True)
class RetrieverResult:
    """One retriever's numbers."""

    name: str
    """`teacher`, `student`, `student_before`, `bm25`, ...; a variant of the student says which."""
    title: str
    detail: str
    metrics: Mapping[str, Interval]
    agreement: Mapping[str, Interval] = field(default_factory=dict)
    queries_per_second: Interval | None = None
    passages_per_second: Interval | None = None
    index_bytes: int | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Difference:
    """By how much the student differs from another, over the same questions."""

    metric: str
    other: str
    difference: Interval


@dataclass(frozen=True)
class RetrievalResult:
    """Every retriever on the same held-out questions."""

    questions: int
    passages: int
    ignores_same_id: bool
    """Whether a passage whose id is the question's own was taken out of what was found, as BEIR's own evaluation does."""
    retrievers: Sequence[RetrieverResult]
    differences: Sequence[Difference]
    shares: Mapping[str, Interval]
    """Of the teacher's quality that the student reaches, by metric."""

    def of(self, name: str) -> RetrieverResult:
        """The retriever of that name."""
        return next(one for one in self.retrievers if one.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RetrievalResult":
        """What `to_json` wrote."""
        return cls(
            values["questions"],
            values["passages"],
            values["ignores_same_id"],
            [_retriever(one) for one in values["retrievers"]],
            [Difference(one["metric"], one["other"], Interval(**one["difference"])) for one in values["differences"]],
            _intervals(values["shares"]),
        )


def _retriever(values: Mapping[str, Any]) -> RetrieverResult:
    read = {**values, "metrics": _intervals(values["metrics"]), "agreement": _intervals(values["agreement"])}
    for name in ("queries_per_second", "passages_per_second"):
        read[name] = None if values[name] is None else Interval(**values[name])
    return RetrieverResult(**read)


def _intervals(values: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {name: Interval(**interval) for name, interval in values.items()}
