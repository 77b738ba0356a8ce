"""Texts of a model that holds no conversations: from nothing at all, or from how they begin."""

from collections.abc import Sequence

from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record
from stillhouse.teachers.writer import Request


def continued_texts(
    ask: Ask,
    *,
    prefixes: Sequence[str] = ("",),
    number: int,
    sampling: Sampling,
    beginning: str = "",
    seed: int = 0,
) -> list[Record]:
    """So many texts, begun with each of the prefixes in turn; an empty one is the model's own beginning of a text. The
    `beginning` is what its tokenizer puts before every text, and no part of it.
    """
    begun = [prefixes[place % len(prefixes)] for place in range(number)]
    requests = [
        Request(seed=f"{seed}, continue {place}", sampling=sampling, prefix=f"{beginning}{prefix}" if prefix else "")
        for place, prefix in enumerate(begun)
    ]
    records: list[Record] = []
    replies = ask(requests, title="the teacher writes texts")
    for prefix, request, reply in zip(begun, requests, replies, strict=True):
        lineage = {"source": "continue", "prefix": prefix, "seed": request.seed}
        record = Record(text=f"{prefix}{reply.text}", finished=reply.finished, lineage=lineage)
        records.append(record if reply.text.strip() else record.drop("an empty text"))
    return records
