"""Questions about given subjects: so many in all, spread evenly, asked for until they are there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import list_items, one_item

ROUNDS = 4
"""How often one subject is asked about again where too little came."""


@dataclass(frozen=True)
class Subject:
    """What questions can be asked about."""

    prompt: Callable[[int], str]
    """How the teacher is asked for so many questions: a list where there are several, else the question alone."""
    lineage: Mapping[str, Any] = field(default_factory=dict)


def questions_about(
    ask: Ask,
    subjects: Sequence[Subject],
    *,
    number: int,
    at_once: int,
    sampling: Sampling,
    seed: str,
    title: str,
) -> list[Record]:
    """So many questions, the first subjects getting one more where they cannot be spread evenly, `at_once` of them in one
    reply. None stands twice. There are fewer where the teacher has said no more in `ROUNDS`.
    """
    wanted = [number // len(subjects) + (place < number % len(subjects)) for place in range(len(subjects))]
    found: list[list[Record]] = [[] for _ in subjects]
    seen: set[str] = set()
    for turn in range(ROUNDS):
        missing = [max(0, wanted[place] - len(found[place])) for place in range(len(subjects))]
        asked = [(place, min(at_once, few)) for place, few in enumerate(missing) for _ in range(-(-few // at_once))]
        if not asked:
            break
        requests = [
            asking(
                f"{seed}, round {turn}, {nth}",
                [{"role": "user", "content": subjects[place].prompt(some)}],
                sampling=sampling,
            )
            for nth, (place, some) in enumerate(asked)
        ]
        for (place, some), request, reply in zip(asked, requests, ask(requests, title=title), strict=True):
            read = one_item if some == 1 else list_items
            for text in read(reply.text, finished=reply.finished):
                key = " ".join(text.lower().split())
                if key not in seen and len(found[place]) < wanted[place]:
                    seen.add(key)
                    record = Record(lineage={**subjects[place].lineage, "seed": request.seed})
                    found[place].append(record.say("user", text))
    return [record for of_one in found for record in of_one]
