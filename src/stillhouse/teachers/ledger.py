"""What was asked for and what came: nothing is asked, or paid for, twice."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillhouse.core.files import append_line, read_lines
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.teachers.writer import Paid, Reply, Request, Writer, keep_each


class Ledger:
    """A writer's replies, a line each, kept in the moment in which they come.

    Whoever asks may be a plain program that asks, looks at the replies and asks on: killed and started again it asks the same
    and is told the same, without the writer, up to where it was.
    """

    def __init__(self, file: Path, writer: Writer, *, progress: Progress = SILENT) -> None:
        self.file, self.writer, self.progress = file, writer, progress
        self._replies: dict[str, Reply] = {}
        self.tokens = self.prompt_tokens = self.lost_tokens = 0
        self.cost = 0.0
        """In the currency of the writer's prices, as tokens of all replies by now."""
        self.seconds = 0.0
        """For which the writer was waited for, kills and starts left out."""
        self._since = time.monotonic()
        for line in read_lines(file):
            self._count(line["key"], _reply(line))
            self.seconds += line.get("seconds", 0.0)
        if isinstance(writer, Paid):
            writer.already_spent(tokens=self.tokens + self.prompt_tokens + self.lost_tokens, cost=self.cost)

    def ask(self, requests: Sequence[Request], *, title: str = "the teacher writes") -> list[Reply]:
        """The replies, in the order of the requests.

        Raises:
            StillhouseError: as the writer does; what came until then is kept.
        """
        missing = len({request.key for request in requests} - self._replies.keys())
        if missing:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._since = time.monotonic()
            with working(self.progress, title, missing, "texts"):
                keep_each(self.writer.write(requests, self._replies.keys()), self._keep)
        return [self._replies[request.key] for request in requests]

    def known(self, request: Request) -> Reply | None:
        """The reply to this request, if it came."""
        return self._replies.get(request.key)

    def _keep(self, found: tuple[Request, Reply]) -> None:
        request, reply = found
        if request.key in self._replies:
            return
        now = time.monotonic()
        seconds = round(now - self._since, 3)
        append_line(self.file, {"key": request.key, **asdict(reply), "seconds": seconds})
        self._count(request.key, reply)
        self.seconds, self._since = self.seconds + seconds, now
        self.progress.advance(1, note=self._so_far)

    @property
    def _so_far(self) -> str:
        """What was written, how fast, and what it cost."""
        speed = f", {self.tokens / self.seconds:,.0f}/s" if self.seconds else ""
        cost = f", {self.cost:,.4f} {getattr(self.writer, 'currency', '')}".rstrip() if self.cost else ""
        return f"{self.tokens:,} tokens{speed}{cost}"

    @property
    def replies(self) -> int:
        """How many came."""
        return len(self._replies)

    def _count(self, key: str, reply: Reply) -> None:
        if key in self._replies:  # written twice by an interruption, and paid for once
            return
        self._replies[key] = reply
        self.lost_tokens += reply.lost_tokens
        self.tokens += reply.tokens
        self.prompt_tokens += reply.prompt_tokens
        self.cost += reply.cost


def _reply(line: dict[str, Any]) -> Reply:
    values = {name: value for name, value in line.items() if name not in ("key", "seconds")}
    tops = tuple(tuple((token, logprob) for token, logprob in place) for place in values.pop("top_logprobs"))
    return Reply(**values, top_logprobs=tops)
