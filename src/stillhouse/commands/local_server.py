"""A page for this machine's own browser: loopback only, asked by its own pages only, and in small pieces."""

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, runtime_checkable

from stillhouse.core.errors import StillhouseError

LOOPBACK = "127.0.0.1"
LARGEST_BODY_BYTES = 64 * 1024
"""Of what a page may send: a long question is a tenth of it."""
IDLE_SECONDS = 30
"""A connection over which nothing comes for so long is closed."""
POLICY = "frame-ancestors 'none'"
"""What a page may not say of itself; all else stands in its own policy."""


@dataclass(frozen=True)
class Reply:
    """What is answered: whole, or piece by piece as it comes."""

    body: bytes | Iterator[bytes]
    kind: str = "text/html; charset=utf-8"
    status: int = 200


def as_json(value: Any, status: int = 200) -> Reply:
    """A reply for a script."""
    return Reply(json.dumps(value, ensure_ascii=False).encode(), "application/json", status)


@runtime_checkable
class Site(Protocol):
    """What is behind the paths of a server; None where nothing is."""

    def get(self, path: str) -> Reply | None: ...
    def post(self, path: str, body: Mapping[str, Any]) -> Reply | None: ...


class _Nothing:
    def get(self, path: str) -> Reply | None:
        return None

    def post(self, path: str, body: Mapping[str, Any]) -> Reply | None:
        return None


LATER = _Nothing()
"""A site that is not there yet, to try a port with."""


def is_loopback(host: str) -> bool:
    """Whether who listens there is heard on this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(headers: Mapping[str, str], *, port: int) -> str:
    """Why a request is none of our own page's; nothing where it is.

    Another page in the same browser can send requests to this address, and with a name of its own that leads here (DNS
    rebinding) also read what comes back. Either shows in `Host`, `Origin` or `Sec-Fetch-Site`, which no page can write.
    """
    names = {f"{name}:{port}" for name in (LOOPBACK, "localhost", "[::1]")}
    if headers.get("Host", "").lower() not in names:
        return "this server is asked under another name than its own"
    origin = headers.get("Origin")
    if origin is not None and origin.lower() not in {f"http://{name}" for name in names}:
        return "another page asks"
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return "another page asks"
    return ""


def listen(site: Site, *, port: int) -> ThreadingHTTPServer:
    """A server of this site on loopback; `port` 0 takes any that is free.

    Raises:
        StillhouseError: if the port cannot be had.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _handler(site))
    except (OSError, OverflowError) as error:
        raise StillhouseError(f"--port {port} cannot be listened on: {error}. Name another, or 0 for any.") from None
    server.daemon_threads = True
    return server


def serve(site: Site, *, port: int, what: str) -> None:
    """Serve until Ctrl-C, which is how one ends it."""
    with listen(site, port=port) as server:
        print(f"{what}: http://{LOOPBACK}:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        print()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_SECONDS
        server_version, sys_version = "stillhouse", ""

        def do_GET(self) -> None:
            self._answer(lambda path: site.get(path))

        def do_POST(self) -> None:
            self._answer(lambda path: site.post(path, self._body()))

        def _answer(self, ask: Any) -> None:
            assert isinstance(self.server, ThreadingHTTPServer)
            refused = refusal(dict(self.headers.items()), port=int(self.server.server_address[1]))
            if refused:
                return self._send(as_json({"error": refused}, 403))
            try:
                reply = ask(self.path.partition("?")[0]) or as_json({"error": "there is nothing here"}, 404)
            except _Refused as error:
                reply = as_json({"error": str(error)}, error.status)
            except StillhouseError as error:
                reply = as_json({"error": str(error)}, 400)
            with suppress(ConnectionError, TimeoutError):  # who asked has gone
                self._send(reply)

        def _body(self) -> Mapping[str, Any]:
            if self.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
                raise _Refused(415, "send application/json")
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise _Refused(411, "say how long it is")
            if int(length) > LARGEST_BODY_BYTES:
                raise _Refused(413, f"that is longer than {LARGEST_BODY_BYTES // 1024} KiB")
            try:
                found = json.loads(self.rfile.read(int(length)))
            except ValueError:
                raise _Refused(400, "that is no JSON") from None
            if not isinstance(found, dict):
                raise _Refused(400, "send an object")
            return found

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            for name, value in (
                ("Cache-Control", "no-store"),
                ("Content-Security-Policy", POLICY),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Content-Type-Options", "nosniff"),
            ):
                self.send_header(name, value)
            if isinstance(reply.body, bytes):
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                return
            self.end_headers()  # HTTP/1.0: it ends where the connection does
            pieces: Any = reply.body
            with closing(pieces):
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a line for each look would fill the terminal."""

    return Handler


class _Refused(Exception):
    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status
