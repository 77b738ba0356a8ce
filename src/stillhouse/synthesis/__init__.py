"""The teacher writes the training text, or the answers to the prompts of a data set."""

from stillhouse.synthesis.answers import ANSWERS, AnswersOutcome, answered_by, read_answers, write_answers
from stillhouse.synthesis.history import HistoryOutcome, rewrite
from stillhouse.synthesis.prompts import filled_templates
from stillhouse.synthesis.write import SynthesisOutcome, synthesize

__all__ = [
    "ANSWERS",
    "AnswersOutcome",
    "HistoryOutcome",
    "SynthesisOutcome",
    "answered_by",
    "filled_templates",
    "read_answers",
    "rewrite",
    "synthesize",
    "write_answers",
]
