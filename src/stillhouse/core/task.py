"""What kind of answer teacher and student give."""

from typing import Literal

Task = Literal[
    "causal_lm",
    "masked_lm",
    "sequence_classification",
    "regression",
    "reward",
    "token_classification",
    "sentence_embedding",
]
"""What a model is asked for: the next token, a hidden token, a class, a number, how good an answer is beside another, a tag a
token, or an embedding."""
