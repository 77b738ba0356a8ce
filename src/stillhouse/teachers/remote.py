"""A teacher behind an API: any server that speaks OpenAI's, asked by the official client."""

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError, StillhouseError
from stillhouse.core.files import fingerprint, read_lines
from stillhouse.models.load import load_tokenizer
from stillhouse.teachers.keys import hidden
from stillhouse.teachers.remote_calls import Amount, Arrived, Calls, Came, Job, Spending, Trouble
from stillhouse.teachers.remote_config import BudgetConfig, RemoteWriterConfig
from stillhouse.teachers.told import Scored, ScoringTeacher, TokenNames, told_places
from stillhouse.teachers.writer import Reply, Request

BYTES_A_TOKEN = 4
"""Of text in a Latin script, about: only where there is no tokenizer to count with, and said to be an estimate."""
TEMPLATE_TOKENS = 16
"""More than most chat templates put around a message."""
FINISHED = ("stop", "eos", "end_turn", "stop_sequence", "tool_calls", "function_call")


@dataclass(frozen=True)
class Estimate:
    """What a number of requests takes, before the first is sent."""

    requests: int
    prompt_tokens: int
    """About; known where there is a tokenizer."""
    most_tokens: int
    """If every answer were as long as it may be."""
    most_cost: float | None
    """None without prices."""
    currency: str

    def __str__(self) -> str:
        tokens = f"about {self.prompt_tokens:,} tokens to read and at most {self.most_tokens:,} to write"
        said = f"{self.requests:,} requests: {tokens}"
        return said if self.most_cost is None else f"{said}, at most {self.most_cost:,.4f} {self.currency}"


class RequestRefused(ModelError):
    """The server will not do what is asked, however often it is."""


class _BadAnswer(Exception):
    """The server answered, and what it said is no answer."""


