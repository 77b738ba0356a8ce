"""Documents as sources: questions that their passages answer."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from random import Random

from stillhouse.core.errors import DataError
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.sources.subjects import Subject, questions_about

SHORTEST_SHARE = 0.2
"""A shorter rest of a document, as a share of a passage, has too little to ask about and joins the passage before."""


def passages_of(documents: Iterable[str], *, words: int) -> Iterator[str]:
    """The documents, cut into passages of about so many words where a sentence or a paragraph ends; a sentence stays whole."""
    for document in documents:
        found: list[str] = []
        current: list[str] = []
        count = 0
        for piece in re.findall(r".+?(?:[.!?…][\"”’)]*(?=\s)\s+|\n\s*\n|$)", document.strip(), re.DOTALL):
            if current and count + len(piece.split()) > words:
                found.append("".join(current).strip())
                current, count = [], 0
            current.append(piece)
            count += len(piece.split())
        rest = "".join(current).strip()
        if rest and found and count < SHORTEST_SHARE * words:
            found[-1] = f"{found[-1]} {rest}"
        elif rest:
            found.append(rest)
        yield from found


def document_questions(
    ask: Ask,
    *,
    passages: Sequence[str],
    number: int,
    at_once: int = 1,
    student_reads: bool = False,
    sampling: Sampling,
    seed: int = 0,
) -> list[Record]:
    """So many questions, each answered by a passage, spread over passages that are drawn by the seed. Whoever answers reads
    the passage; the student does so only with `student_reads`, where it stands before the question.

    Raises:
        DataError: where there is no passage.
    """
    if not passages:
        raise DataError("synthesis: there is no passage in synthesis.path to ask about.")
    order = list(dict.fromkeys(passages))
    Random(f"{seed}, documents").shuffle(order)
    subjects = [
        Subject(partial(_questions_prompt, passage), {"source": "documents", "passage": passage}) for passage in order
    ]
    found = questions_about(
        ask,
        subjects,
        number=number,
        at_once=at_once,
        sampling=sampling,
        seed=f"{seed}, document questions",
        title="the teacher asks about passages",
    )
    return [with_passage(record) for record in found] if student_reads else found


def with_passage(record: Record) -> Record:
    """The record with its passage before the question, so that the student reads it, too."""
    passage = str(record.lineage["passage"])
    lineage = {**record.lineage, "student_reads_passage": True}
    return Record(lineage=lineage).say("user", f"{passage}\n\n{record.question}")


def _questions_prompt(passage: str, number: int) -> str:
    head = f"Here is a passage:\n\n{passage}\n\n"
    alone = "that the passage answers and that make sense to someone who has not read it"
    if number == 1:
        return f"{head}Write one question {alone.replace('make sense', 'makes sense')}. Write only the question."
    return (
        f"{head}Write {number} different questions {alone}.\nWrite a numbered list, without answers, and nothing else."
    )
