"""Whether a text is new beside many others."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from stillhouse.core.rouge import longest_common, words_of


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
