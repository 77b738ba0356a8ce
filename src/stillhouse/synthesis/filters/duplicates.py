"""What says the same as a record before it: word for word, or nearly."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from transformers import PreTrainedTokenizerBase

from stillhouse.core.rouge import words_of
from stillhouse.synthesis.filters.core import FilterSettings, NamedFilter, asked_as, quoted, turns
from stillhouse.synthesis.records import Record

Part = Literal["question", "answer", "all"]

RECALL = 0.99
"""How surely a pair exactly at the threshold is found; one above it more surely still."""


class DuplicatesConfig(FilterSettings):
    """Drops what has the same words in the same order as a record before it."""

    name: Literal["duplicates"] = "duplicates"
    of: Part = "question"
    """What is compared: the first question, the last answer, or everything; of a text always the text."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        said = f"Drops what has the same words as one before it{_compared(self.of)}."
        return NamedFilter("duplicates", said, self._reasons)

    def _reasons(self, records: Sequence[Record]) -> list[str]:
        first: dict[tuple[str, ...], int] = {}
        reasons = []
        places, texts = _compared_once(records, self.of)
        for number, text in enumerate(texts):
            key = tuple(words_of(text)) or (text,)
            reasons.append(f"duplicate (of {quoted(text)})" if text and first.setdefault(key, number) != number else "")
        return [reasons[place] for place in places]


class NearDuplicatesConfig(FilterSettings):
    """Drops what shares most of its word shingles with a record that is kept before it: MinHash finds the candidates, and
    their exact Jaccard similarity decides.

    Source: Broder, 1997, doi:10.1109/SEQUEN.1997.666900; for texts to train on, Lee et al., 2022, arXiv:2107.06499.
    """

    name: Literal["near_duplicates"] = "near_duplicates"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    """From this Jaccard similarity on, the later one goes."""
    shingle_words: PositiveInt = 3
    """Words in a row that are compared as one. Questions are short; 5 is usual for whole documents."""
    permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Hashes a text. More find lower similarities as surely, and cost as much more."""
    of: Part = "question"
    """What is compared: the first question, the last answer, or everything; of a text always the text."""

    def build(self, *, tokenizer: PreTrainedTokenizerBase | None = None) -> NamedFilter:
        """See `FilterSettings.build`."""
        said = (
            f"Drops what shares {self.threshold:.0%} or more of its runs of {self.shingle_words} words with one kept before "
            f"it{_compared(self.of)}."
        )
        return NamedFilter("near_duplicates", said, self._reasons)

    def _reasons(self, records: Sequence[Record]) -> list[str]:
        places, texts = _compared_once(records, self.of)
        found = near_duplicates(
            texts, threshold=self.threshold, shingle_words=self.shingle_words, permutations=self.permutations
        )
        reasons = [
            ""
            if one is None
            else f"near-duplicate (Jaccard {one[1]:.2f}, from {self.threshold:g} on, of {quoted(texts[one[0]])})"
            for one in found
        ]
        return [reasons[place] for place in places]


def _compared_once(records: Sequence[Record], of: Part) -> tuple[list[int], list[str]]:
    """The texts to compare, and for each record which of them is its own: by the question, answers to one share theirs."""
    texts: list[str] = []
    asked: dict[str, int] = {}
    places = []
    for record in records:
        key = asked_as(record) if of == "question" else ""
        if key not in asked or not key:
            asked[key] = len(texts)
            texts.append(part_of(record, of))
        places.append(asked[key])
    return places, texts


def part_of(record: Record, of: Part) -> str:
    """The text that is compared; empty where there is none yet."""
    said = turns(record)
    if not record.messages or of == "all":
        return "\n".join(turn.text for turn in said)
    if of == "answer":
        return record.answer
    return next((turn.text for turn in said if turn.name == "question"), "")


def _compared(of: Part) -> str:
    return {"question": ", by the question", "answer": ", by the answer", "all": ""}[of]


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.7, shingle_words: int = 3, permutations: int = 128
) -> list[tuple[int, float] | None]:
    """For each text the place of a kept one before it that it nearly equals, with their similarity; None where it is kept.

    Whatever is kept has no near-duplicate among what is kept, so that the same again drops nothing.
    """
    shingles = [shingles_of(text, shingle_words) for text in texts]
    signatures = [minhash(one, permutations) for one in shingles]
    kept: dict[tuple[int, bytes], list[int]] = {}
    return [_placed(place, shingles, signatures[place], threshold, kept) for place in range(len(texts))]


def _placed(
    place: int,
    shingles: Sequence[frozenset[int]],
    signature: NDArray[np.uint32],
    threshold: float,
    kept: dict[tuple[int, bytes], list[int]],
) -> tuple[int, float] | None:
    """The likest kept text before it; where none is near, it is kept itself."""
    if not shingles[place]:
        return None
    buckets = list(_bands(signature, rows_in_a_band(threshold, len(signature))))
    candidates = sorted({other for bucket in buckets for other in kept.get(bucket, ())})
    alike = [(jaccard(shingles[place], shingles[other]), -other) for other in candidates]
    similarity, other = max(alike, default=(0.0, 0))
    if similarity >= threshold:
        return -other, similarity
    for bucket in buckets:
        kept.setdefault(bucket, []).append(place)
    return None


def shingles_of(text: str, size: int) -> frozenset[int]:
    """Every run of `size` words as a number of 32 bits; of a shorter text the whole of it; of one without words nothing."""
    found = words_of(text)
    runs = [found[start : start + size] for start in range(max(1, len(found) - size + 1))] if found else []
    return frozenset(_number(" ".join(run)) for run in runs)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """What they share, of what is in either."""
    return len(one & other) / len(one | other)


def minhash(shingles: frozenset[int], permutations: int) -> NDArray[np.uint32]:
    """The least of all shingles under each of so many hashes: two texts agree at a place as often as their Jaccard says."""
    multipliers, shifts = _hashes(permutations)
    if not shingles:
        return np.full(permutations, np.iinfo(np.uint32).max, dtype=np.uint32)
    numbers = np.array(sorted(shingles), dtype=np.uint64)
    # Multiply and shift (Dietzfelbinger et al., 1997): uint64 wraps, and the upper half is what is hashed.
    hashed = (multipliers[:, None] * numbers[None, :] + shifts[:, None]) >> np.uint64(32)  # [permutations, shingles]
    return hashed.min(axis=1).astype(np.uint32)


def _hashes(permutations: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Always the same ones, so that the same texts are dropped in every run."""
    random = np.random.default_rng(20260101)
    drawn = random.integers(0, 2**64, size=(2, permutations), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


def rows_in_a_band(threshold: float, permutations: int) -> int:
    """The most hashes that a band may have for a pair at the threshold to agree in one of the bands with `RECALL`."""
    sizes = range(permutations, 0, -1)
    return next((rows for rows in sizes if 1 - (1 - threshold**rows) ** (permutations // rows) >= RECALL), 1)


def _bands(signature: NDArray[np.uint32], rows: int) -> Iterator[tuple[int, bytes]]:
    for number in range(len(signature) // rows):
        yield number, signature[number * rows : (number + 1) * rows].tobytes()
