"""A teacher behind an API: nothing is lost, nothing is paid for twice, the budget holds, and the key stays where it is."""

import json
import logging
import sys
import threading
import time
from contextlib import suppress

import pytest

from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import ModelError, RecipeError, RunError
from stillhouse.models.generate import Sampling
from stillhouse.teachers import RemoteWriter, RemoteWriterConfig, Request, Writer, remote_calls
from stillhouse.teachers.ledger import Ledger

from .fault_server import CHARGED, FAULTS, FaultServer, echo

SAMPLING = Sampling(max_new_tokens=8)
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote_calls, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(remote_calls, "LONGEST_PAUSE_SECONDS", 0.01)


def questions(number):
    return [
        Request(seed="0", sampling=SAMPLING, messages=({"role": "user", "content": f"question {n}"},))
        for n in range(number)
    ]


def writer_of(server, *, environment=None, say=lambda text: None, **settings):
    plain = {"kind": "remote", "base_url": server.url, "model": "m", "timeout_seconds": 5.0, **settings}
    return RemoteWriter(parse_recipe(RemoteWriterConfig, plain), environment=environment or {}, say=say)


def all_of(writer, requests):
    return {request.key: reply for request, reply in writer.write(requests)}


def test_hundreds_of_requests_through_all_faults_none_lost_none_twice(tmp_path):
    """benchmarks/faults.py asks a thousand."""
    with FaultServer(seed=1, share=0.25, delay_seconds=2.0) as server:
        writer = writer_of(server, concurrency=32, retries=12, timeout_seconds=1.0)
        asked = questions(300)
        replies = Ledger(tmp_path / "ledger.jsonl", writer).ask(asked)
    assert [reply.text for reply in replies] == [f"answer to question {n}" for n in range(300)]
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 300
    assert set(server.failed) == set(FAULTS) and sum(server.failed.values()) > 60
    assert server.most_at_once <= 32
    paid = sum(reply.tokens + reply.prompt_tokens for reply in replies)
    assert paid <= server.charged <= paid + sum(reply.lost_tokens for reply in replies)


@pytest.mark.parametrize("faults", [(), CHARGED], ids=["no faults", "faults that cost"])
def test_the_budget_is_never_exceeded_and_the_stop_loses_nothing(tmp_path, faults):
    asked, limit, file = questions(300), 900, tmp_path / "ledger.jsonl"
    with FaultServer(share=0.2 if faults else 0.0, faults=faults, delay_seconds=1.8) as server:
        first = writer_of(server, budget={"tokens": limit}, concurrency=8, timeout_seconds=1.5, retries=8)
        with pytest.raises(
            RunError, match=r"budget is used up: \d+ of 900 tokens are spent.* Raise the budget"
        ) as stop:
            Ledger(file, first).ask(asked)
        assert server.charged <= limit
        assert "kept" in str(stop.value)
        kept = file.read_text().splitlines()
        assert len(kept) == sum(server.answered.values()) > 5, "a reply that was paid for was lost"
        # What was spent counts: the same command stops too, and one with a larger budget goes on.
        with pytest.raises(RunError):
            Ledger(file, writer_of(server, budget={"tokens": limit}, concurrency=8)).ask(asked)
        assert server.charged <= limit
        replies = Ledger(file, writer_of(server, concurrency=8, timeout_seconds=1.5, retries=12)).ask(asked)
    assert [reply.text for reply in replies] == [f"answer to question {n}" for n in range(300)]
    assert set(server.answered.values()) == {1}


def test_money_is_a_budget_too_and_is_counted_at_the_prices(tmp_path):
    prices = {"per_million_input_tokens": 1e6, "per_million_output_tokens": 2e6, "currency": "EUR"}
    said = []
    with FaultServer() as server:
        writer = writer_of(server, prices=prices, budget={"money": 500.0}, say=said.append)
        with pytest.raises(RunError, match=r"of 500\.0000 EUR are spent"):
            Ledger(tmp_path / "ledger.jsonl", writer).ask(questions(200))
    ledger = Ledger(tmp_path / "ledger.jsonl", writer)
    assert ledger.cost == ledger.prompt_tokens + 2 * ledger.tokens <= 500
    assert said[0].startswith(
        "asking m for 200 requests: about 600 tokens to read and at most 1,600 to write, at most 3,800"
    )


