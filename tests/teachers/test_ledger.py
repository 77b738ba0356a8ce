"""What was asked for once is never asked for again, and a kill changes nothing."""

import pytest

from stillhouse.models.generate import Sampling
from stillhouse.models.load import LoadedModel
from stillhouse.synthesis.records import Record, asking
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter, Request

SAMPLING = Sampling(max_new_tokens=5)


def questions(number):
    return [
        asking(f"{n}", [{"role": "user", "content": f"who ran {n % 3}?"}], sampling=SAMPLING) for n in range(number)
    ]


@pytest.fixture
def writer(build_model, tokenizer, tmp_path):
    model = build_model(vocab=len(tokenizer), layers=2)
    loaded = LoadedModel(model, tokenizer, "tiny", tmp_path)
    return LocalWriter(loaded, name="tiny", fingerprint="0", batch_size=2)


class Killed(Exception):
    pass


class Counting:
    """A writer that counts what it is asked for, and stops after so many replies."""

    def __init__(self, writer, most=10**9):
        self.writer, self.most, self.written = writer, most, 0
        self.name, self.fingerprint, self.tokenizer = writer.name, writer.fingerprint, writer.tokenizer

    def write(self, requests, done=()):
        for found in self.writer.write(requests, done):
            if self.written == self.most:
                raise Killed
            self.written += 1
            yield found


def test_nothing_is_asked_twice(writer, tmp_path):
    first = Counting(writer)
    replies = Ledger(tmp_path / "ledger.jsonl", first).ask(questions(5))
    again = Counting(writer)
    assert Ledger(tmp_path / "ledger.jsonl", again).ask(questions(5)) == replies
    assert (first.written, again.written) == (5, 0)


@pytest.mark.parametrize("most", [0, 1, 7, 9, 10, 15])
def test_a_kill_at_any_reply_changes_nothing(writer, tmp_path, most):
    whole = Ledger(tmp_path / "whole.jsonl", writer).ask(questions(18))
    with pytest.raises(Killed):
        Ledger(tmp_path / "ledger.jsonl", Counting(writer, most)).ask(questions(18))
    ledger = Ledger(tmp_path / "ledger.jsonl", writer)
    assert ledger.ask(questions(18)) == whole
    assert ledger.tokens == sum(reply.tokens for reply in whole)
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 18


def test_a_reply_depends_on_its_own_seed_alone(writer, tmp_path):
    many = Ledger(tmp_path / "many.jsonl", writer).ask(questions(9))
    one = Ledger(tmp_path / "one.jsonl", writer).ask(questions(9)[4:5])
    assert one[0].text == many[4].text  # its log-probability differs in the last digit, with the width of the batch
    assert len({reply.text for reply in many}) > 3, "one question under several seeds"


def test_a_stop_ends_a_text_before_it(writer, tmp_path):
    request = Request(seed="0", sampling=SAMPLING, prefix="the fox")
    text = next(writer.write([request]))[1].text
    stopped = Request(seed="0", sampling=SAMPLING, prefix="the fox", stop=(text[2:4],))
    assert text[2:4] and Request(seed="0", sampling=SAMPLING, prefix="the fox").key != stopped.key
    reply = next(writer.write([stopped]))[1]
    assert text[2:4] not in reply.text


def test_nothing_at_all_can_be_gone_on_from(writer):
    reply = next(writer.write([Request(seed="0", sampling=SAMPLING, prefix="")]))[1]
    assert reply.prompt_tokens == 1 and reply.tokens


def test_a_prompt_without_room_gets_an_empty_reply(writer):
    long = Request(seed="0", sampling=SAMPLING, prefix="the fox " * 2000)
    short = Request(seed="0", sampling=SAMPLING, prefix="the fox")
    found = {request.key: reply for request, reply in writer.write([long, short])}
    assert (found[long.key].text, found[long.key].finished, found[long.key].tokens) == ("", False, 0)
    assert found[short.key].tokens


def test_a_record_says_what_was_asked_and_answered():
    record = Record(messages=({"role": "user", "content": "why?"},), lineage={"source": "test"})
    assert (record.question, record.answer) == ("why?", "")
    answered = record.say("assistant", "so", writer="tiny").score("length", 2.0)
    assert (answered.answer, dict(answered.lineage)) == ("so", {"source": "test", "writer": "tiny"})
    assert answered.drop("short").dropped == "short" and not answered.dropped
