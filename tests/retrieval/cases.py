"""A tiny corpus, and embedders that need no model."""

import hashlib
from collections.abc import Sequence

import numpy as np

from stillhouse.retrieval import Passage
from stillhouse.retrieval.embed import Similarity, Vectors
from stillhouse.retrieval.mining import TrainingRow
from stillhouse.retrieval.questions import Question

TEXTS = [
    "The fox ran over the hill and saw a red house.",
    "A girl found a key in the garden and opened the old door.",
    "The robot learned to sing and all the birds came.",
    "The old man had a boat and went out to sea every day.",
    "Two foxes slept under the hill near the red barn.",
    "The birds sing in the garden when the sea is calm.",
]
IDS = {f"p{number}": text for number, text in enumerate(TEXTS)}
ROWS = [
    TrainingRow(
        Question(f"q{n}", text[:20], {f"p{n}": 1}), (f"p{n}", f"p{(n + 1) % 6}", f"p{(n + 2) % 6}"), (3.0, 1.0, -2.0)
    )
    for n, text in enumerate(TEXTS)
]
ALONE = {name: [name] for name in IDS}
"""Each text is asked for, and the two behind it are not what is asked for."""
PASSAGES = [Passage(f"p{number}", text, "cases") for number, text in enumerate(TEXTS)]


class WordEmbedder:
    """A fixed random vector a word, added up: texts that share words are near each other."""

    def __init__(self, similarity: Similarity = "cosine", width: int = 32) -> None:
        self.similarity, self.width = similarity, width

    def queries(self, texts: Sequence[str]) -> Vectors:
        return self.documents(texts)

    def documents(self, texts: Sequence[str]) -> Vectors:
        made = np.stack([self._embedded(text) for text in texts]) if texts else np.zeros((0, self.width))
        lengths = np.linalg.norm(made, axis=1, keepdims=True) if self.similarity == "cosine" else 1
        return np.asarray(made / lengths, dtype=np.float32)

    def _embedded(self, text: str) -> Vectors:
        words = text.lower().replace(".", "").split()
        return np.sum([vector_of(word, self.width) for word in words], axis=0, dtype=np.float32)


def vector_of(word: str, width: int) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)
