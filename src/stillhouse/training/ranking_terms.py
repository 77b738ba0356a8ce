"""What a retriever is asked to match, term by term."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stillhouse.objectives import FeatureObjective, RankingObjective, objective


@dataclass(frozen=True)
class RankingTerm:
    """One objective of rankings or of embeddings, and its weight in the total.

    Raises:
        ValueError: for an unknown name or parameter, a value out of range, or an objective of another family.
    """

    name: str
    weight: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = objective(self.name)
        if not self._is_of_rankings(found):
            raise ValueError(
                f"{self.name} does not compare rankings or embeddings of passages. Use margin_mse, listwise_kl, score_mse, "
                "info_nce, embedding_mse or embedding_cosine."
            )
        _ = self.function

    @staticmethod
    def _is_of_rankings(found: Any) -> bool:
        if isinstance(found, FeatureObjective):
            return found.reads == "embeddings"
        return isinstance(found, RankingObjective)

    @property
    def reads(self) -> str:
        """What it reads: `scores`, `batch_scores` or `embeddings`."""
        return str(objective(self.name).reads)

    @cached_property
    def function(self) -> Any:
        """The pure function, with its parameters."""
        found: Any = objective(self.name)
        return found.bind(**self.parameters)
