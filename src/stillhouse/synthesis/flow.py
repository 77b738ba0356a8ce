"""From nothing to conversations: questions, what filters leave of them, answers, further turns, and what is kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from stillhouse.core.files import json_line, write_atomic
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, Source, asking
from stillhouse.synthesis.sources.magpie import asked, next_user_turns
from stillhouse.synthesis.traces import Answers, answered

User = Literal["opening", "played"]
"""Who asks again: the teacher behind its template's opening of a user's turn, or told to play the user."""

Choose = Callable[[Sequence[Record]], Sequence[Record]]
"""Of all answers to all questions those to learn, and the others, dropped."""

Clean = Callable[[Sequence[Record]], Sequence[Record]]
"""The same records in their order, some of them dropped."""

SYNTHETIC, DROPPED, PREFERENCES, CARD = "synthetic.jsonl", "dropped.jsonl", "preferences.jsonl", "card.json"
"""What lies in the folder at the end."""

PLAY = (
    "Here is a conversation between a user and an assistant:\n\n{talk}\n\n"
    "Write what the user says next: a short question or remark that follows from the last answer. Write only that."
)


@dataclass(frozen=True)
class Further:
    """Turns after the first answer, and who asks in them."""

    turns: int = 0
    user: User = "opening"
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


def converse(
    ask: Ask,
    source: Source,
    *,
    writer: str,
    answers: Answers,
    tokenizer: PreTrainedTokenizerBase | None = None,
    further: Further = Further(),
    clean: Clean = list,
    choose: Choose = list,
) -> list[Record]:
    """All records that came of the source's questions, dropped ones with their reason.

    Questions are cleaned before anybody answers them, and whole records again. In further turns each answer is drawn once; of
    the last there are as many as `answers` asks for, and of those that are clean `choose` takes what is to be learnt.

    Raises:
        StillhouseError: as source and writer do.
    """
    records = clean(source(ask))
    done = [record for record in records if record.dropped]
    open_ones = [record for record in records if not record.dropped]
    for turn in range(further.turns):
        once = answered(
            ask, open_ones, replace(answers, samples=1), turn=turn, writer=writer, title="the teacher answers"
        )
        spoken = [record for (record,) in once]
        done += [record for record in spoken if record.dropped or not record.finished]
        goes_on = [record for record in spoken if not record.dropped and record.finished]
        asked_on = _next_questions(ask, goes_on, further, turn=turn, tokenizer=tokenizer)
        # One who has nothing more to ask leaves a conversation that is whole.
        done += [before for before, after in zip(goes_on, asked_on, strict=True) if after.dropped]
        open_ones = [record for record in asked_on if not record.dropped]
    groups = answered(ask, open_ones, answers, turn=further.turns, writer=writer, title="the teacher answers")
    spoken = [*done, *(record for group in groups for record in group)]
    return list(choose(clean(spoken)))


def write_texts(ask: Ask, source: Source, *, writer: str, clean: Clean = list) -> list[Record]:
    """The texts of a source that asks for them whole."""
    return [replace(record, lineage={**record.lineage, "teacher": writer}) for record in clean(source(ask))]


def _next_questions(
    ask: Ask, records: Sequence[Record], further: Further, *, turn: int, tokenizer: PreTrainedTokenizerBase | None
) -> list[Record]:
    """What the user says next in each conversation."""
    seed = f"{further.seed}, user {turn}"
    if further.user == "opening":
        assert tokenizer is not None, "only a tokenizer's template opens a user's turn"
        return next_user_turns(ask, records, tokenizer=tokenizer, sampling=further.sampling, seed=seed)
    requests = [
        asking(f"{seed}, {place}", [{"role": "user", "content": _play(record)}], sampling=further.sampling)
        for place, record in enumerate(records)
    ]
    replies = ask(requests, title="the user goes on")
    return [asked(record, reply.text, finished=reply.finished) for record, reply in zip(records, replies, strict=True)]


def _play(record: Record) -> str:
    said = [m for m in record.messages if m["role"] != "system"]
    return PLAY.format(talk="\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in said))


# What is written down.


def row_of(record: Record) -> dict[str, Any]:
    """A record as a line of the data: a conversation, or a text; cut off where it was."""
    account: dict[str, Any] = {"lineage": dict(record.lineage)}
    if record.scores:
        account["scores"] = dict(record.scores)
    if not record.messages:
        return {"text": record.text, "finished": record.finished, **account}
    messages: list[dict[str, Any]] = [dict(message) for message in record.messages]
    if not record.finished and messages[-1]["role"] == "assistant":
        messages[-1]["finished"] = False
    return {"messages": messages, **account}


def write_records(records: Sequence[Record], folder: Path) -> dict[str, int]:
    """Write what is kept and what is dropped, each in a file of its own, and count them by reason."""
    kept = [record for record in records if not record.dropped]
    dropped = [record for record in records if record.dropped]
    write_atomic(folder / SYNTHETIC, "".join(json_line(row_of(record)) for record in kept))
    lines = [json_line({"dropped": record.dropped, **row_of(record)}) for record in dropped]
    write_atomic(folder / DROPPED, "".join(lines))
    reasons = Counter(map(reason_of, dropped))
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def reason_of(record: Record) -> str:
    """Why it was dropped, in words that others share: what stands behind a bracket is of that record alone."""
    return record.dropped.partition(" (")[0]
