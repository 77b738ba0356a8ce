"""A teacher that writes: what it can be asked for, what it says, and a model of this process that answers so."""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import Any, Protocol, TypeVar, runtime_checkable

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.core.files import fingerprint
from stillhouse.models.anatomy import most_tokens
from stillhouse.models.generate import Continuation, Sampling, Speaker, sample, stop_ids_of
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.teachers.hands import Advance, Hands, Spoken, Voice

Message = Mapping[str, str]
"""`{"role": ..., "content": ...}`."""

BATCHES_AT_ONCE = 4
"""Batches that are asked for in one go: a finished text's place is taken by the next one until these are used up."""


@dataclass(frozen=True)
class Request:
    """One text that is asked for: an answer in a conversation, or what goes on from a beginning as it stands."""

    seed: str
    """What is drawn depends on it, and on the request. Where one thing is asked for twice, give it two seeds."""
    sampling: Sampling = field(default_factory=Sampling)
    messages: tuple[Message, ...] = ()
    """A conversation, which the assistant answers."""
    prefix: str | None = None
    """Or a text to go on from, special tokens written out, no template around it; empty is nothing at all."""
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends, besides the model's own end."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to tell at each place, where the writer can."""

    def __post_init__(self) -> None:
        assert bool(self.messages) != (self.prefix is not None), "a conversation or a beginning, and one of them"

    @cached_property
    def key(self) -> str:
        """The same for the same request, in any run."""
        plain = [self.seed, self.sampling.model_dump(mode="json"), list(map(dict, self.messages)), self.prefix]
        return fingerprint([*plain, list(self.stop), self.top_logprobs])


@dataclass(frozen=True)
class Reply:
    """What was written to one request."""

    text: str
    finished: bool
    """Whether it came to its end; one that was cut off did not."""
    tokens: int
    prompt_tokens: int
    logprob: float | None = None
    """Of all that was written, in nats at temperature 1, where the writer says it."""
    cost: float = 0.0
    """In the currency of the writer's prices."""
    top_logprobs: tuple[tuple[tuple[str, float], ...], ...] = ()
    """At each place, the token that was written and then the likeliest ones, each with its log-probability in nats."""
    lost_tokens: int = 0
    """What failed attempts before it may have taken, at most; their cost is in `cost`."""
    drawn: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, where the writer says it: seed, sampling, the model that answered."""


@runtime_checkable
class Writer(Protocol):
    """Anything that can be asked for texts."""

    @property
    def name(self) -> str:
        """What the records say of who wrote them."""

    @property
    def fingerprint(self) -> str:
        """Changes where what it writes may change."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer, where that is known here."""

    def write(self, requests: Sequence[Request], done: Collection[str] = ()) -> Iterator[tuple[Request, Reply]]:
        """Replies as they come, in any order: to all requests whose key is not among the `done`. It may reply to some of those
        again, where only that lets the others come out as they would have.
        """


@runtime_checkable
class Paid(Protocol):
    """A writer with a budget."""

    def already_spent(self, *, tokens: int, cost: float) -> None:
        """Told once, by whoever keeps its replies, what those of earlier runs took."""


Kept = TypeVar("Kept")
Told = TypeVar("Told")


def keep_each(found: Iterator[Kept], keep: Callable[[Kept], None]) -> None:
    """Keep what comes, one by one. Interrupted, it keeps what is on its way too, if that still comes out; so `keep` may be
    given the same one twice.
    """
    try:
        for one in found:
            keep(one)
    except BaseException as error:
        if isinstance(
            found, Generator
        ):  # ended by this error it raises it again, else it brings what is left and then does
            keep(found.throw(error))
            for one in found:
                keep(one)
        raise


