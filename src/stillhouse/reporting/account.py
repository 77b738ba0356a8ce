"""What a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.core.results import EvaluationResult


@dataclass(frozen=True)
class Account:
    """Everything that is known of one run when its report is written."""

    title: str
    result: EvaluationResult
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    """An arm, such as `student` or `control_hard_labels`, and its metrics lines."""
    recipe_yaml: str
    layers: Mapping[str, Any] | None
    data: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    command: str = ""
    """What makes the same again, where that is no recipe."""
