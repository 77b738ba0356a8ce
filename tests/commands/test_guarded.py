"""What stands before a server that others keep."""

import asyncio

import pytest

from stillhouse.commands.guarded import LARGEST_BODY_BYTES, Guard

OWN = {"host": "127.0.0.1:80"}


def answer(headers, *, host="127.0.0.1", kind="http"):
    """The status of a request with these headers, from the guard or from what stands behind it."""
    sent = []

    async def behind(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.disconnect"}

    said = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Guard(behind, host=host, port=80)({"type": kind, "headers": said}, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OWN, 200),
        ({"host": "localhost:80"}, 200),
        ({"host": "[::1]:80", "content-length": str(LARGEST_BODY_BYTES)}, 200),
        ({"host": "evil.example:80"}, 403),
        ({}, 403),
        ({**OWN, "origin": "http://evil.example"}, 403),
        ({**OWN, "sec-fetch-site": "cross-site"}, 403),
        ({**OWN, "content-length": str(LARGEST_BODY_BYTES + 1)}, 413),
        ({**OWN, "content-length": "-1"}, 411),
        ({**OWN, "transfer-encoding": "chunked"}, 411),
    ],
)
def test_a_request_comes_through_from_here_by_name_and_in_bounds(headers, status):
    assert answer(headers) == status


def test_who_listens_to_other_machines_is_asked_under_any_name_and_in_bounds():
    assert answer({"host": "box.example:80"}, host="0.0.0.0") == 200
    assert answer({"host": "box.example:80", "content-length": "9" * 20}, host="0.0.0.0") == 413


def test_what_is_no_request_is_let_through():
    assert answer({}, kind="lifespan") == 200
