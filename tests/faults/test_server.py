"""A teacher behind an API that is gone for long: what was asked is answered once it is back, and paid for once."""

import threading
import time

import pytest
from apart import FULL

from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import read_lines
from stillhouse.models.generate import Sampling
from stillhouse.teachers import RemoteWriter, RemoteWriterConfig, Request
from stillhouse.teachers.ledger import Ledger

from .harness import shared, tally

SECONDS = 120 if FULL else 0.5
"""For which the server is gone."""


def asked(number: int) -> Request:
    message = {"role": "user", "content": f"question {number}"}
    return Request(seed="0", sampling=Sampling(max_new_tokens=8), messages=(message,))


@pytest.mark.parametrize("fault", ["503", "drop"] if FULL else ["503"])
def test_a_server_that_is_gone_for_long_costs_time_and_nothing_else(fault, tmp_path):
    requests, file = [asked(number) for number in range(40)], tmp_path / "ledger.jsonl"
    with shared.FAULT_SERVER.FaultServer(share=0.2, faults=(fault,), retry_after="0.02") as server:
        config = {"base_url": server.url, "model": "m", "key_env": None, "timeout_seconds": 5.0}
        impatient = RemoteWriter(RemoteWriterConfig(**config, retries=0))
        with pytest.raises(StillhouseError, match="the last that remote.retries allows"):
            Ledger(file, impatient).ask(requests)
        kept = len(read_lines(file))
        server.share = 1.0
        threading.Timer(SECONDS, setattr, (server, "share", 0.0)).start()
        started = time.monotonic()
        replies = Ledger(file, RemoteWriter(RemoteWriterConfig(**config, retries=10_000))).ask(requests)
        assert time.monotonic() - started >= SECONDS - 0.1
    keys = [line["key"] for line in read_lines(file)]
    right = sum(reply.text == f"answer to question {number}" for number, reply in enumerate(replies))
    lost, twice = len(requests) - len(set(keys)), len(keys) - len(set(keys))
    assert (right, lost, twice) == (len(requests), 0, 0) and kept < len(requests)
    tally(f"a server gone for {SECONDS:g} s", survived=1, lost=lost, twice=twice)
