"""Data from nothing: a recipe's `synthesis` as a program that asks its teacher, and what the data card says of it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.parts import Parts
from stillhouse.commands.recipe import Recipe
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import fingerprint_files
from stillhouse.core.progress import Progress
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.load import display_name, load_tokenizer
from stillhouse.synthesis import Written, converse, write_synthetic
from stillhouse.synthesis.config import ContinueConfig, ConversationSynthesisConfig, QuestionsConfig
from stillhouse.synthesis.flow import SYNTHETIC, write_texts
from stillhouse.synthesis.licence import licence_of, said_of_licence
from stillhouse.synthesis.run import Make, said_of_reasons
from stillhouse.teachers.writer import LocalWriter, Writer

DataFreeConfig = ConversationSynthesisConfig | ContinueConfig
"""All ways but the templates of kind prompts."""


def check_synthesis(recipe: Recipe) -> None:
    """Find what is wrong with the files that are named and the teacher's chat template, before a weight is read.

    Raises:
        StillhouseError: naming the key of the recipe.
    """
    wanted = recipe.synthesis
    if not isinstance(wanted, DataFreeConfig):
        return
    tokenizer = load_tokenizer(recipe.teacher.model)
    wanted.source(tokenizer)
    if isinstance(wanted, ConversationSynthesisConfig):
        _check_template(tokenizer, wanted)


def _check_template(tokenizer: PreTrainedTokenizerBase, wanted: ConversationSynthesisConfig) -> None:
    if not tokenizer.chat_template:
        raise ModelError(
            f"synthesis of kind {wanted.kind} asks the teacher in conversations, and it has no chat template. Name a teacher "
            "that has one, or let it go on from texts with kind continue."
        )
    told = [{"role": "system", "content": "?"}] if wanted.answers.system or wanted.answers.trace == "explain" else []
    try:
        ChatTemplate(tokenizer).prompt([*told, {"role": "user", "content": "?"}])
    except DataError as error:
        hint = " Leave synthesis.answers.system out, and trace explain." if told else ""
        raise ModelError(f"synthesis.answers: {error}{hint}") from None


def writer_of(parts: Parts, wanted: DataFreeConfig) -> Writer:
    """Who writes."""
    name = display_name(parts.recipe.teacher.model)
    return LocalWriter(parts.teacher, name=name, fingerprint=parts.teacher_fingerprint, batch_size=wanted.batch_size)


def program_of(wanted: DataFreeConfig, writer: Writer, *, number: int | None = None) -> Make:
    """What asks: the source, the answers to it, and what is kept of both. A `number` takes the place of the recipe's."""
    source = wanted.source(writer.tokenizer, number=number)
    if not isinstance(wanted, ConversationSynthesisConfig):
        return partial(write_texts, source=source, writer=writer.name)
    return partial(
        converse,
        source=source,
        writer=writer.name,
        answers=wanted.answering(),
        tokenizer=writer.tokenizer,
        further=wanted.further(),
    )


def number_of(wanted: DataFreeConfig) -> int:
    """How many questions there will be; of a file that is the lines it has."""
    if not isinstance(wanted, QuestionsConfig):
        return wanted.number
    return len(wanted.source(None)(_nobody))


def _nobody(_requests: Sequence[Any], **_options: Any) -> list[Any]:
    raise AssertionError("questions that are known are not asked for")


def made_from(parts: Parts, wanted: DataFreeConfig) -> list[Any]:
    """What the data depends on."""
    files = [
        file
        for path in wanted.sources
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [parts.teacher_fingerprint, wanted, fingerprint_files(files)]


def write_data(parts: Parts, wanted: DataFreeConfig, *, progress: Progress) -> dict[str, Any]:
    """The stage: all of it, and what a report says of it."""
    writer = writer_of(parts, wanted)
    about = {
        "teacher": {
            "name": writer.name,
            "fingerprint": writer.fingerprint,
            **licence_of(parts.recipe.teacher.model),
        },
        "synthesis": wanted.model_dump(mode="json"),
        "questions": number_of(wanted),
    }
    made = write_synthetic(program_of(wanted, writer), writer, folder=parts.run.data, about=about, progress=progress)
    for line in said_of(made):
        progress.say(line)
    progress.say(f"in {parts.run.data / SYNTHETIC}")
    card = dict(made.card)
    return {"documents": card["documents"], "tokens": card["tokens"], "dropped": card["dropped"], "card": card}


def said_of(made: Written) -> list[str]:
    """What a user wants to know at the end."""
    card = made.card
    cost = f", cost {card['cost']:,.4f}" if card["cost"] else ""
    lines = [f"{card['documents']:,} kept of {len(made.records):,}; {card['tokens']:,} tokens written{cost}"]
    if card["dropped"]:
        lines.append(f"dropped: {said_of_reasons(card['dropped'])}")
    return [*lines, f"the teacher's licence: {said_of_licence(card['teacher'])}"]
