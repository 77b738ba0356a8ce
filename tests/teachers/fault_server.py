"""A server on loopback that speaks OpenAI's API and fails in every way that servers do, the same way for the same seed."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

FREE = ("429", "500", "503")
"""Refusals: nothing is charged."""
CHARGED = ("drop", "delay", "truncate", "bad_json", "half_stream", "no_choices")
"""The answer was written and is charged, and none of it arrives."""
FAULTS = (*FREE, *CHARGED)

Answer = Callable[[str, Mapping[str, Any]], dict[str, Any]]


def echo(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer that says what was asked, and how long that was in words."""
    asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    text = f"answer to {asked}"
    said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split())}
    return {
        "id": "1",
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", **said}],
        "usage": usage,
    }


WORDS = [
    "the",
    "fox",
    "ran",
    "to",
    "the",
    "hill",
    "and",
    "the",
    "girl",
    "sang",
    "in",
    "the",
    "garden",
    "by",
    "the",
    "sea",
]


def in_words(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Some words that depend on what was asked and on its seed: a list of questions where a list is wanted."""
    asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    draw = Random(f"{asked} {body['seed']}")

    def some() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(3, 7)))

    said = "\n".join(f"{n}. who {some()}?" for n in range(1, 6)) if "numbered list" in asked else f"{some()}."
    text = {"message": {"role": "assistant", "content": said}} if "messages" in body else {"text": f" {said}"}
    usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(said.split())}
    return {"model": body["model"], "choices": [{"index": 0, "finish_reason": "stop", **text}], "usage": usage}


class FaultServer:
    """Answers, and at a `share` of attempts fails instead. A context: it stops with the block.

    Whether an attempt fails depends on the seed, on what is asked, and on how often it was asked before.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        share: float = 0.0,
        faults: Sequence[str] = FAULTS,
        answer: Answer = echo,
        delay_seconds: float = 5.0,
        retry_after: str = "0.02",
        work_seconds: float = 0.0,
    ) -> None:
        self.seed, self.share, self.faults, self.answer = seed, share, faults, answer
        self.delay_seconds, self.retry_after, self.work_seconds = delay_seconds, retry_after, work_seconds
        self.attempts: Counter[str] = Counter()
        """How often each thing was asked for."""
        self.answered: Counter[str] = Counter()
        """How often it was answered in full."""
        self.failed: Counter[str] = Counter()
        self.charged = self.at_once = self.most_at_once = 0
        """Tokens that a provider would ask to be paid for, and requests on their way."""
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        """Headers and body of each."""
        self._loop, self._started = asyncio.new_event_loop(), threading.Event()
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "FaultServer":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Its base_url."""
        return f"http://127.0.0.1:{self._port}/v1"

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._end.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0.01)  # in which connections that were broken off are closed

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))))
        path = head[0].split()[1]
        self.requests.append((headers, body))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._reply(path, body, writer)
        finally:
            self.at_once -= 1

    async def _reply(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        asked = json.dumps([path, body.get("messages", body.get("prompt")), body.get("seed")])
        self.attempts[asked] += 1
        draw = Random(f"{self.seed} {asked} {self.attempts[asked]}")
        fault = draw.choice(self.faults) if draw.random() < self.share else ""
        if fault:
            self.failed[fault] += 1
        if fault in FREE:
            more = f"Retry-After: {self.retry_after}\r\n" if fault == "429" else ""
            return await _send(writer, {"error": {"message": f"fault {fault}"}}, status=int(fault), more=more)
        await asyncio.sleep(self.work_seconds)
        answer = self.answer(path, body)
        status = answer.pop("status", 200)
        self.charged += sum(answer.get("usage", {}).get(name, 0) for name in ("prompt_tokens", "completion_tokens"))
        match fault:
            case "drop":
                return False
            case "delay":
                self.at_once -= 1  # whoever asked gives up meanwhile, and may ask somebody else
                try:
                    await asyncio.sleep(self.delay_seconds)
                finally:
                    self.at_once += 1
                return False
            case "truncate":
                return await _send(writer, answer, status=status, cut=True)
            case "bad_json":
                return await _send(writer, answer, status=status, spoilt=True)
            case "no_choices":
                return await _send(writer, {**answer, "choices": []}, status=status)
            case "half_stream":
                half = json.dumps(answer).encode()[: len(json.dumps(answer)) // 2]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
                await writer.drain()
                return False
        self.answered[asked] += status == 200
        return await _send(writer, answer, status=status)


async def _send(
    writer: asyncio.StreamWriter,
    answer: Mapping[str, Any],
    *,
    status: int,
    more: str = "",
    cut: bool = False,
    spoilt: bool = False,
) -> bool:
    body = json.dumps(answer).encode()
    body = body[:-5] + b"}{]" if spoilt else body
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode() + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    return not cut