def test_a_kill_and_a_restart_charge_nothing_twice(tmp_path):
    class Killed(Exception):
        pass

    class Dying(Ledger):
        killed = False

        def _keep(self, found):
            super()._keep(found)
            if self.replies == 40 and not self.killed:
                self.killed = True
                raise Killed

    asked = questions(120)
    with FaultServer(work_seconds=0.005) as server:
        with pytest.raises(Killed):
            Dying(tmp_path / "ledger.jsonl", writer_of(server, concurrency=16)).ask(asked)
        kept = len((tmp_path / "ledger.jsonl").read_text().splitlines())
        assert 40 <= kept == sum(server.answered.values()) < 120, "what was on its way was paid for and lost"
        Ledger(tmp_path / "ledger.jsonl", writer_of(server, concurrency=16)).ask(asked)
    assert set(server.answered.values()) == {1} and len(server.answered) == 120


# Ctrl-C may come between the opening of a file and the block that closes it; then whoever collects the garbage does.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ledger.jsonl:pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_keeps_what_is_on_its_way(tmp_path):
    """An interrupt that meets the main thread wherever it is."""
    ledger_file = tmp_path / "ledger.jsonl"
    with FaultServer(work_seconds=0.02) as server:
        ledger, target = Ledger(ledger_file, writer_of(server, concurrency=8)), threading.get_ident()

        def interrupt():
            while sum(server.answered.values()) < 24:
                time.sleep(0.001)
            _raise_in(target, KeyboardInterrupt)

        presser = threading.Thread(target=interrupt)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            ledger.ask(questions(200))
        presser.join()
        assert len(ledger_file.read_text().splitlines()) == sum(server.answered.values()) < 200


def _raise_in(thread, error):
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def test_retry_after_is_honoured_by_all(tmp_path):
    with FaultServer(share=1.0, faults=("429",), retry_after="0.3") as server:
        writer, started = writer_of(server, retries=1, concurrency=1), time.monotonic()
        with pytest.raises(ModelError, match=r"HTTP 429.*attempt 2, the last that remote.retries allows"):
            all_of(writer, questions(1))
        assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_pass_is_not_tried_again_and_says_what_to_do(status):
    def refuse(path, body):
        return {"status": status, "error": {"message": f"no: {KEY} is wrong", "code": "invalid"}}

    with FaultServer(answer=refuse) as server:
        writer = writer_of(server, concurrency=1, environment={"OPENAI_API_KEY": KEY})
        with pytest.raises(ModelError, match=rf"^m at {server.url} refused a request \(HTTP {status}\): .*\.") as error:
            all_of(writer, questions(5))
        assert sum(server.attempts.values()) == 1
    assert KEY not in str(error.value) and "[hidden]" in str(error.value)


def test_a_server_that_is_not_there_is_named():
    with FaultServer() as server:
        pass
    with pytest.raises(ModelError, match=r"m at http://127.0.0.1:\d+/v1 cannot be reached .*attempt 2"):
        all_of(writer_of(server, retries=1), questions(1))


