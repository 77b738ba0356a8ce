"""Texts that a small model writes: how well held-out ones are predicted, and what its own are worth."""

from stillhouse.evaluation.stories.memory import Copied, Learnt
from stillhouse.evaluation.stories.parsing import Parses, check_parser, from_open_sentence, parses_of, sentences_of
from stillhouse.evaluation.stories.prediction import TextSums, bits_per_byte, gain, predicted
from stillhouse.evaluation.stories.writing import Written, grammar_bounds, measures_of, self_bleu

__all__ = [
    "Copied",
    "Learnt",
    "Parses",
    "TextSums",
    "Written",
    "bits_per_byte",
    "check_parser",
    "from_open_sentence",
    "gain",
    "grammar_bounds",
    "measures_of",
    "parses_of",
    "predicted",
    "self_bleu",
    "sentences_of",
]