class LocalWriter:
    """A language model of this process. The same requests in the same order get the same replies, also after a kill; one that
    leaves no room for an answer gets an empty one.

    Raises:
        ModelError: where a conversation is asked for and there is no chat template.
    """

    def __init__(self, loaded: Spoken, *, name: str, fingerprint: str, batch_size: int = 32) -> None:
        self.model: Speaker = loaded.model
        self.tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
        self.name, self.fingerprint, self.batch_size = name, fingerprint, batch_size
        end = end_of_turn(self.tokenizer)
        self.stop_ids = stop_ids_of(self.model) | ({end} if isinstance(end, int) else set())

    def write(self, requests: Sequence[Request], done: Collection[str] = ()) -> Iterator[tuple[Request, Reply]]:
        """Replies to a few batches at a time; those of which everything is done are left out."""
        for asked in asked_together(requests, done, batch_size=self.batch_size):
            yield from zip(asked, self.replies(asked), strict=True)

    def replies(self, requests: Sequence[Request]) -> list[Reply]:
        """To requests that are asked together, all with one sampling: what is written to each depends on who they are, as
        sums do."""
        sampling = requests[0].sampling
        asked = [(request, self.prompt_ids(request)) for request in requests]
        room = most_tokens(self.model.config)
        fits = [(request, ids) for request, ids in asked if room is None or len(ids) < room]
        found = sample(
            self.model,
            [ids for _, ids in fits],
            sampling=sampling,
            seed="writer",
            numbers=[int(request.key, 16) for request, _ in fits],
            stop_ids=self.stop_ids,
            vocab_size=len(self.tokenizer),
            batch_size=self.batch_size,
        )
        said = {request.key: one for (request, _), one in zip(fits, found, strict=True)}
        return [self._reply(request, len(ids), said.get(request.key, Continuation())) for request, ids in asked]

    def prompt_ids(self, request: Request) -> list[int]:
        """What the model reads."""
        text = request.prefix if request.prefix is not None else self._rendered(request.messages)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids or [self._beginning]

    def _rendered(self, messages: Sequence[Message]) -> str:
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{self.name} has no chat template, so it cannot be asked in conversations. Name a teacher that has one, or "
                "let it go on from texts."
            )
        plain = [dict(message) for message in messages]
        return str(self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True))

    @property
    def _beginning(self) -> int:
        """What stands before a text of which nothing is written yet."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, *sorted(self.stop_ids))
        found = next((number for number in known if number is not None), None)
        if found is None:
            raise ModelError(f"{self.name} has no token that a text could begin with. Give it a prefix to go on from.")
        return int(found)

    def _reply(self, request: Request, prompt_tokens: int, said: Continuation) -> Reply:
        finished = bool(said.tokens) and said.tokens[-1] in self.stop_ids
        text: Any = self.tokenizer.decode(said.tokens[:-1] if finished else said.tokens)
        cut = _until_stop(str(text), request.stop)
        return Reply(
            text=cut,
            finished=finished or cut != text,
            tokens=len(said.tokens),
            prompt_tokens=prompt_tokens,
            logprob=sum(said.logprobs),
        )


def asked_together(requests: Sequence[Request], done: Collection[str], *, batch_size: int) -> Iterator[list[Request]]:
    """Requests by what a model is asked in one go, a few batches with one sampling; those of which everything is done are left
    out."""
    size = batch_size * BATCHES_AT_ONCE
    for _, alike in groupby(requests, key=lambda request: request.sampling):
        some = list(alike)
        for start in range(0, len(some), size):
            together = some[start : start + size]
            if any(request.key not in done for request in together):
                yield together


class SpreadWriter:
    """The same by others that each hold the model: what `LocalWriter` asks in one go, one of them is asked, and so each text is
    the same. Replies come in the order in which they are written."""

    def __init__(
        self, hands: Hands, tokenizer: PreTrainedTokenizerBase, *, name: str, fingerprint: str, batch_size: int = 32
    ) -> None:
        self.hands, self.tokenizer, self.batch_size = hands, tokenizer, batch_size
        self.name, self.fingerprint = name, fingerprint

    def write(self, requests: Sequence[Request], done: Collection[str] = ()) -> Iterator[tuple[Request, Reply]]:
        """As they come."""
        batches = dict(enumerate(asked_together(requests, done, batch_size=self.batch_size)))
        for number, replies in self.told(LocalWriter.replies, batches):
            yield from zip(batches[number], replies, strict=True)

    def told(
        self, tell: Callable[[LocalWriter, Sequence[Request]], Told], batches: Mapping[int, Sequence[Request]]
    ) -> Iterator[tuple[int, Told]]:
        """What whoever holds the model, as a `LocalWriter`, tells of each batch, by its number; `tell` is a function of a
        module."""
        about = {"name": self.name, "fingerprint": self.fingerprint, "batch_size": self.batch_size}
        return self.hands(partial(_told, tell, about), batches)


def _told(
    tell: Callable[[LocalWriter, Sequence[Request]], Told],
    about: Mapping[str, Any],
    model: Speaker,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Request],
    _: Advance,
) -> Told:
    return tell(LocalWriter(Voice(model, tokenizer), **about), batch)


def _until_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stops."""
    ends = [place for one in stop if (place := text.find(one)) >= 0]
    return text[: min(ends)] if ends else text
