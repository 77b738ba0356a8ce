"""Questions as different people would ask them."""

from collections.abc import Sequence
from functools import partial

from stillhouse.core.errors import DataError
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.synthesis.sources.lists import list_items
from stillhouse.synthesis.sources.subjects import ROUNDS, Subject, questions_about

TITLE = "the teacher thinks of people"
AT_ONCE = 10
"""Personas that are asked for in one reply."""


def write_personas(ask: Ask, *, number: int, about: str = "", sampling: Sampling, seed: int = 0) -> list[str]:
    """People that the teacher thinks of, each in a phrase; fewer where it has said no more in `ROUNDS`."""
    found: dict[str, str] = {}
    for turn in range(ROUNDS):
        missing = number - len(found)
        if missing <= 0:
            break
        prompt = _personas_prompt(min(AT_ONCE, number), about)
        requests = [
            asking(f"{seed}, personas {turn}, {nth}", [{"role": "user", "content": prompt}], sampling=sampling)
            for nth in range(-(-missing // AT_ONCE))
        ]
        for reply in ask(requests, title=TITLE):
            for text in list_items(reply.text, finished=reply.finished):
                found.setdefault(" ".join(text.lower().split()), text)
    return list(found.values())[:number]


def persona_questions(
    ask: Ask,
    *,
    personas: Sequence[str] | int,
    about: str = "",
    number: int,
    at_once: int,
    sampling: Sampling,
    seed: int = 0,
) -> list[Record]:
    """So many questions, each as one of the personas may ask it, spread evenly; given a number, the teacher thinks of so many
    personas first.

    Source: Ge et al., 2024, arXiv:2406.20094, section 4.

    Raises:
        DataError: where the teacher thinks of nobody.
    """
    if isinstance(personas, int):
        personas = write_personas(ask, number=personas, about=about, sampling=sampling, seed=seed)
    if not personas:
        raise DataError(
            "synthesis: the teacher named no personas. Give some as synthesis.personas, or raise "
            "synthesis.sampling.max_new_tokens."
        )
    subjects = [
        Subject(partial(_questions_prompt, persona, about), {"source": "personas", "persona": persona})
        for persona in personas
    ]
    return questions_about(
        ask,
        subjects,
        number=number,
        at_once=at_once,
        sampling=sampling,
        seed=f"{seed}, persona questions",
        title="personas ask",
    )


def _personas_prompt(number: int, about: str) -> str:
    whom = f" who have to do with this: {about}" if about else ""
    return (
        f"Describe {number} very different people{whom}, each with their work and interests in one short phrase.\n"
        "Write a numbered list, without names, and nothing else."
    )


def _questions_prompt(persona: str, about: str, number: int) -> str:
    subject = f" about this: {about}" if about else ""
    if number == 1:
        return (
            f"Here is a person: {persona}\nWrite one question or task that this person may give to an assistant{subject}. "
            "Write only the question, as the person would write it."
        )
    return (
        f"Here is a person: {persona}\nWrite {number} different questions or tasks that this person may give to an assistant"
        f"{subject}.\nWrite a numbered list of questions, as the person would write them, without answers, and nothing else."
    )
