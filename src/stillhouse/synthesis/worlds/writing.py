"""The teacher writes the texts of a world, and says in a sentence what happens in some of them."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import one_item
from stillhouse.synthesis.worlds.drawing import Wish, prompt_of
from stillhouse.synthesis.worlds.world import World
from stillhouse.teachers.writer import Request

SUMMARY_TOKENS = 60


def world_texts(
    ask: Ask, world: World, wishes: Sequence[Wish], *, sampling: Sampling, round: int = 0, talks: bool = True
) -> list[Record]:
    """A text to each wish. A teacher that does not talk goes on from the prompt as it stands."""
    requests = [_request(prompt_of(world, wish), f"world {wish.seed}", sampling, talks=talks) for wish in wishes]
    replies = ask(requests, title=f"the teacher writes: {world.text}, round {round}")
    return [
        Record(
            text=reply.text.strip(),
            finished=reply.finished,
            lineage={"source": "world", "world": world.name, "round": round, **wish.lineage},
        )
        for wish, reply in zip(wishes, replies, strict=True)
    ]


def summarised(
    ask: Ask, world: World, records: Sequence[Record], *, share: float, seed: int, talks: bool = True
) -> list[Record]:
    """The same; this share of those that are kept are to be learnt behind an instruction, and get a summary for it. Which ones
    depends on each alone."""
    chosen = [
        record
        for record in records
        if not record.dropped and Random(f"{seed}, instruct, {record.lineage['seed']}").random() < share
    ]
    sampling = Sampling(temperature=0.0, max_new_tokens=SUMMARY_TOKENS)
    requests = [
        _request(world.summary.format(text=one.text), f"summary {one.lineage['seed']}", sampling, talks=talks)
        for one in chosen
    ]
    replies = ask(requests, title="the teacher sums up") if requests else []
    summaries = {
        record.lineage["seed"]: _one_line(reply.text, finished=reply.finished)
        for record, reply in zip(chosen, replies, strict=True)
    }
    return [
        replace(record, lineage={**record.lineage, "instruct": True, "summary": summaries[record.lineage["seed"]]})
        if record.lineage["seed"] in summaries
        else record
        for record in records
    ]


def _request(prompt: str, seed: str, sampling: Sampling, *, talks: bool) -> Request:
    if talks:
        return asking(seed, [{"role": "user", "content": prompt}], sampling=sampling)
    return Request(seed=seed, sampling=sampling, prefix=f"{prompt}\n\n")


def _one_line(text: str, *, finished: bool) -> str:
    """A summary without quotes or what announces it; empty where it was cut off or is no single line."""
    found = one_item(text, finished=finished)
    return found[0] if found and "\n" not in found[0] else ""
