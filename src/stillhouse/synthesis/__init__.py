"""The teacher writes the training text, or the answers to the prompts of a data set."""

from stillhouse.synthesis.answers import (
    ANSWERS,
    AnswersOutcome,
    answered_by,
    each_answer,
    read_answers,
    write_answers,
    write_answers_by,
)
from stillhouse.synthesis.flow import CARD, DROPPED, PREFERENCES, SYNTHETIC, Further, converse
from stillhouse.synthesis.history import HistoryOutcome, rewrite, rewrite_asking, rewrite_by
from stillhouse.synthesis.prompts import filled_templates
from stillhouse.synthesis.run import Written, write_synthetic
from stillhouse.synthesis.traces import Answers
from stillhouse.synthesis.write import SynthesisOutcome, synthesize, synthesize_asking, synthesize_by

__all__ = [
    "ANSWERS",
    "CARD",
    "DROPPED",
    "PREFERENCES",
    "SYNTHETIC",
    "Answers",
    "AnswersOutcome",
    "Further",
    "HistoryOutcome",
    "SynthesisOutcome",
    "Written",
    "answered_by",
    "converse",
    "each_answer",
    "filled_templates",
    "read_answers",
    "rewrite",
    "rewrite_asking",
    "rewrite_by",
    "synthesize",
    "synthesize_asking",
    "synthesize_by",
    "write_answers",
    "write_answers_by",
    "write_synthetic",
]
