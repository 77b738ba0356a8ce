"""Answers judged by their words: all of it is in `core/lexical.py`, for filters of training data read the same numbers."""

from stillhouse.core.lexical import (
    answer_words,
    best_of,
    bigram_precision,
    exact_match,
    gram_precision,
    k_precision,
    normalised,
    says,
    token_f1,
    token_recall,
    unsupported_names,
    unsupported_numbers,
)
from stillhouse.core.rouge import rouge_l_of_texts

__all__ = [
    "answer_words",
    "best_of",
    "bigram_precision",
    "exact_match",
    "gram_precision",
    "k_precision",
    "normalised",
    "rouge_l_of_texts",
    "says",
    "token_f1",
    "token_recall",
    "unsupported_names",
    "unsupported_numbers",
]
