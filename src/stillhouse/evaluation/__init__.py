"""Student against teacher and control: each number with an interval."""

from stillhouse.evaluation.compare import Contestant, evaluate, evaluate_encoders, evaluate_sentences

__all__ = ["Contestant", "evaluate", "evaluate_encoders", "evaluate_sentences"]
