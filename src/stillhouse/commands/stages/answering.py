"""A stage: the teacher answers the prompts to train on."""

from dataclasses import asdict
from typing import Any

from stillhouse.commands.sources import said_of_answers
from stillhouse.commands.stages.asking import ask_answers
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.commands.stages.writing import write
from stillhouse.synthesis import AnswersOutcome, write_answers_by
from stillhouse.teachers.answering import Answering
from stillhouse.training.sources import answering_of


def answer(shop: Workshop) -> dict[str, Any]:
    """The teacher's answers to the prompts to train on, where the recipe asks for them; never to those held out."""
    wanted, parts = answering_of(shop.recipe.source), shop.parts
    write(shop)
    if wanted is None:
        return {}

    def work() -> dict[str, Any]:
        outcome = _written(shop, wanted) if parts.remote is None else ask_answers(shop, parts.remote, wanted)
        shop.progress.say(said_of_answers(outcome))
        if unread := sum(not one.answered for one in parts.taught):
            why = "that were not answered" if parts.remote else "whose answers cannot be read in the student's tokens"
            shop.progress.say(f"left out: {unread:,} prompts {why}")
        return asdict(outcome)

    made_from = [parts.data_fingerprint, wanted]
    return shop.once("answer", "the teacher answers", made_from=made_from, work=work, makes=[parts.answers])


def _written(shop: Workshop, wanted: Answering) -> AnswersOutcome:
    """By the teacher, in this process or in others."""
    parts = shop.parts
    with parts.hands() as hands:
        return write_answers_by(
            hands,
            parts.asked,
            folder=parts.answers.parent,
            answering=wanted,
            ends=parts.ends(parts.teacher_tokenizer),
            vocab_size=len(parts.teacher_tokenizer),
            max_tokens=shop.recipe.data.sequence_tokens,
            progress=shop.progress,
        )
