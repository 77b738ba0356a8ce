"""The teacher writes the texts of a world, and says in a sentence what happens in some of them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal

from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import one_item
from stillhouse.synthesis.worlds.drawing import Wish, opening_of, prompt_of
from stillhouse.synthesis.worlds.world import World
from stillhouse.teachers.writer import Request

SUMMARY_TOKENS = 60

Ends = Literal["whole", "sentence"]
"""What counts as an end: the teacher's own alone, or also the last whole sentence before the limit."""
Render = Callable[[str], str]
"""A prompt as the teacher reads it, up to where it answers."""

_END = re.compile(r"[.!?]+[\"”’']*(?=\s|$)")


def world_texts(
    ask: Ask,
    world: World,
    wishes: Sequence[Wish],
    *,
    sampling: Sampling,
    round: int = 0,
    talks: bool = True,
    render: Render | None = None,
    ends: Ends = "whole",
) -> list[Record]:
    """A text to each wish. A teacher that does not talk goes on from the prompt as it stands; one that does from how its reply
    begins, where the world says so and `render` can put that behind the prompt."""
    requests = [_text_request(world, wish, sampling, talks=talks, render=render) for wish in wishes]
    replies = ask(requests, title=f"the teacher writes: {world.text}, round {round}")
    found = []
    for wish, request, reply in zip(wishes, requests, replies, strict=True):
        opening = opening_of(world, wish) if request.prefix is not None else ""
        text, finished, is_cut = _ended(f"{opening}{reply.text}".strip(), finished=reply.finished, ends=ends)
        lineage = {"source": "world", "world": world.name, "round": round, **wish.lineage}
        found.append(Record(text=text, finished=finished, lineage={**lineage, **({"cut": True} if is_cut else {})}))
    return found


def _text_request(world: World, wish: Wish, sampling: Sampling, *, talks: bool, render: Render | None) -> Request:
    prompt, opening, seed = prompt_of(world, wish), opening_of(world, wish), f"world {wish.seed}"
    if not opening:
        return _request(prompt, seed, sampling, talks=talks)
    if not talks:
        return Request(seed=seed, sampling=sampling, prefix=f"{prompt}\n\n{opening}")
    if render is None:
        return _request(f"{prompt} Begin with these words: {opening}", seed, sampling, talks=True)
    return Request(seed=seed, sampling=sampling, prefix=f"{render(prompt)}{opening}")


def _ended(text: str, *, finished: bool, ends: Ends) -> tuple[str, bool, bool]:
    """The text, whether it is finished, and whether it is so by losing the sentence in which the limit cut it off."""
    if finished or ends == "whole":
        return text, finished, False
    last = list(_END.finditer(text))
    return (text[: last[-1].end()], True, True) if last else (text, False, False)


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
