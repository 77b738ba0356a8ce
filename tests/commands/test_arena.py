"""`stillhouse chat --web`: both sides in a browser, and votes that a recipe can learn from."""

import json
import re
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from stillhouse.commands.arena import Arena
from stillhouse.commands.local_server import Reply
from stillhouse.commands.speakers import Speaker
from stillhouse.core.errors import DataError
from stillhouse.data.preference_forms import read_preferences
from stillhouse.models.generate import Sampling
from stillhouse.models.load import load_causal_lm

from .conftest import assert_refused_in_one_line, stillhouse
from .test_watch import BROWSER, ask, served

EYES = """<script>
addEventListener("load", () => {
  const one = (what) => document.querySelector(what);
  const steps = [
    () => {
      one("[value=blind]").click();
      one("#question").value = "who ran <b>there</b>?";
      one("#composer").requestSubmit();
      return true;
    },
    () => { const vote = one("[data-vote=right]"); window.names = one(".turn")?.textContent; vote?.click(); return vote; },
    () => { const part = one(".turn .part"); part?.click(); return part; },
    () => one(".expected code"),
    () => {
      const found = JSON.stringify({
        before: window.names, after: one(".turn").textContent, bold: !!one(".turn .prompt b"),
        differing: document.querySelectorAll(".token.differs").length, chosen: document.querySelectorAll(".chosen").length,
        bars: document.querySelectorAll(".expected p").length, trouble: one("#trouble").textContent,
        wide: document.documentElement.scrollWidth - innerWidth,
      });
      fetch("/found", { method: "POST", headers: { "Content-Type": "application/json" }, body: found });
      return true;
    },
  ];
  const go = () => { if (steps.length && steps[0]()) steps.shift(); if (steps.length) setTimeout(go, 50); };
  go();
});
</script></body>"""


@pytest.fixture(scope="module")
def speakers(tmp_path_factory, build_model, tokenizer):
    """Two models with the same tokenizer."""
    folder = tmp_path_factory.mktemp("sides")
    for seed, role in enumerate(("teacher", "student")):
        model = build_model(layers=1, vocab=len(tokenizer), seed=seed + 1, max_position_embeddings=4096)
        model.save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    return [Speaker(role, load_causal_lm(str(folder / role))) for role in ("teacher", "student")]


@pytest.fixture
def arena(speakers, tmp_path):
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    return Arena(speakers, sampling=sampling, seed=0, system="be brief", votes=tmp_path / "votes.jsonl")


def said(arena, question, *, blind, conversation="one"):
    """All lines that come back."""
    reply = arena.post("/ask", {"conversation": conversation, "question": question, "blind": blind})
    return [json.loads(line) for line in reply.body]


def told(arena, path, **body):
    return json.loads(arena.post(path, {"conversation": "one", **body}).body)


def test_both_answer_in_the_open_each_behind_its_own_answers_and_say_how_fast(arena, speakers):
    *_, first = said(arena, "who ran?", blind=False)
    assert [(side["role"], side["tokens"]) for side in first["sides"]] == [("teacher", 8), ("student", 8)]
    assert all(side["first_seconds"] > 0 and side["tokens_per_second"] > 0 for side in first["sides"])
    said(arena, "and then?", blind=False)
    talk = arena.conversations["one"]
    for which, history in enumerate(talk.histories):
        assert [message["role"] for message in history] == ["system", "user", "assistant"]
        assert history[-1]["content"] == talk.turns[0].answers[which].text
    tokens = told(arena, "/tokens", turn=0, side="right")["tokens"]
    assert len(tokens) == 8 and any(token["differs"] for token in tokens)
    for token in tokens:
        assert token["differs"] == (token["teacher"][0][0] != token["student"][0][0]) or not token["differs"]
        assert [p for _, p in token["teacher"]] == sorted((p for _, p in token["teacher"]), reverse=True)
    assert "begin anew" in said(arena, "blind now", blind=True)[0]["error"]


def test_votes_are_blind_and_pairs_that_our_own_reader_reads(arena, tokenizer):
    sides = set()
    for turn, question in enumerate(("who ran?", "and sang?", "the girl?", "a hill?")):
        lines = said(arena, question, blind=True)
        assert not re.search("teacher|student|seconds", json.dumps(lines))
        with pytest.raises(DataError, match="vote first"):
            told(arena, "/tokens", turn=turn, side="left")
        vote = "tie" if turn == 3 else "right"
        found = told(arena, "/vote", turn=turn, vote=vote)
        assert found["kept"] == (vote == "right")
        sides.add(found["sides"][0]["role"])
        with pytest.raises(DataError, match="a vote was cast"):
            told(arena, "/vote", turn=turn, vote="left")
    talk = arena.conversations["one"]
    assert talk.histories[0] == talk.histories[1]  # both go on from the better answer
    assert [message["content"] for message in talk.histories[0][2::2]] == [
        turn.answers[1].text for turn in talk.turns[:3]
    ]
    pairs = list(read_preferences(arena.votes)[0])
    assert len(pairs) == 3
    for pair, turn in zip(pairs, talk.turns, strict=False):
        assert pair.chosen.messages[-1]["content"] == turn.answers[1].text
        assert pair.rejected.messages[-1]["content"] == turn.answers[0].text
        assert (
            pair.chosen.messages[:-1]
            == pair.rejected.messages[:-1]
            == [*turn.before, {"role": "user", "content": turn.question}]
        )


def test_what_makes_no_sense_is_refused(arena):
    with served(arena) as port:
        kind = {"method": "POST", "Content_Type": "application/json"}
        for path, body, words in (
            ("/ask", {"conversation": "one"}, "question: a text was expected"),
            ("/vote", {"conversation": "one", "turn": 3, "vote": "left"}, "there is no turn 3"),
            ("/tokens", {"conversation": "one", "turn": "0", "side": "up"}, "there is no turn '0'"),
        ):
            status, text = ask(port, path, body=json.dumps(body), **kind)
            assert status == 400 and words in json.loads(text)["error"]
        assert ask(port, "/ask", body="{}", Origin="http://evil.example", **kind)[0] == 403
    assert_refused_in_one_line(stillhouse("chat", "--web"), "chat needs a run folder, or both --teacher and --student")


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium to open the page in")
def test_in_a_browser_names_are_hidden_until_a_vote_and_tokens_are_compared(arena, tmp_path):
    class Watched(Arena):
        """The page with our own eyes in it."""

        def get(self, path: str) -> Reply | None:
            reply = super().get(path)
            if reply is None:
                return None
            loose = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", reply.body.decode())
            return Reply(loose.replace("</body>", EYES).encode())

        def post(self, path: str, body: Mapping[str, Any]) -> Reply | None:
            if path == "/found":
                found.update(body)
                seen.set()
            return super().post(path, body)

    arena.__class__ = Watched
    found: dict[str, Any] = {}
    seen = threading.Event()
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--remote-debugging-port=0")
    with served(arena) as port:
        command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"http://127.0.0.1:{port}/"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert seen.wait(60)
        finally:
            browser.terminate()
            browser.wait()
    assert found["trouble"] == "" and found["wide"] <= 0 and not found["bold"]
    assert "teacher" not in found["before"] and "who ran <b>there</b>?" in found["before"]
    assert "teacher" in found["after"] and "tokens/s" in found["after"] and found["chosen"] == 1
    assert found["differing"] > 0 and found["bars"] == 10
    assert len(arena.votes.read_text().splitlines()) == 1
