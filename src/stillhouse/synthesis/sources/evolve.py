"""Evolution: questions are written anew, harder or about something else, some rounds one after the other."""

from collections.abc import Mapping, Sequence
from random import Random

from stillhouse.core.errors import DataError
from stillhouse.core.rouge import words_of
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import one_item
from stillhouse.synthesis.sources.magpie import asked

WAYS: Mapping[str, str] = {
    "constraints": "Rewrite it so that it sets one more requirement or condition.",
    "deeper": "Rewrite it so that it goes deeper and further into what it is about.",
    "concrete": "Rewrite it so that general ideas in it become concrete, particular ones.",
    "reasoning": "Rewrite it so that it can only be answered in several steps of thought.",
    "broader": "Write a quite different one from the same field, one that is asked more rarely, of about the same length and "
    "difficulty.",
}
"""What is asked for in each way. All but the last keep what the question is about."""

LEAKS = ("rewritten", "given prompt", "created prompt", "new prompt", "new question:")
"""Words of the one who rewrites, not of somebody who asks."""


def evolved_questions(
    ask: Ask,
    *,
    start: Sequence[Record],
    number: int,
    rounds: int,
    ways: Sequence[str] = tuple(WAYS),
    sampling: Sampling,
    seed: int = 0,
) -> list[Record]:
    """So many questions that came of those at the `start`, each round from the one before; the start is not among them.

    What did not change, or speaks about rewriting, is dropped, and its question goes on as it was.

    Source: Xu et al., 2023, arXiv:2304.12244, section 3.2.

    Raises:
        DataError: where there is nothing to start from.
    """
    if not start:
        raise DataError("synthesis: kind evolve has no questions to start from.")
    order = list(range(len(start)))
    Random(f"{seed}, evolve").shuffle(order)
    lines = -(-number // rounds)
    now = [start[order[line % len(order)]] for line in range(lines)]
    found: list[Record] = []
    for turn in range(rounds):
        some = min(lines, number - len(found))
        chosen = [Random(f"{seed}, evolve {turn}, {line}").choice(list(ways)) for line in range(some)]
        requests = [
            asking(
                f"{seed}, evolve {turn}, {line}",
                [{"role": "user", "content": prompt_of(now[line].question, chosen[line])}],
                sampling=sampling,
            )
            for line in range(some)
        ]
        for line, reply in enumerate(ask(requests, title="the teacher rewrites questions")):
            text = next(iter(one_item(reply.text, finished=reply.finished)), reply.text.strip())
            lineage = {
                "source": "evolve",
                "way": chosen[line],
                "round": turn + 1,
                "parent": now[line].question,
                "seed": requests[line].seed,
            }
            record = asked(Record(lineage=lineage), text, finished=reply.finished)
            record = record if record.dropped else judged(record, now[line].question)
            found.append(record)
            now[line] = now[line] if record.dropped else record
    return found


def judged(record: Record, parent: str) -> Record:
    """The record, dropped where it is no evolution of its parent."""
    if words_of(record.question) == words_of(parent):
        return record.drop("an evolution that changed nothing")
    said = record.question.lower()
    if any(leak in said and leak not in parent.lower() for leak in LEAKS):
        return record.drop("an evolution that speaks about rewriting")
    return record


def prompt_of(question: str, way: str) -> str:
    """How a question is asked to be written anew."""
    return (
        f"Here is a question or task that somebody gave to an assistant:\n\n{question}\n\n{WAYS[way]} It must make sense to "
        "whoever reads it alone. Write only the new question or task, without an answer."
    )
