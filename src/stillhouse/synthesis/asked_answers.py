"""The teacher's answers where it is asked in words and not in tokens: behind an API."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import DataError
from stillhouse.core.files import json_line, write_atomic
from stillhouse.core.label_store import key_of
from stillhouse.data.asked import Asked
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.answers import ANSWERS, Answer, AnswersOutcome, outcome_of, write_lines
from stillhouse.synthesis.records import ROLES, Ask, is_plain
from stillhouse.teachers.answering import Answering
from stillhouse.teachers.told import Place, TokenNames
from stillhouse.teachers.writer import Reply, Request

TOLD = "told.jsonl"
"""What the server told of the tokens of its answers, an answer a line."""


@dataclass(frozen=True)
class Reader:
    """How answers in words become tokens of the student's."""

    tokenizer: PreTrainedTokenizerBase
    end: int | None
    """The token that ends an answer."""
    max_tokens: int
    """Of prompt and answer together."""
    names: TokenNames | None = None
    """Where log-probabilities are told: which tokens the server means."""

    def read(self, one: Asked, request: Request, reply: Reply) -> tuple[tuple[int, ...], bool, list[Place]]:
        """The tokens of an answer, cut to the room behind its prompt; whether it is whole; and what was told at each.

        Raises:
            ModelError: if the server's tokens are not the tokenizer's.
        """
        if not reply.text:
            return (), False, []
        places: list[Place] = []
        if self.names is None:
            ids = self._tokens_behind(one.prompt, reply.text)
        else:
            ids, places = self.names.of_reply(request, reply)
        if reply.finished and self.end is not None and ids[-1:] != (self.end,):
            ids, places = (*ids, self.end), [*places, ()]
        room = self.max_tokens - len(one.prompt)
        return ids[:room], reply.finished and len(ids) <= room, places[:room]

    def _tokens_behind(self, prompt: Sequence[int], text: str) -> tuple[int, ...]:
        """As they are where the whole is cut, unless the first of them runs into the prompt."""
        options: dict[str, Any] = {"add_special_tokens": False}
        before = self.tokenizer.decode(list(prompt), clean_up_tokenization_spaces=False)
        whole = self.tokenizer(f"{before}{text}", **options)["input_ids"]
        if tuple(whole[: len(prompt)]) == tuple(prompt):
            return tuple(whole[len(prompt) :])
        return tuple(self.tokenizer(text, **options)["input_ids"])


def request_for(
    one: Asked, tokenizer: PreTrainedTokenizerBase, *, sampling: Sampling, seed: str, top_logprobs: int = 0
) -> Request:
    """What asks for the last answer: the conversation up to it, or a text to go on from.

    Raises:
        DataError: where a conversation holds what cannot be said in words, such as calls of tools.
    """
    if not one.messages:
        prefix = str(tokenizer.decode(list(one.prompt), skip_special_tokens=True))
        return Request(seed=seed, sampling=sampling, prefix=prefix, top_logprobs=top_logprobs)
    messages = tuple({"role": str(m["role"]), "content": m.get("content")} for m in one.messages)
    odd = next((m for m in one.messages if not is_plain(m)), None)
    if odd is not None:
        raise DataError(
            f"a conversation of the data has a turn of {odd['role']!r} that a teacher behind an API cannot be asked with: only "
            f"{', '.join(ROLES)} with plain text are sent. Take it out of the data."
        )
    return Request(seed=seed, sampling=sampling, messages=messages, top_logprobs=top_logprobs)  # type: ignore[arg-type]


def ask_for_answers(
    ask: Ask, asked: Sequence[Asked], reader: Reader, *, folder: Path, answering: Answering, top_logprobs: int = 0
) -> AnswersOutcome:
    """Write `answers.jsonl` in `folder`, as `write_answers` does for a model of this process, and with `top_logprobs` also
    `told.jsonl`. Whoever asks keeps the replies: a prompt that comes twice is answered once, and paid for once.

    Raises:
        StillhouseError: as the writer does.
    """
    asked = [one.at_last for one in asked]
    each = [(row, number) for row in range(len(asked)) for number in range(answering.samples or 1)]
    requests = [
        request_for(
            asked[row],
            reader.tokenizer,
            sampling=answering.sampling,
            seed=f"{answering.seed}, answer {number}",
            top_logprobs=top_logprobs,
        )
        for row, number in each
    ]
    different = {request.key: request for request in requests}
    came = dict(zip(different, ask(list(different.values()), title="the teacher answers"), strict=True))
    replies = [came[request.key] for request in requests]
    found: list[Answer] = []
    told: dict[str, list[Place]] = {}
    said = [
        (row, reply, reader.read(asked[row], request, reply))
        for (row, _), request, reply in zip(each, requests, replies, strict=True)
    ]
    times = Counter((row, ids) for row, _, (ids, _, _) in said)
    for row, reply, (ids, finished, places) in said:
        if ids and (counted := times.pop((row, ids), 0)):
            prompt = str(reader.tokenizer.decode(list(asked[row].prompt)))
            found.append(Answer(row, prompt, reply.text, len(ids), finished, counted, list(ids)))
            told[key_of((*asked[row].prompt, *ids))] = [*([()] * len(asked[row].prompt)), *places]
    write_atomic(folder / ANSWERS, write_lines(found))
    if reader.names is not None:
        write_atomic(folder / TOLD, "".join(map(json_line, _told_lines(told))))
    return outcome_of(found, prompts=len(asked))


def _told_lines(told: Mapping[str, Sequence[Place]]) -> Iterator[dict[str, Any]]:
    """Each answer's key and places, in the form in which scores are kept."""
    for key, places in told.items():
        yield {"key": key, "tokens": 0, "cost": 0.0, "places": places}
