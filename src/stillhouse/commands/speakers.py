"""One side of a conversation: what it was told, what it says, and where two sides part."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.errors import DataError
from stillhouse.data.chat_template import ChatTemplate, Message, Owner
from stillhouse.data.text import start_ids
from stillhouse.models.anatomy import most_tokens
from stillhouse.models.generate import Sampling, stop_ids_of, stream
from stillhouse.models.load import LoadedModel, display_name
from stillhouse.models.tokenizers import end_of_turn

Words = Generator[None, None, None]
"""Speech under way: it goes on by a token each time that it is asked to."""

WORDS_BEFORE = 8
"""Tokens that are shown before one at which two sides part."""


class Speaker:
    """A model that answers, and its own memory of the conversation. Without a chat template, it goes on from each line by
    itself."""

    why_alone = "has no chat template"
    """Said where it goes on from lines."""

    def __init__(self, role: Owner, loaded: LoadedModel) -> None:
        self.role, self.model, self.tokenizer = role, loaded.model, loaded.tokenizer
        self.name = display_name(loaded.source)
        self.template = self._template()
        ends = end_of_turn(self.tokenizer)
        self.stop_ids = stop_ids_of(self.model) | ({ends} if isinstance(ends, int) else set())
        self.forget(system="")

    def _template(self) -> ChatTemplate | None:
        return ChatTemplate(self.tokenizer, owner=self.role) if self.tokenizer.chat_template else None

    def forget(self, *, system: str) -> None:
        """Begin anew, with this system prompt."""
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.asked: list[int] = []
        self.said: list[int] = []
        self.seconds = 0.0

    def prompt(self, question: str) -> list[int]:
        """What the model would read if it were asked this now.

        Raises:
            DataError: if the template refuses it, or nothing could be answered for want of room.
        """
        if self.template is None:
            text, first = question, start_ids(self.tokenizer)
        else:
            text, first = self.template.prompt([*self.messages, _user(question)], where="the conversation"), []
        ids = [*first, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        longest = most_tokens(self.model)
        if longest is not None and len(ids) >= longest:
            raise DataError(
                f"the conversation has {len(ids):,} tokens, and the {self.role} reads at most {longest:,}. Begin anew: /reset"
            )
        return ids

    def speak(self, prompt: Sequence[int], *, sampling: Sampling, seed: str) -> Words:
        """Answer; it comes on after each token. What was said so far is `text`."""
        self.asked, self.said, self.seconds = list(prompt), [], 0.0
        return self._words(sampling, seed)

    def _words(self, sampling: Sampling, seed: str) -> Words:
        settings: dict[str, Any] = {"stop_ids": self.stop_ids, "vocab_size": len(self.tokenizer)}
        tokens = stream(self.model, self.asked, sampling=sampling, seed=seed, **settings)
        with closing(tokens):
            while True:
                started = time.perf_counter()
                token = next(tokens, None)
                self.seconds += time.perf_counter() - started
                if token is None:
                    break
                self.said.append(token)
                yield

    def remember(self, question: str) -> None:
        """Take the question and what was answered into the conversation, also an answer that was stopped."""
        if self.template is not None:
            self.messages += [_user(question), {"role": "assistant", "content": self.text}]

    @property
    def text(self) -> str:
        """What was said last, without its end."""
        return str(self.tokenizer.decode(self.said[:-1] if self.is_finished else self.said))

    @property
    def is_finished(self) -> bool:
        """Whether the model itself ended its answer."""
        return bool(self.said) and self.said[-1] in self.stop_ids


class Teller(Speaker):
    """A model that goes on from each line, whether or not it could hold a conversation: beside a student that only tells."""

    why_alone = "tells and does not talk"

    def _template(self) -> None:
        return None


def _user(question: str) -> Message:
    return {"role": "user", "content": question}


def in_turn(voices: Sequence[Words]) -> Words:
    """Let all speak at once, a token each in turn."""
    alive, over = list(voices), object()
    try:
        while alive:
            for voice in list(alive):
                if next(voice, over) is over:
                    alive.remove(voice)
            yield
    finally:
        for voice in voices:
            voice.close()


@dataclass(frozen=True)
class Choice:
    """A token, and how likely teacher and student find it."""

    token: int
    teacher: float
    student: float


@dataclass(frozen=True)
class Parting:
    """A place at which teacher and student would go on with other tokens."""

    place: int
    """How many tokens of the answer come before."""
    before: tuple[int, ...]
    teachers: Choice
    students: Choice


def partings(
    teacher: PreTrainedModel, student: PreTrainedModel, asked: Sequence[int], said: Sequence[int], *, vocab_size: int
) -> list[Parting]:
    """Where in this answer the two find different tokens likeliest, if both have read the same up to there."""
    theirs, ours = (_probs(model, asked, said, vocab_size=vocab_size) for model in (teacher, student))
    likeliest = zip(theirs.argmax(-1).tolist(), ours.argmax(-1).tolist(), strict=True)
    return [
        Parting(
            place,
            (*asked, *said)[max(0, len(asked) + place - WORDS_BEFORE) : len(asked) + place],
            *(Choice(token, float(theirs[place, token]), float(ours[place, token])) for token in pair),
        )
        for place, pair in enumerate(likeliest)
        if pair[0] != pair[1]
    ]


@dataclass(frozen=True)
class Expected:
    """What both sides expected at one token of an answer: the likeliest few of each, with how likely each finds it."""

    teacher: tuple[tuple[int, float], ...]
    student: tuple[tuple[int, float], ...]

    @property
    def differs(self) -> bool:
        """Whether they would go on with other tokens."""
        return self.teacher[0][0] != self.student[0][0]


def expectations(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    asked: Sequence[int],
    said: Sequence[int],
    *,
    vocab_size: int,
    most: int = 5,
) -> list[Expected]:
    """What the two expected at each token of this answer, if both have read the same up to there."""
    sides = [
        _probs(model, asked, said, vocab_size=vocab_size).topk(min(most, vocab_size), dim=-1)
        for model in (teacher, student)
    ]
    found = [
        [
            tuple(zip(ids, probs, strict=True))
            for ids, probs in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        for top in sides
    ]
    return [Expected(*both) for both in zip(*found, strict=True)]


@torch.no_grad()
def _probs(
    model: PreTrainedModel, asked: Sequence[int], said: Sequence[int], *, vocab_size: int
) -> Float[Tensor, "said vocab"]:
    """What the model finds likely at each token of the answer."""
    ids = torch.tensor([[*asked, *said]], device=model.device)
    logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1, :vocab_size]
    return logits.float().softmax(-1).cpu()
