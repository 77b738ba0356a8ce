"""How much of what a model writes stands word for word in what it learnt from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stillhouse.core.rouge import words_of

RUN = 4
"""Words by which places in the training texts are found; shorter runs in common say nothing."""
LONG = 13
"""Words in a row that are called a copy: as many as decontamination counts (GPT-3, arXiv:2005.14165, appendix C)."""


@dataclass(frozen=True)
class Copied:
    """The longest run of words of a text that a training text has too."""

    words: int
    run: str


class Learnt:
    """Training texts, in which runs of words are looked for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = [words_of(text) for text in texts]
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        self._short: set[tuple[str, ...]] = set()
        for number, words in enumerate(self.texts):
            for place in range(len(words)):
                self._short.update(tuple(words[place : place + size]) for size in range(1, RUN))
                run = tuple(words[place : place + RUN])
                if len(run) == RUN:
                    self._places.setdefault(run, []).append((number, place))

    def longest(self, text: str) -> Copied:
        """The longest run that this text and any training text have in common; the first of several."""
        words = words_of(text)
        best: tuple[int, int] = (0, 0)
        for start in range(len(words)):
            if len(words) - start <= best[0]:
                break
            length = self._length_from(words, start)
            if length > best[0]:
                best = (length, start)
        length, start = best
        return Copied(length, " ".join(words[start : start + length]))

    def _length_from(self, words: Sequence[str], start: int) -> int:
        found = self._places.get(tuple(words[start : start + RUN]), ())
        if not found:
            sizes = range(RUN - 1, 0, -1)
            runs = (tuple(words[start : start + size]) for size in sizes)
            return max((len(run) for run in runs if run in self._short), default=0)
        return max(_common(words, start, self.texts[number], place) for number, place in found)


def _common(one: Sequence[str], start: int, other: Sequence[str], place: int) -> int:
    length = RUN
    while start + length < len(one) and place + length < len(other) and one[start + length] == other[place + length]:
        length += 1
    return length
