"""What can be known to be wrong with a recipe's data before a model is loaded."""

from collections.abc import Iterator, Sequence

from stillhouse.commands.parts.parts import Parts
from stillhouse.commands.parts.replay import read_replayed
from stillhouse.core.errors import DataError
from stillhouse.data.chat_forms import Conversation, read_conversations
from stillhouse.data.config import ChatDataConfig
from stillhouse.data.kept import keep
from stillhouse.data.prepare import chat_sides
from stillhouse.data.text import read_rows
from stillhouse.models.labels import check_labels, labels_of


def check_data(parts: Parts) -> None:
    """Read the data now, so that what is wrong with it is said now, and hold its labels against the teacher's. Where the
    teacher has yet to write its text, only what is held out can be read.

    Raises:
        DataError: naming file and line.
        ModelError: if the teacher does not answer in the data's labels.
    """
    for note in _notes_before_writing(parts) if parts.recipe.data.path is None else _notes(parts):
        parts.progress.say(note)


def _notes_before_writing(parts: Parts) -> Iterator[str]:
    recipe = parts.recipe
    # Not `parts.replayed`: what it has in common with the text is known later.
    found = read_replayed(recipe, parts.data_path, parts.tokenizer, teacher_tokenizer=parts.other_tokenizer)
    yield from found.notes if found else ()
    if recipe.data.held_out_path is not None:
        read = read_conversations if recipe.data.kind == "chat" else read_rows
        read(recipe.data.held_out_path, key="data.held_out_path")


def _notes(parts: Parts) -> list[str]:
    recipe = parts.recipe
    if recipe.history is not None:
        conversations(parts)
    if parts.labels is not None:
        check_labels(labels_of(parts.teacher_config), parts.labels, source=recipe.teacher.model)
    notes = list(parts.data.notes)
    if recipe.source.kind != "offline":
        notes += _notes_on_answering(parts)
    return [*notes, *(parts.replayed.notes if parts.replayed else ())]


def _notes_on_answering(parts: Parts) -> Iterator[str]:
    too_long = len(parts.data.asked) - len(parts.asked)
    if too_long > 0:
        yield f"left out: {too_long:,} with a prompt that fills data.sequence_tokens"
    with_tools = sum(one.calls_tools for one in parts.data.asked)
    if with_tools:
        yield f"{with_tools:,} call tools: the student answers only their last turn, all before stays as it is"


def conversations(parts: Parts) -> Sequence[Conversation]:
    """Those to train on as the data has them.

    Raises:
        DataError: if nobody can answer in one of them.
    """
    assert isinstance(parts.recipe.data, ChatDataConfig)
    found = chat_sides(parts.recipe.data, parts.data_path)[0]
    for one in found:
        if one.segments:
            raise DataError(
                f"history: {one.where} is written out already, in segments, so nobody can answer in it. Leave history out, "
                "or give turns as 'messages'."
            )
    return keep(found, of=Conversation)
