"""How alike two texts are, word by word."""

import re
from collections.abc import Hashable, Sequence

_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Han: no space tells their words apart, so each counts as one."""
_WORD = re.compile(f"[{_ONE_BY_ONE}]|[^\\W_{_ONE_BY_ONE}]+")


def words_of(text: str) -> list[str]:
    """Letters and digits side by side, in lower case. For ASCII these are the words of Google's `rouge_score` without its
    stemmer; other letters, which that one leaves out, count here."""
    return _WORD.findall(text.lower())


def rouge_l_of_texts(one: str, other: str) -> float:
    """ROUGE-L of two texts over their words: 1 for the same words in the same order, 0 where they share none or have none."""
    ours, theirs = words_of(one), words_of(other)
    return rouge_l(ours, theirs) if ours and theirs else 0.0


def rouge_l(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """The F1 of the longest common subsequence: 1 for equal sequences, 0 where nothing is in both.

    Source: Lin, 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.
    """
    if not one or not other:
        return float(len(one) == len(other))
    return 2 * longest_common(one, other) / (len(one) + len(other))


def longest_common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence. A whole row of the table is one integer, a bit for each place of `one`.

    Source: Hyyrö, 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[Hashable, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(one) - row.bit_count()
