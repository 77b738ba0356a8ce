"""How alike two texts are, word by word, and whether a text is new beside many others."""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

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


class NovelTexts:
    """A growing pool of texts, which tells of another whether it is new: its ROUGE-L to each of the pool below `below`.

    Only those are compared that can be as like as that: of like length, and with one of the text's rarest words in common.
    """

    def __init__(self, texts: Iterable[str] = (), *, below: float = 0.7) -> None:
        assert 0 < below <= 1
        self.below = below
        self._texts: list[list[str]] = []
        self._with_word: dict[str, list[int]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Put a text into the pool."""
        words = words_of(text)
        for word in set(words):
            self._with_word.setdefault(word, []).append(len(self._texts))
        self._texts.append(words)

    def is_new(self, text: str) -> bool:
        """Whether nothing in the pool is as like this text."""
        words, counted = words_of(text), Counter(words_of(text))
        return not any(self._is_like(words, counted, self._texts[number]) for number in self._candidates(words))

    def _candidates(self, words: Sequence[str]) -> list[int]:
        """All that could be like these words: what shares too few of them has none of the rarest, either."""
        # 2 c / (n + m) >= below with m >= c means c >= n below / (2 - below): so many words are in common.
        shared = math.ceil(len(words) * self.below / (2 - self.below) - 1e-9)
        rarest = sorted(words, key=lambda word: (len(self._with_word.get(word, ())), word))
        found = {number for word in rarest[: len(words) - shared + 1] for number in self._with_word.get(word, ())}
        return sorted(found)

    def _is_like(self, words: Sequence[str], counted: Counter[str], other: Sequence[str]) -> bool:
        needed = self.below * (len(words) + len(other)) / 2 - 1e-9
        if min(len(words), len(other)) < needed or (counted & Counter(other)).total() < needed:
            return False
        return longest_common(words, other) >= needed
