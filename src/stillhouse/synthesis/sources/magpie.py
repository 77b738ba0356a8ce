"""Magpie: shown its template up to where a user speaks, an aligned model writes what users ask it."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.data.chat_template import ChatTemplate
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record
from stillhouse.teachers.writer import Message, Request

_MARK = "\ue000"
"""Private: no template has it."""


@dataclass(frozen=True)
class UserOpening:
    """What a chat template writes around the next thing that a user says."""

    before: str
    """Up to where the user begins."""
    end: str
    """What ends the user's turn; empty where the template puts nothing there."""


def user_opening(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message] = ()) -> UserOpening:
    """Where a user speaks next: after these messages, or at the beginning. Works with any template, as it is shown a user who
    says a mark, and what stands before the mark is the opening.

    Raises:
        ModelError: where there is no template, or it refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "synthesis: the teacher has no chat template, so nothing opens a user's turn behind which it could write a "
            "question. Name a teacher that has one, or use kind continue."
        )
    template = ChatTemplate(tokenizer)
    marked = [*map(dict, messages), {"role": "user", "content": _MARK}]
    shown = template.try_render(marked, None, prompt=True)
    before, mark, after = shown.rpartition(_MARK)
    if not mark:
        who = "such a system prompt" if messages else "a user who begins"
        raise ModelError(f"synthesis: the teacher's chat template has no place for {who}, so nothing opens its turn.")
    return UserOpening(before, template.first_special(after) or after.strip())


def magpie_questions(
    ask: Ask,
    *,
    tokenizer: PreTrainedTokenizerBase,
    number: int,
    sampling: Sampling,
    seed: int = 0,
    system: str = "",
    title: str = "the teacher asks itself",
) -> list[Record]:
    """So many questions that the teacher writes from nothing; with a `system` prompt, which it alone reads, of one kind.

    Source: Xu et al., 2024, arXiv:2406.08464, section 2.

    Raises:
        ModelError: as `user_opening`.
    """
    told = [{"role": "system", "content": system}] if system else []
    opening = user_opening(tokenizer, told)
    requests = [_request(opening, f"{seed}, magpie {place}", sampling) for place in range(number)]
    lineage = {"source": "magpie", **({"question_system": system} if system else {})}
    records: list[Record] = []
    for request, reply in zip(requests, ask(requests, title=title), strict=True):
        record = Record(lineage={**lineage, "seed": request.seed})
        records.append(asked(record, reply.text, finished=reply.finished))
    return records


def next_user_turns(
    ask: Ask,
    records: Sequence[Record],
    *,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    seed: str,
    title: str = "the user goes on",
) -> list[Record]:
    """The same conversations with what the user says next, behind the template's opening of that turn."""
    requests = [
        _request(user_opening(tokenizer, record.messages), f"{seed}, {place}", sampling)
        for place, record in enumerate(records)
    ]
    replies = ask(requests, title=title)
    return [asked(record, reply.text, finished=reply.finished) for record, reply in zip(records, replies, strict=True)]


def _request(opening: UserOpening, seed: str, sampling: Sampling) -> Request:
    return Request(seed=seed, sampling=sampling, prefix=opening.before, stop=(opening.end,) if opening.end else ())


def asked(record: Record, text: str, *, finished: bool = True) -> Record:
    """The record with this question as the user's turn; dropped where nothing was asked, or only a part of it."""
    said = record.say("user", text.strip())
    if not text.strip():
        return said.drop("an empty question")
    return said if finished else said.drop("a question that was cut off")
