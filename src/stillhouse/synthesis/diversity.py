"""How much a set of texts varies, in numbers that do not depend on how large it is."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.rouge import words_of
from stillhouse.synthesis.filters.duplicates import near_duplicates, part_of
from stillhouse.synthesis.records import Record

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
"""A row for each text, of any length."""

MOST_WORDS = 10_000
"""Words among which different ones are counted: enough for two digits, and soon counted."""
MOST_TEXTS = 400
"""Texts whose distances are measured: all pairs of them."""
DRAWS = 20
RESAMPLES = 200
CHARACTERS = (3, 4, 5)
BUCKETS = 4096
TOPICS = ("topic", "persona", "passage")
"""Under which of these keys of its lineage a record may say what it is about."""


def before_and_after(
    before: Sequence[Record],
    after: Sequence[Record],
    *,
    embed: Embed | None = None,
    embed_name: str = "",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The `diversity` of records before and after filters, for `card.json`. Both are counted over as many words."""
    sides = {"before": [_text(record) for record in before], "after": [_text(record) for record in after]}
    words = min(MOST_WORDS, *(sum(len(words_of(text)) for text in texts) for texts in sides.values()))
    return {
        side: {
            **diversity(texts, words=words, embed=embed, embed_name=embed_name, seed=seed),
            **({"coverage": covered} if (covered := coverage(records)) else {}),
        }
        for (side, texts), records in zip(sides.items(), (before, after), strict=True)
    }


def _text(record: Record) -> str:
    """The first question; of a text all of it."""
    return part_of(record, "question")


def diversity(
    texts: Sequence[str], *, words: int = MOST_WORDS, embed: Embed | None = None, embed_name: str = "", seed: int = 0
) -> dict[str, Any]:
    """Distinct-n over so many words, the spread of embeddings with a 95 % interval over texts, and the share of
    near-duplicates. Without an embedding model texts are compared by their runs of characters.
    """
    result: dict[str, Any] = {"texts": len(texts), "words": words}
    result["distinct"] = {str(n): distinct(texts, n, words=words, seed=seed) for n in (1, 2, 3)}
    found = near_duplicates(texts)
    result["near_duplicates"] = sum(one is not None for one in found) / len(texts) if texts else None
    by = (embed_name or "embeddings") if embed else "runs of characters"
    result["spread"] = spread(texts, embed=embed or character_runs, seed=seed)
    return {**result, "spread_by": by}


def distinct(texts: Sequence[str], n: int, *, words: int = MOST_WORDS, seed: int = 0) -> float | None:
    """Distinct-n: the share of different ones among the runs of n words; None where there are none.

    It falls with the number of words, so that it is counted over a fixed number of them, drawn text by text, and averaged over
    20 draws. A run does not reach from one text into the next.

    Source: Li et al., 2016, arXiv:1510.03055.
    """
    split = [words_of(text) for text in texts]
    random = np.random.default_rng(seed)
    shares = [_distinct_share(split, random.permutation(len(split)), n, words) for _ in range(DRAWS if split else 0)]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _distinct_share(split: Sequence[Sequence[str]], order: NDArray[np.int64], n: int, words: int) -> float | None:
    runs: Counter[tuple[str, ...]] = Counter()
    left = words
    for place in order:
        text = split[place][:left]
        left -= len(text)
        runs.update(zip(*(islice(text, start, None) for start in range(n)), strict=False))
        if left <= 0:
            break
    return len(runs) / runs.total() if runs else None


def spread(texts: Sequence[str], *, embed: Embed | None = None, seed: int = 0) -> dict[str, float] | None:
    """The mean of 1 - cosine over all pairs of texts, with a 95 % interval from resampling texts; None for fewer than two.

    Of more texts than 400, as many are drawn.
    """
    random = np.random.default_rng(seed)
    chosen = sorted(random.permutation(len(texts))[:MOST_TEXTS])
    if len(chosen) < 2:
        return None
    rows = np.asarray((embed or character_runs)([texts[place] for place in chosen]), dtype=np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distances = 1 - rows @ rows.T  # [texts, texts]
    drawn = [
        _mean_of_pairs(distances, random.multinomial(len(rows), [1 / len(rows)] * len(rows))) for _ in range(RESAMPLES)
    ]
    known = [value for value in drawn if value is not None]
    value = _mean_of_pairs(distances, np.ones(len(rows), dtype=np.int64))
    assert value is not None, "two texts are one pair at least"
    low, high = (float(np.quantile(known or [value], share)) for share in (0.025, 0.975))
    return {"value": value, "low": low, "high": high}


def _mean_of_pairs(distances: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    """The mean over pairs of different texts, each text as often as it was drawn; a text has no distance to itself."""
    pairs = np.outer(counts, counts).astype(np.float64)
    np.fill_diagonal(pairs, 0.0)
    total = pairs.sum()
    return float((pairs * distances).sum() / total) if total else None


def character_runs(texts: Sequence[str]) -> NDArray[np.float64]:
    """For each text how often each run of 3 to 5 characters comes, hashed into 4,096 buckets, rare ones weighing more (TF-IDF).

    It knows spelling, not meaning: two ways to say the same are as far apart as any others.
    """
    counts = np.zeros((len(texts), BUCKETS))
    for row, text in enumerate(texts):
        line = f" {' '.join(words_of(text))} "
        for size in CHARACTERS:
            for run, count in Counter(line[start : start + size] for start in range(len(line) - size + 1)).items():
                counts[row, _bucket(run)] += count
    documents = (counts > 0).sum(axis=0)
    return np.log1p(counts) * (np.log((1 + len(texts)) / (1 + documents)) + 1)


def _bucket(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=2).digest(), "big") % BUCKETS


def coverage(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """What of a taxonomy the records are about: for each key of `TOPICS` in their lineage the number of different values, and
    how many equally frequent ones would be as uneven (the exponential of their entropy).
    """
    found = {key: Counter(_named(record.lineage.get(key)) for record in records) for key in TOPICS}
    return {key: covered for key, counts in found.items() if (covered := _covered(counts))}


def _named(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " / ".join(map(str, value))
    return "" if value is None else str(value)


def _covered(counts: Mapping[str, int]) -> dict[str, float]:
    known = {name: count for name, count in counts.items() if name}
    total = sum(known.values())
    if not total:
        return {}
    entropy = -sum(count / total * math.log(count / total) for count in known.values())
    return {"different": len(known), "effective": math.exp(entropy), "records": total}
