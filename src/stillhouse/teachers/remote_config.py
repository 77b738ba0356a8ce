"""What a recipe can say about a teacher behind an API."""

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from stillhouse.core.config import Config
from stillhouse.teachers.keys import hidden, keys_in

OURS = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
    }
    | {"logprobs", "top_logprobs", "prompt_logprobs", "echo", "n", "stream", "stream_options"}
)
"""Keys of a request's body that are said elsewhere in a recipe, or not to be chosen."""


class PricesConfig(Config):
    """What the server charges."""

    per_million_input_tokens: NonNegativeFloat
    """For what is read."""
    per_million_output_tokens: NonNegativeFloat
    """For what is written."""
    currency: str = "USD"

    def of(self, *, prompt_tokens: int, tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.per_million_input_tokens + tokens * self.per_million_output_tokens) / 1e6


class BudgetConfig(Config):
    """Where to stop: no request is sent that could lead beyond it. What was spent before a restart counts."""

    tokens: PositiveInt | None = None
    """Read and written together."""
    money: PositiveFloat | None = None
    """In the currency of the prices."""


class RemoteWriterConfig(Config):
    """A model behind an API that speaks OpenAI's: vLLM, llama.cpp's server, Ollama, OpenAI, OpenRouter and others."""

    kind: Literal["remote"] = "remote"
    base_url: str
    """Up to the version: `http://127.0.0.1:8000/v1`."""
    model: str
    """As the server calls it."""
    key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key: the only place where it is looked for. null sends none."""
    tokenizer: str | None = None
    """The model's tokenizer, a hub id, a folder or a GGUF file: counts tokens, and reads what the server tells of them."""
    concurrency: PositiveInt = 8
    """Requests on their way at once."""
    timeout_seconds: PositiveFloat = 120.0
    """For one attempt at one request, from sending to the last byte."""
    retries: NonNegativeInt = 6
    """Further attempts after one that failed for a reason that may pass."""
    prices: PricesConfig | None = None
    """Without them nothing is said of money."""
    budget: BudgetConfig = BudgetConfig()
    limit_as: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls sampling.max_new_tokens: OpenAI's newer models take only the second."""
    scores_by: Literal["prompt_logprobs", "echo"] | None = None
    """How the server tells the log-probabilities of a text that is given: vLLM's key, or a completion that echoes its prompt.
    null where it cannot."""
    body: dict[str, JsonValue] = Field(default_factory=dict)
    """More keys of each request's body, such as `{min_p: 0}`."""

    @model_validator(mode="before")
    @classmethod
    def _holds_no_key(cls, values: Any) -> Any:
        found = [place for place in keys_in(values) if place != "key_env"]
        if found:
            raise ValueError(
                f"{found[0]} holds what looks like a key, and a recipe is kept and shown. Remove it, and put the key into the "
                "environment variable that key_env names."
            )
        named = values.get("key_env") if isinstance(values, Mapping) else None
        if isinstance(named, str) and (not named.isidentifier() or hidden(named) != named):
            raise ValueError(
                "key_env is the name of an environment variable, such as OPENAI_API_KEY, and what was given is none. If that "
                "was the key itself, it is now where you wrote it: replace it."
            )
        return values

    @model_validator(mode="after")
    def _a_server_is_named(self) -> "RemoteWriterConfig":
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.netloc or url.query or url.fragment:
            raise ValueError(
                f"base_url is {hidden(self.base_url.partition('?')[0])!r}, but it should be an address such as "
                "https://api.openai.com/v1, with nothing behind its path."
            )
        if self.budget.money is not None and self.prices is None:
            raise ValueError("budget.money is given, but no prices: what is spent cannot be told. Give prices too.")
        if taken := sorted(OURS & self.body.keys()):
            raise ValueError(f"body.{taken[0]} is said elsewhere in a recipe, or is not to be chosen. Leave it out.")
        if self.scores_by and not self.tokenizer:
            raise ValueError("scores_by is given, but no tokenizer to read the scores with. Give the model's.")
        return self


class RemoteTeacherConfig(RemoteWriterConfig):
    """A model behind an API as the teacher: never loaded here. It writes, it answers, and where its server tells how likely
    tokens are, it labels."""

    top_logprobs: PositiveInt = 20
    """Where labels are stored: how many of the likeliest tokens are asked for at each place. Most servers tell 20 at most."""

    @property
    def reference(self) -> None:
        """What it was before it was tuned is not here either."""
        return None


UNSEEN = ("prices", "budget", "concurrency", "timeout_seconds", "retries", "key_env")
"""Keys that change nothing of what is said."""
