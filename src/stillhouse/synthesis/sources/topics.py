"""A tree of topics: given, or grown by the teacher from a root; and questions about its leaves."""

from collections.abc import Sequence
from functools import partial

from stillhouse.core.errors import DataError
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import names_in
from stillhouse.synthesis.sources.subjects import Subject, questions_about

TITLE = "the teacher draws up topics"

TopicPath = tuple[str, ...]
"""From the root, or from a topic that was given, down to one topic."""


def grow_topics(
    ask: Ask,
    topics: Sequence[str],
    *,
    depth: int,
    width: int,
    sampling: Sampling,
    seed: int = 0,
    title: str = TITLE,
) -> list[TopicPath]:
    """The leaves below these topics, `depth` levels down, each with at most `width` parts; none is named twice in the tree.
    Where the teacher names no parts, a topic is a leaf itself.
    """
    level: list[TopicPath] = [(topic,) for topic in dict.fromkeys(topics)]
    leaves: list[TopicPath] = []
    seen = {topic.lower() for topic in topics}
    for down in range(depth):
        requests = [
            asking(
                f"{seed}, topics {down}, {place}",
                [{"role": "user", "content": _parts_prompt(path, width)}],
                sampling=sampling,
            )
            for place, path in enumerate(level)
        ]
        below: list[TopicPath] = []
        for path, reply in zip(level, ask(requests, title=title), strict=True):
            parts: list[str] = []
            for name in names_in(reply.text, finished=reply.finished):
                if name.lower() not in seen and len(parts) < width:
                    seen.add(name.lower())
                    parts.append(name)
            below += [(*path, name) for name in parts]
            leaves += [] if parts else [path]
        level = below
    return leaves + level


def topic_questions(
    ask: Ask,
    *,
    topics: Sequence[str],
    depth: int,
    width: int,
    number: int,
    at_once: int,
    sampling: Sampling,
    seed: int = 0,
) -> list[Record]:
    """So many questions about the leaves of a tree, spread evenly.

    Raises:
        DataError: where there is no topic.
    """
    if not topics:
        raise DataError("synthesis: kind topics needs topics or a root to grow them from.")
    leaves = grow_topics(ask, topics, depth=depth, width=width, sampling=sampling, seed=seed)
    subjects = [Subject(partial(_questions_prompt, path), {"source": "topics", "topic": list(path)}) for path in leaves]
    return questions_about(
        ask,
        subjects,
        number=number,
        at_once=at_once,
        sampling=sampling,
        seed=f"{seed}, topic questions",
        title="the teacher asks about topics",
    )


def _parts_prompt(path: TopicPath, width: int) -> str:
    within = f" (within {', '.join(reversed(path[:-1]))})" if path[1:] else ""
    return (
        f"Name {width} different subtopics of this topic: {path[-1]}{within}.\n"
        "Write a numbered list, one short name on each line, and nothing else."
    )


def _questions_prompt(path: TopicPath, number: int) -> str:
    about = f"about this topic: {path[-1]}"
    about += f" (within {', '.join(reversed(path[:-1]))})." if path[1:] else "."
    if number == 1:
        return f"Write one question or task that somebody may give to an assistant {about}\nWrite only the question."
    return (
        f"Write {number} different questions or tasks that people may give to an assistant {about}\n"
        "Write a numbered list of questions, without answers, and nothing else."
    )
