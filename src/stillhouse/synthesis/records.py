"""One example on its way into the data: what it says, and where it comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stillhouse.teachers.writer import Message, Reply, Request

Ask = Callable[..., list[Reply]]
"""`Ledger.ask`: (requests, title=...) -> replies, in the order of the requests."""


@dataclass(frozen=True)
class Record:
    """A conversation, or a text of a model that holds none, with its lineage. Dropped ones are kept, with their reason."""

    messages: tuple[Message, ...] = ()
    """Ends with the user's turn while it is asked, and with the assistant's once it is answered."""
    text: str = ""
    """Where there are no messages."""
    finished: bool = True
    """Whether the last thing that was written came to its end."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """How it came about: the source, what it was made from, who wrote it, how it was drawn."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What rewards and judges made of it, by their names."""
    others: tuple["Record", ...] = ()
    """Other answers to the same question that were not chosen, each with its own scores."""
    dropped: str = ""
    """Why it is not learnt; empty where it is."""

    @property
    def question(self) -> str:
        """The last thing that the user says."""
        return next((message["content"] for message in reversed(self.messages) if message["role"] == "user"), "")

    @property
    def answer(self) -> str:
        """What the assistant says last; of a text, all of it; empty where nobody has answered yet."""
        if not self.messages:
            return self.text
        return self.messages[-1]["content"] if self.messages[-1]["role"] == "assistant" else ""

    def drop(self, reason: str) -> "Record":
        """The same, not to be learnt."""
        return replace(self, dropped=reason)

    def say(self, role: str, content: str, **lineage: Any) -> "Record":
        """The same with one more message."""
        messages = (*self.messages, {"role": role, "content": content})
        return replace(self, messages=messages, lineage={**self.lineage, **lineage})

    def score(self, name: str, value: float) -> "Record":
        """The same with one more score."""
        return replace(self, scores={**self.scores, name: value})


Source = Callable[[Ask], list[Record]]
"""A way to find questions: asks what it needs, and gives records that end with a user's turn (or texts)."""

Filter = Callable[[Sequence[Record]], Sequence[str]]
"""For each record the reason to drop it, or an empty text. Sees only records that nothing has dropped yet."""

Reward = Callable[[Sequence[Record]], Sequence[float]]
"""How good the last answer of each record is. Only differences mean anything."""


def asking(seed: str, messages: Sequence[Message], **settings: Any) -> Request:
    """A request for the assistant's next turn."""
    return Request(seed=seed, messages=tuple(messages), **settings)


ROLES = ("system", "user", "assistant")
"""Who speaks in what is sent to an API."""


def is_plain(message: Mapping[str, Any]) -> bool:
    """Whether a turn can be sent to an API: plain text of one who may speak."""
    return message["role"] in ROLES and isinstance(message.get("content"), str) and not message.get("tool_calls")