class RemoteWriter:
    """A `Writer` behind an API. Each reply says how it was drawn, what it cost, and what failed attempts before it may have.

    Raises:
        ModelError: if the client is not installed.
    """

    def __init__(
        self,
        config: RemoteWriterConfig,
        *,
        say: Callable[[str], None] = lambda text: None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.config, self.say, self._environment = config, say, environment
        self.name, self.currency = config.model, config.prices.currency if config.prices else ""
        self.spending = Spending(tokens=config.budget.tokens, money=config.budget.money, currency=self.currency)
        self.estimated = self.filtered = 0
        """Replies whose tokens the server did not count, and those that it withheld."""
        _client_library()

    @property
    def fingerprint(self) -> str:
        """Of whom it asks, and with what: prices, budget and speed change no answer."""
        config = self.config
        return fingerprint(["remote", config.base_url, config.model, config.body])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The recipe's, where it names one."""
        return load_tokenizer(self.config.tokenizer) if self.config.tokenizer else None

    @cached_property
    def names(self) -> TokenNames | None:
        """What the server's tokens are in that tokenizer."""
        return None if self.tokenizer is None else TokenNames(self.tokenizer)

    def already_spent(self, *, tokens: int, cost: float) -> None:
        """Count what an earlier run spent: what is kept of its replies says it."""
        self.spending.spent += Amount(tokens, cost)

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What these take, at most, but for attempts that fail."""
        read = sum(self._prompt_tokens(request, longest=False) for request in requests)
        most = sum(request.sampling.max_new_tokens for request in requests)
        cost = None if self.config.prices is None else self._cost(read, most)
        return Estimate(len(requests), read, most, cost, self.currency)

    def write(self, requests: Sequence[Request], done: Collection[str] = ()) -> Iterator[tuple[Request, Reply]]:
        """Replies as they come. Whoever keeps them and is interrupted should throw that into this iterator, as `keep_each`
        does: the replies that are on their way and paid for come out of it first.

        Raises:
            ModelError: if the server refuses a request, or fails beyond all retries.
            RunError: if the budget is used up.
        """
        wanted = {request.key: request for request in requests if request.key not in done}
        if not wanted:
            return
        if self.config.prices or self.config.budget != BudgetConfig():
            self.say(f"asking {self.config.model} for {self.estimate(list(wanted.values()))}")
        jobs = [self._job(request) for request in wanted.values()]
        yield from self._calls(jobs).results(lambda arrived: (wanted[arrived.job.key], _with_losses(arrived)))
        if self.estimated:
            self.say(
                f"{self.config.model}: the tokens of {self.estimated:,} replies are estimated, as the server counts none"
            )
        if self.filtered:
            self.say(
                f"{self.config.model}: the server withheld {self.filtered:,} answers, or cut them, for their content"
            )

    def score(self, texts: Sequence[tuple[int, ...]], *, top: int) -> Iterator[Scored]:
        """What the server says of texts in tokens of its own: for each token, its likeliest rivals, knowing those before it. Of
        the first it says nothing.

        Raises:
            ModelError: if the recipe says of no way to ask for that, and as `write`.
        """
        if self.config.scores_by is None:
            raise ModelError(
                f"{self.config.model} is to score texts that are given, but scores_by does not say how. vLLM does it by "
                "prompt_logprobs, some servers by echo; llama.cpp, Ollama and chat endpoints not at all."
            )
        known = {fingerprint([list(ids), top]): ids for ids in texts}
        if self.config.prices or self.config.budget != BudgetConfig():
            most = sum((self._amount(len(ids) + TEMPLATE_TOKENS, 1) for ids in known.values()), start=Amount())
            cost = f", at most {most.cost:,.4f} {self.currency}" if self.config.prices else ""
            self.say(f"asking {self.config.model} to score {len(known):,} texts: at most {most.tokens:,} tokens{cost}")
        jobs = [
            Job(key, partial(self._score, ids=ids, top=top), self._amount(len(ids) + TEMPLATE_TOKENS, 1))
            for key, ids in known.items()
        ]

        def finish(arrived: Arrived) -> Scored:
            paid = arrived.paid + arrived.lost
            return known[arrived.job.key], arrived.value, {"tokens": paid.tokens, "cost": paid.cost}

        yield from self._calls(jobs).results(finish)

    def _calls(self, jobs: Sequence[Job]) -> Calls:
        config = self.config
        return Calls(
            jobs,
            client=self._client,
            judge=self._judge,
            spending=self.spending,
            concurrency=config.concurrency,
            retries=config.retries,
            timeout_seconds=config.timeout_seconds,
        )

    # What is sent.

    @property
    def _key(self) -> str | None:
        name = self.config.key_env
        return self._environment.get(name) if name else None

    def _client(self) -> Any:
        config = self.config
        return _client_library().AsyncOpenAI(
            # A server of one's own wants no key, and the client insists on one.
            api_key=self._key or "none",
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout_seconds,
        )

    def _job(self, request: Request) -> Job:
        most = self._amount(self._prompt_tokens(request, longest=True), request.sampling.max_new_tokens)
        return Job(request.key, partial(self._write, request=request), most)

    def _amount(self, prompt_tokens: int, tokens: int) -> Amount:
        return Amount(prompt_tokens + tokens, self._cost(prompt_tokens, tokens))

    def _cost(self, prompt_tokens: int, tokens: int) -> float:
        prices = self.config.prices
        return prices.of(prompt_tokens=prompt_tokens, tokens=tokens) if prices else 0.0

    def _prompt_tokens(self, request: Request, *, longest: bool) -> int:
        """How many are read, about or at most: no tokenizer makes more tokens than there are bytes, but for the template's."""
        texts = [message["content"] for message in request.messages] or [request.prefix or ""]
        around = TEMPLATE_TOKENS * (1 + len(request.messages))
        if self.tokenizer is not None:
            return sum(self._count(text) for text in texts) + (around if longest else 0)
        size = sum(len(text.encode()) for text in texts)
        return size + around if longest else math.ceil(size / BYTES_A_TOKEN)

    def _count(self, text: str) -> int:
        """Tokens of a text, as well as can be told."""
        if self.tokenizer is None:
            return math.ceil(len(text.encode()) / BYTES_A_TOKEN)
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        more: dict[str, Any] = dict(self.config.body)
        if sampling.top_k is not None:
            more["top_k"] = sampling.top_k
        return {
            "model": self.config.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed_of(request),
            self.config.limit_as: sampling.max_new_tokens,
            **({"stop": list(request.stop)} if request.stop else {}),
            "extra_body": more,
        }

    async def _write(self, client: Any, request: Request) -> Came:
        try:
            return await self._answer(client, request)
        except _client_library().BadRequestError as error:
            why = _withheld(error)
            if not why:
                raise
            self.filtered += why == "content_filter"
            return Came(Reply("", finished=False, tokens=0, prompt_tokens=0, drawn={"finish_reason": why}), Amount())

    async def _answer(self, client: Any, request: Request) -> Came:
        body = self._body(request)
        if request.messages:
            told = {"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {}
            messages = [dict(message) for message in request.messages]
            create = client.chat.completions.with_raw_response.create
            answer = _plain(await create(messages=messages, **body, **told))
            return self._read(request, answer, _choice(answer, "message"))
        told = {"logprobs": request.top_logprobs} if request.top_logprobs else {}
        create = client.completions.with_raw_response.create
        if "max_completion_tokens" in body:  # which only chats have
            body["max_tokens"] = body.pop("max_completion_tokens")
        answer = _plain(await create(prompt=request.prefix, **body, **told))
        return self._read(request, answer, _choice(answer, "text"))

    async def _score(self, client: Any, ids: tuple[int, ...], top: int) -> Came:
        more, asked = dict(self.config.body), {"model": self.config.model, "temperature": 1.0, "prompt": list(ids)}
        create = client.completions.with_raw_response.create
        if self.config.scores_by == "echo":
            answer = _plain(await create(**asked, max_tokens=0, echo=True, logprobs=top, extra_body=more))
        else:
            answer = _plain(await create(**asked, max_tokens=1, extra_body={**more, "prompt_logprobs": top}))
        assert self.names is not None, "a recipe with scores_by has a tokenizer"
        places = self.names.of_scored(ids, _choice(answer, "text"))
        prompt_tokens, tokens, _ = self._usage(answer, len(ids), 1)
        return Came(places, self._amount(prompt_tokens, tokens))

    # What came.

    def _read(self, request: Request, answer: Mapping[str, Any], choice: Mapping[str, Any]) -> Came:
        message = choice.get("message") or {}
        text = choice["text"] if "text" in choice else message.get("content") or ""
        if not isinstance(text, str):
            raise _BadAnswer("its text is no text")
        reason, thought = choice.get("finish_reason"), message.get("reasoning_content") or message.get("reasoning")
        tops = told_places(choice.get("logprobs"), self.names if request.top_logprobs else None)
        prompt_tokens, tokens, counted = self._usage(
            answer, self._prompt_tokens(request, longest=False), self._count(f"{text}{thought or ''}")
        )
        self.filtered += reason == "content_filter"
        drawn = {
            "seed": seed_of(request),
            "sampling": request.sampling.model_dump(mode="json"),
            "model": answer.get("model"),
            "finish_reason": reason,
            **({"reasoning": thought} if thought else {}),
            **({} if counted else {"usage": "estimated"}),
        }
        logprobs = [place[0][1] for place in tops if place]
        reply = Reply(
            text=text,
            finished=reason in FINISHED,
            tokens=tokens,
            prompt_tokens=prompt_tokens,
            logprob=sum(logprobs) if logprobs and min(logprobs) > -math.inf else None,
            cost=self._cost(prompt_tokens, tokens),
            top_logprobs=tops if request.top_logprobs else (),
            drawn={name: value for name, value in drawn.items() if value is not None},
        )
        return Came(reply, self._amount(prompt_tokens, tokens))

    def _usage(self, answer: Mapping[str, Any], prompt_tokens: int, tokens: int) -> tuple[int, int, bool]:
        """Tokens read and written as the server counts them, or as we do."""
        usage = answer.get("usage")
        told = usage if isinstance(usage, Mapping) else {}
        read, written = told.get("prompt_tokens"), told.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0:
            return read, written, True
        self.estimated += 1
        return prompt_tokens, tokens, False

    # What went wrong.

    def _judge(self, error: Exception) -> Trouble:
        openai, config = _client_library(), self.config
        who = f"{config.model} at {hidden(config.base_url)}"
        match error:
            case StillhouseError():
                return Trouble(str(error), may_have_cost=True, error=error)
            case TimeoutError() | openai.APITimeoutError():
                return Trouble(
                    f"{who} took longer than timeout_seconds ({config.timeout_seconds:g}).", may_have_cost=True
                )
            case openai.APIConnectionError():
                unsent = "Connect" in type(error.__cause__).__name__
                what = "cannot be reached" if unsent else "broke off while it answered"
                return Trouble(
                    f"{who} {what} ({self._shown(str(error.__cause__ or error))}).", may_have_cost=not unsent
                )
            case openai.APIStatusError():
                return self._refused(error, who)
            case _BadAnswer() | openai.APIError() | ValueError():
                return Trouble(f"{who} sent no proper answer ({self._shown(str(error))}).", may_have_cost=True)
        raise error

    def _refused(self, error: Any, who: str) -> Trouble:
        status, said = error.status_code, self._shown(error.message)
        used_up = status == 429 and "insufficient_quota" in (error.code, error.type)
        if (status in (408, 409, 425, 429) or status >= 500) and not used_up:
            return Trouble(f"{who} answers HTTP {status}: {said}.", wait_seconds=_wait_seconds(error.response.headers))
        named = self.config.key_env
        wanted = f"another than the one in {named}" if self._key else f"set {named}" if named else "name it in key_env"
        hints = {
            401: f"It wants a key: {wanted}.",
            403: f"It does not let this key in: look at {named}.",
            404: "Look at base_url, which ends with the version, and at model; not every server has chats and completions.",
            429: "The account behind the key has nothing left.",
        }
        hint = hints.get(status, "Not every server takes sampling.top_k, seed, log-probabilities or what body adds.")
        return Trouble(said, error=RequestRefused(f"{who} refused a request (HTTP {status}): {said}. {hint}"))

    def _shown(self, text: str) -> str:
        """What a server or a library said, as one short line without a key."""
        line = " ".join(hidden(text, self._key).split()).rstrip(".")
        return line if len(line) <= 200 else f"{line[:197]}..."


def scoring_teacher(writer: RemoteWriter, file: Path, *, top: int) -> ScoringTeacher:
    """A teacher for stored labels: the server scores each text once, and what it said is kept in the file.

    Raises:
        ModelError: if the recipe names no tokenizer.
    """
    if writer.tokenizer is None:
        raise ModelError(f"{writer.name} is to score texts, but its tokenizer is not named. Name it: tokenizer.")
    lines = read_lines(file)
    writer.already_spent(tokens=sum(line["tokens"] for line in lines), cost=sum(line["cost"] for line in lines))
    return ScoringTeacher(partial(writer.score, top=top), file, vocab_size=len(writer.tokenizer))


def seed_of(request: Request) -> int:
    """What the server is told to draw from: the same for the same request."""
    return int(request.key, 16) % 2**31


def _with_losses(arrived: Arrived) -> Reply:
    """The reply, with what attempts before it may have cost."""
    reply: Reply = arrived.value
    more = {"attempts": arrived.attempts} if arrived.attempts > 1 else {}
    return replace(
        reply,
        cost=reply.cost + arrived.lost.cost,
        lost_tokens=arrived.lost.tokens,
        drawn={**reply.drawn, **more},
    )


def _client_library() -> Any:
    try:
        import openai
    except ImportError:
        raise ModelError(
            "a remote teacher is asked by OpenAI's official client, which is not installed. Install it: pip install "
            "'stillhouse[remote]'."
        ) from None
    return openai


def _plain(response: Any) -> dict[str, Any]:
    """The answer as plain values."""
    try:
        answer = json.loads(response.content)
    except ValueError as error:
        raise _BadAnswer(f"no JSON: {error}") from None
    if not isinstance(answer, dict):
        raise _BadAnswer("JSON, but no object")
    if answer.get("error"):
        raise _BadAnswer(str(answer["error"]))
    return answer


def _choice(answer: Mapping[str, Any], holds: str) -> dict[str, Any]:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict) or first.get(holds) is None:
        raise _BadAnswer(f"there is no {holds} in it")
    return first


def _withheld(error: Any) -> str:
    """Why a server gives no answer to this request alone: it is too long, or not to be answered. Empty where it is not that."""
    said = f"{error.code} {error.type} {error.message}".lower()
    if "content_filter" in said or "content management policy" in said:
        return "content_filter"
    signs = ("context_length_exceeded", "exceed_context_size", "maximum context length", "context size")
    return "too_long" if any(sign in said for sign in signs) else ""


def _wait_seconds(headers: Mapping[str, str]) -> float | None:
    """For how long a server asks to be left alone, where it says so: in seconds, or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) / unit
            if seconds >= 0 and math.isfinite(seconds):
                return seconds
    with suppress(ValueError):
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return None
