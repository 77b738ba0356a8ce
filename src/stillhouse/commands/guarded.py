"""transformers' server, with each request looked at before it comes there.

`python -m stillhouse.commands.guarded serve MODEL ...` takes what `transformers serve` takes. That server asks nobody who
he is: on this machine's own address any page in a browser here can send to it, and one whose name is pointed at that address
(DNS rebinding) can read what comes back.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stillhouse.commands.local_server import is_loopback, refusal

LARGEST_BODY_BYTES = 16 * 2**20
"""Of one request: a conversation of a million words is half of it."""
AT_ONCE = 256
"""Connections that are answered; whoever comes beyond them is told to come again (503)."""

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Guard:
    """An ASGI application before another: it lets through what asks for this server by name, from here, and in bounds."""

    def __init__(self, application: Application, *, host: str, port: int) -> None:
        self.application, self.host, self.port = application, host, port

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer, or have it answered."""
        status, said = self._refusal(scope) if scope["type"] == "http" else (200, "")
        if not said:
            return await self.application(scope, receive, send)
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": said.encode()})

    def _refusal(self, scope: Message) -> tuple[int, str]:
        headers = {name.decode("latin-1").title(): value.decode("latin-1") for name, value in scope["headers"]}
        # Who listens to other machines has told them a name that is not known here.
        if is_loopback(self.host) and (said := refusal(headers, port=self.port)):
            return 403, said
        length = headers.get("Content-Length", "0")
        if "Transfer-Encoding" in headers or not length.isdecimal():
            return 411, "say how long it is"
        if int(length) > LARGEST_BODY_BYTES:
            return 413, f"that is longer than {LARGEST_BODY_BYTES // 2**20} MiB"
        return 200, ""


def main() -> None:
    """Run transformers' command line with every server that it starts guarded."""
    import uvicorn  # type: ignore[import-not-found, unused-ignore]
    from transformers.cli.transformers import main as transformers_main

    class Guarded(uvicorn.Config):  # type: ignore[misc, unused-ignore]
        def __init__(self, app: Any, *, host: str, port: int, **options: Any) -> None:
            guard = Guard(app, host=host, port=port)
            super().__init__(guard, host=host, port=port, limit_concurrency=AT_ONCE, **options)

    uvicorn.Config = Guarded  # type: ignore[misc, unused-ignore]
    transformers_main()


if __name__ == "__main__":
    main()
