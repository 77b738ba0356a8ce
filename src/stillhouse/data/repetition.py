"""How much of a text has been said before in it."""

from collections import Counter
from collections.abc import Sequence

LONGEST_PERIOD_WORDS = 40


def loop_at_end(found: Sequence[str], *, times: int) -> int:
    """The number of words that the text goes on repeating at its end, at least so many times; 0 where it does not."""
    for period in range(1, min(LONGEST_PERIOD_WORDS, len(found) // times) + 1):
        length = period * times * (2 if period == 1 else 1)
        tail = found[-length:]
        if len(tail) == length and tail[period:] == tail[:-period]:
            return period
    return 0


def top_share(found: Sequence[str], size: int) -> float:
    """What share of all letters is in the most frequent run of `size` words, counted as often as it comes."""
    runs = Counter(zip(*(found[start:] for start in range(size)), strict=False))
    letters = sum(map(len, found))
    most = max((count * sum(map(len, run)) for run, count in runs.items() if count > 1), default=0)
    return min(1.0, most / letters) if letters else 0.0


def repeated_share(found: Sequence[str], size: int) -> float:
    """What share of all letters is in runs of `size` words that came before; a letter counts once."""
    seen: set[tuple[str, ...]] = set()
    again: set[int] = set()
    for start in range(len(found) - size + 1):
        run = tuple(found[start : start + size])
        if run in seen:
            again.update(range(start, start + size))
        seen.add(run)
    letters = sum(map(len, found))
    return sum(len(found[place]) for place in again) / letters if letters else 0.0