@pytest.mark.parametrize(
    ("choice", "finished"),
    [
        ({"finish_reason": "stop"}, True),
        ({"finish_reason": "length"}, False),
        ({"finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}, False),
        ({"finish_reason": None}, False),
    ],
)
def test_only_an_answer_that_came_to_its_end_is_finished(choice, finished):
    def answer(path, body):
        whole = echo(path, body)
        whole["choices"][0] |= choice
        return whole

    with FaultServer(answer=answer) as server:
        writer = writer_of(server)
        reply = next(writer.write(questions(1)))[1]
    assert reply.finished is finished
    assert writer.filtered == (choice["finish_reason"] == "content_filter")
    assert bool(reply.text) is ("message" not in choice)


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
def test_a_question_that_alone_cannot_be_answered_gets_an_empty_reply(code):
    def refuse(path, body):
        return {"status": 400, "error": {"message": "no", "code": code}}

    with FaultServer(answer=refuse) as server:
        replies = all_of(writer_of(server), questions(3))
    assert {(reply.text, reply.finished, reply.tokens) for reply in replies.values()} == {("", False, 0)}


def test_tokens_that_the_server_does_not_count_are_estimated_and_that_is_said():
    said = []

    def answer(path, body):
        return {name: value for name, value in echo(path, body).items() if name != "usage"}

    with FaultServer(answer=answer) as server:
        reply = next(iter(all_of(writer_of(server, say=said.append), questions(1)).values()))
    assert (reply.tokens, reply.prompt_tokens, reply.drawn["usage"]) == (5, 3, "estimated")
    assert said == ["m: the tokens of 1 replies are estimated, as the server counts none"]


def test_what_is_sent_is_what_was_asked_and_the_reply_says_how_it_was_drawn():
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=40, max_new_tokens=8)
    chat = Request(seed="0", sampling=sampling, messages=questions(1)[0].messages, stop=("\n",), top_logprobs=3)
    text = Request(seed="0", sampling=SAMPLING, prefix="once", top_logprobs=2)
    with FaultServer() as server:
        writer = writer_of(server, body={"min_p": 0.0}, limit_as="max_completion_tokens")
        replies = all_of(writer, [chat, text])
    told = {"messages" in body: body for _, body in server.requests}
    seeds = {True: int(chat.key, 16) % 2**31, False: int(text.key, 16) % 2**31}
    both = {"model": "m", "min_p": 0.0}
    assert told[True] == both | {
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "max_completion_tokens": 8,
        "stop": ["\n"],
        "seed": seeds[True],
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert told[False] == both | {
        "prompt": "once",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 8,
        "seed": seeds[False],
        "logprobs": 2,
    }
    assert replies[chat.key].drawn["seed"] == seeds[True]
    assert replies[chat.key].drawn["sampling"] == sampling.model_dump(mode="json")
    assert isinstance(writer, Writer)


def test_who_is_asked_is_known_by_what_may_change_its_answers():
    with FaultServer() as server:
        prints = {
            writer_of(server, **more).fingerprint
            for more in [{}, {"concurrency": 2}, {"retries": 1}, {"key_env": None}]
        }
        assert len(prints) == 1
        assert writer_of(server, body={"min_p": 0.1}).fingerprint not in prints


SECRETS = [
    {"api_key": KEY},
    {"body": {"api_key": "plain words"}},
    {"body": {"x": [f"Bearer {KEY}"]}},
    {"key_env": KEY},
    {"key_env": "not a name"},
    {"model": KEY},
    {"base_url": f"https://me:{KEY}@host/v1"},
    {"base_url": f"https://host/v1?key={KEY}"},
    {"budget": {"tokens": KEY}},
    {KEY: 1},
]


@pytest.mark.parametrize("settings", SECRETS, ids=str)
def test_a_recipe_with_a_key_is_refused_without_repeating_it(settings):
    plain = {"kind": "remote", "base_url": "http://localhost/v1", "model": "m", **settings}
    with pytest.raises(RecipeError) as error:
        parse_recipe(RemoteWriterConfig, plain)
    assert "secret" not in str(error.value) and "plain words" not in str(error.value)
    assert "not a name" not in str(error.value)
    if isinstance(next(iter(settings.values())), str):
        assert "key" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({"budget": {"money": 1.0}}, "budget.money is given, but no prices"),
        ({"body": {"seed": 1}}, "body.seed is said elsewhere"),
        ({"scores_by": "echo"}, "scores_by is given, but no tokenizer"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(settings, fault):
    with pytest.raises(RecipeError, match=fault):
        parse_recipe(
            RemoteWriterConfig, {"kind": "remote", "base_url": "http://localhost/v1", "model": "m", **settings}
        )


def test_the_key_is_sent_and_is_in_no_file_no_log_and_no_error(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    asked = questions(30)
    with FaultServer(share=0.3, seed=2, delay_seconds=0.3) as server:
        writer = writer_of(server, environment={"MINE": KEY}, key_env="MINE", timeout_seconds=0.2, retries=20)
        Ledger(tmp_path / "ledger.jsonl", writer).ask(asked)
        server.share, server.faults = 1.0, ("500",)
        failing = writer_of(server, environment={"MINE": KEY}, key_env="MINE", retries=0)
        with pytest.raises(ModelError) as error:
            all_of(failing, asked)
    assert {headers["authorization"] for headers, _ in server.requests} == {f"Bearer {KEY}"}
    chain, seen = error.value, []
    while chain is not None:
        seen.append(f"{chain} {chain!r}")
        chain = chain.__cause__ or chain.__context__
    out = capfd.readouterr()
    logged = [f"{record.getMessage()} {record.args} {record.__dict__}" for record in caplog.records]
    assert len(logged) > 30, "the client logs, and what it logs was looked at"
    texts = [*seen, *logged, out.out, out.err, repr(writer), str(vars(writer.config))]
    texts += [file.read_text() for file in tmp_path.iterdir()]
    assert not [text for text in texts if KEY in text or "very-secret" in text]


def test_without_the_client_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with FaultServer() as server, pytest.raises(ModelError, match=r"pip install 'stillhouse\[remote\]'"):
        writer_of(server)


def test_whoever_stops_listening_stops_the_asking():
    with FaultServer(work_seconds=0.01) as server:
        found = writer_of(server, concurrency=2).write(questions(500))
        next(found)
        found.close()
        time.sleep(0.05)
        asked = sum(server.attempts.values())
        time.sleep(0.1)
        assert sum(server.attempts.values()) == asked < 500


def test_no_thread_is_left_behind():
    before = threading.active_count()
    with FaultServer() as server, suppress(ModelError):
        all_of(writer_of(server), questions(3))
    assert threading.active_count() <= before
