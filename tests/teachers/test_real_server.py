"""A real server on loopback: `transformers serve` with a tiny model on disk. Skipped where it is not installed."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from transformers.utils.import_utils import is_serve_available

from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import ModelError
from stillhouse.models.generate import Sampling
from stillhouse.models.load import load_causal_lm
from stillhouse.teachers import LocalWriter, RemoteWriter, RemoteWriterConfig, Request
from stillhouse.teachers.ledger import Ledger

pytestmark = pytest.mark.skipif(
    not is_serve_available(),
    reason="no real server here: pip install 'transformers[serving]' brings transformers serve",
)

GREEDY = Sampling(temperature=0.0, max_new_tokens=8)
SPECIAL = re.compile(r"<\|\w+\|>")
START_SECONDS = 120.0
QUESTIONS = [({"role": "user", "content": f"who ran {n} times to the sea?"},) for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, build_model, tokenizer):
    """A tiny model that ends some answers, and says the same whoever runs it."""
    found = tmp_path_factory.mktemp("served") / "tiny"
    build_model("llama", layers=2, vocab=len(tokenizer)).save_pretrained(found)
    tokenizer.save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Its base_url, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    log = tmp_path_factory.mktemp("served") / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*serve, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(url, process, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended at once: {log.read_text()[-2000:]}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.3)
    pytest.fail(f"the server did not answer within {START_SECONDS:g} seconds: {log.read_text()[-2000:]}")


def writer_of(server, folder, **settings):
    plain = {"base_url": server, "model": str(folder), "key_env": None, "tokenizer": str(folder), **settings}
    return RemoteWriter(parse_recipe(RemoteWriterConfig, plain, source="x"), environment={})


def test_a_real_server_says_in_chats_what_its_model_says_here(server, folder, tmp_path):
    asked = [Request(seed="0", sampling=GREEDY, messages=messages) for messages in QUESTIONS]
    replies = Ledger(tmp_path / "ledger.jsonl", writer_of(server, folder)).ask(asked)
    local = LocalWriter(load_causal_lm(str(folder)), name="here", fingerprint="0")
    here = {request.key: reply for request, reply in local.write(asked)}
    for request, reply in zip(asked, replies, strict=True):
        own = here[request.key]
        assert reply.text.strip() == SPECIAL.sub("", own.text).strip() and reply.text
        assert reply.prompt_tokens > 0 and 0 < reply.tokens <= GREEDY.max_new_tokens
        assert "usage" not in reply.drawn, "it counts its tokens itself"


def test_a_real_server_goes_on_from_a_text(server, folder, tmp_path):
    asked = [Request(seed="0", sampling=GREEDY, prefix="the fox ran")]
    (reply,) = Ledger(tmp_path / "ledger.jsonl", writer_of(server, folder)).ask(asked)
    local = LocalWriter(load_causal_lm(str(folder)), name="here", fingerprint="0")
    ((_, own),) = local.write(asked)
    assert reply.text.strip() == SPECIAL.sub("", own.text).strip(), "it leaves special tokens out"


def test_a_budget_stops_before_a_real_server_is_asked_for_more(server, folder, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", writer_of(server, folder, budget={"tokens": 1}))
    with pytest.raises(ValueError, match="the budget is used up"):
        ledger.ask([Request(seed="0", sampling=GREEDY, messages=QUESTIONS[0])])
    assert ledger.replies == 0


def test_what_a_real_server_cannot_tell_is_said(server, folder):
    with pytest.raises(ModelError, match="scores_by does not say how"):
        next(writer_of(server, folder).score([(1, 2, 3)], top=2))
