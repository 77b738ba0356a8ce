"""Student against teacher and control: each number with an interval."""

from stillhouse.evaluation.compare import evaluate

__all__ = ["evaluate"]
