"""Asking on until enough is kept: round by round, as many questions as those before let expect to be needed."""

import math
from collections.abc import Callable, Sequence

from stillhouse.core.progress import SILENT, Progress
from stillhouse.synthesis.records import Record

SURPLUS = "more than were asked for"
"""Why a record is dropped that was kept beyond the number."""
MOST_TIMES = 4
"""So many questions for each record that is to be kept, at most, where a recipe does not say."""
SPARE = 1.1
"""More than expected, so that the last round is not followed by one for the last few."""
LEAST_YIELD = 0.1
"""Of what was kept so far, for the size of the next round: where hardly anything was, more rounds tell sooner."""

Sizes = Sequence[int]
"""How many questions each round asks."""


def until_kept(
    make: Callable[[Sizes], tuple[Sequence[Record], int]], *, kept: int, most: int, progress: Progress = SILENT
) -> list[Record]:
    """All records, of which so many are kept, if at `most` so many questions suffice and their source does not dry up.

    `make` gives all records of all rounds, and how many questions they came of; called with one round more it asks the rounds
    before again in the same words, so that a ledger answers for the writer, and a run that was killed goes on to the same
    records.
    """
    sizes = [min(kept, most)]
    while True:
        records, questions = make(sizes)
        found, asked = sum(not record.dropped for record in records), sum(sizes)
        if found >= kept:
            return without_surplus(records, kept)
        if questions < asked:
            progress.say(f"{found:,} of {kept:,} records are kept: {dried_up(questions)}")
            return list(records)
        if asked >= most:
            progress.say(
                f"{found:,} of {kept:,} records are kept, and {asked:,} questions are all that synthesis.most allows"
            )
            return list(records)
        sizes.append(next_size(kept - found, share=found / asked, room=most - asked, before=sizes[-1]))
        progress.say(f"{found:,} of {kept:,} records are kept: {sizes[-1]:,} more questions")


def dried_up(questions: int) -> str:
    """What is said where a source gave fewer questions than it was asked for."""
    return f"there are no more than {questions:,} questions, and the run goes on with what there is"


def next_size(missing: int, *, share: float, room: int, before: int) -> int:
    """Questions of the next round, if as large a share of them is kept as before; never more than twice the round before, as
    one round says little of another."""
    expected = math.ceil(missing * SPARE / max(share, LEAST_YIELD))
    return min(room, max(1, expected), 2 * before)


def without_surplus(records: Sequence[Record], kept: int) -> list[Record]:
    """The same, but that of those that are kept only the first so many are."""
    found, left = list[Record](), kept
    for record in records:
        is_kept = not record.dropped
        found.append(record.drop(SURPLUS) if is_kept and left == 0 else record)
        left -= is_kept and left > 0
    return found
