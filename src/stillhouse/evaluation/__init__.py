"""Student against teacher and control: each number with an interval."""

from stillhouse.evaluation.compare import (
    Contestant,
    OwnTokens,
    evaluate,
    evaluate_embeddings,
    evaluate_encoders,
    evaluate_rewards,
)
from stillhouse.evaluation.elsewhere import Elsewhere
from stillhouse.evaluation.embeddings import ScoredBatches
from stillhouse.evaluation.taught import Taught, TaughtAnswer

__all__ = [
    "Contestant",
    "Elsewhere",
    "OwnTokens",
    "ScoredBatches",
    "Taught",
    "TaughtAnswer",
    "evaluate",
    "evaluate_embeddings",
    "evaluate_encoders",
    "evaluate_rewards",
]
