"""Data from nothing, from the recipe to the report; what cannot be is refused before a model is loaded."""

import json
import math

import numpy as np
import pytest

from stillhouse.commands.synthesis import Program
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import read_lines
from stillhouse.data.chat_forms import read_conversations
from stillhouse.synthesis.config import MagpieConfig
from stillhouse.synthesis.diversity import spread
from stillhouse.synthesis.records import Record
from stillhouse.teachers.writer import Reply

from .conftest import assert_refused, assert_refused_in_one_line, files_in, stillhouse, write_recipe

DATA = {"kind": "chat", "sequence_tokens": 96, "held_out": 0.25}
SAMPLING = {"max_new_tokens": 40}
FILTERS = [{"name": "unfinished"}, {"name": "duplicates"}]
MAGPIE = {
    "kind": "magpie",
    "number": 24,
    "sampling": SAMPLING,
    "batch_size": 8,
    "filters": FILTERS,
    "answers": {"sampling": {"max_new_tokens": 16}},
}


@pytest.fixture
def data_free(tmp_path, writing_teacher):
    """Write a recipe whose teacher writes its conversations; its run is `tmp_path / "run"`."""

    def write(synthesis=MAGPIE, **changes):
        return write_recipe(tmp_path, writing_teacher, **{"synthesis": synthesis, "data": DATA, **changes})

    return write


def test_a_student_is_made_from_nothing(data_free, tmp_path):
    said = stillhouse("distill", data_free())
    assert said.code == 0, said.err
    run = tmp_path / "run"
    rows = read_lines(run / "data" / "synthetic.jsonl")
    assert len(rows) == len(read_conversations(run / "data" / "synthetic.jsonl")) > 4
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["lineage"]["source"] == "magpie" and row["lineage"]["teacher"] == "writer"
        assert row["lineage"]["filters"] == ["unfinished", "duplicates"]
    card = json.loads((run / "data" / "card.json").read_text())
    assert card["counts"] == {"asked": 24, "answered": card["counts"]["answered"], "kept": len(rows)}
    assert len(rows) == 24 - sum(line["count"] for line in card["dropped"])
    assert card["written_by"]["questions_drawn"]["max_new_tokens"] == 40 and card["diversity"]["after"]["texts"] > 0
    for page in ("report.html", "student/README.md"):
        text = (run / page).read_text()
        assert "magpie" in text and "nothing found about training on its outputs" in text
    before = files_in(run)
    assert stillhouse("synthesize", data_free()).code == 0
    assert files_in(run) == before, "nothing is done twice"


KINDS = {
    "personas": {"personas": ["an old man", "a robot"], "at_once": 1},
    "questions": {"templates": ["who ran to the {place}?"], "slots": {"place": [f"hill {n}" for n in range(20)]}},
    "evolve": {"rounds": 2},
}
"""Those of no recipe."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_as_far_as_its_name(data_free, tmp_path, kind):
    synthesis = {**MAGPIE, "kind": kind, **KINDS[kind], "turns": 1, "user": {"sampling": SAMPLING}}
    if kind == "evolve":
        synthesis["start"] = {"kind": "topics", "topics": ["foxes"], "number": 9, "at_once": 1, "sampling": SAMPLING}
    said = stillhouse("synthesize", data_free(synthesis))
    assert said.code == 0, said.err
    rows = read_lines(tmp_path / "run" / "data" / "synthetic.jsonl")
    assert {row["lineage"]["source"] for row in rows} == {"templates" if kind == "questions" else kind}
    assert not (tmp_path / "run" / "student").exists()


def test_a_base_model_writes_the_texts_that_its_student_learns(data_free, tmp_path):
    synthesis = {"kind": "continue", "number": 24, "prefixes": ["", "the {who}"], "slots": {"who": ["fox", "girl"]}}
    synthesis |= {"filters": [{"name": "duplicates"}], "sampling": {"max_new_tokens": 20}}
    path = data_free(synthesis, data={"sequence_tokens": 64, "held_out": 0.25})
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    rows = read_lines(tmp_path / "run" / "data" / "synthetic.jsonl")
    assert {row["lineage"]["prefix"] for row in rows} == {"", "the fox", "the girl"}
    assert all(row["text"].startswith(row["lineage"]["prefix"]) for row in rows)


def test_a_dry_run_shows_five_examples_and_the_estimate_and_keeps_nothing(data_free, tmp_path, recipe):
    said = stillhouse("synthesize", data_free(), "--dry-run")
    assert said.code == 0, said.err
    assert [f"example {n}: " in said.out for n in (1, 5, 6)] == [True, True, False]
    assert "from: source magpie" in said.out and "the whole: about" in said.out and "8 of 24 questions" in said.out
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}
    old = stillhouse("synthesize", recipe(), "--dry-run")
    assert old.code == 0 and "the whole: 300 tokens" in old.out, old.err
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


def test_a_recipe_may_ask_for_kept_records(data_free, tmp_path):
    synthesis = {name: value for name, value in MAGPIE.items() if name != "number"}
    said = stillhouse("synthesize", data_free({**synthesis, "kept": 9, "most": 60}))
    assert said.code == 0, said.err
    data = tmp_path / "run" / "data"
    card = json.loads((data / "card.json").read_text())
    assert len(read_lines(data / "synthetic.jsonl")) == card["counts"]["kept"] == 9
    assert 9 < card["counts"]["asked"] <= 60 and card["source"]["kept"] == 9
    questions = [line for line in read_lines(data / "ledger.jsonl") if line["key"]]
    assert len(questions) == len({line["key"] for line in questions})


class Nobody:
    name, fingerprint, tokenizer = "nobody", "0", None

    def write(self, requests, done=()):
        raise AssertionError("nobody is asked")


class Lengths:
    """Embeds a text as its length and its number of words."""

    def documents(self, texts):
        return np.array([[len(text), len(text.split())] for text in texts], dtype=np.float32)


def test_the_card_says_how_far_apart_questions_are_by_the_model_that_is_named(tmp_path, monkeypatch):
    wanted = parse_recipe(MagpieConfig, {**MAGPIE, "spread_by": "./an-embedder"}, source="x")
    monkeypatch.setattr("stillhouse.commands.synthesis.load_embedder", lambda name: Lengths())
    records = [Record().say("user", text).say("assistant", "so") for text in ("one two", "a", "three little words")]
    found = Program(wanted, Nobody(), tmp_path).account([*records[:2], records[2].drop("too long")])["diversity"]
    assert found["after"]["spread_by"] == "./an-embedder"
    assert found["before"]["spread"] == spread([one.question for one in records], embed=Lengths().documents)
    assert found["after"]["spread"]["value"] == pytest.approx(1 - (7 + 2) / math.sqrt((49 + 4) * 2))


@pytest.mark.parametrize(
    ("synthesis", "data", "words"),
    [
        ({"kind": "magpy", "number": 5}, DATA, "synthesis.kind: 'magpy' is not known. Did you mean 'magpie'?"),
        ({"kind": "magpie", "number": 0}, DATA, "synthesis.number: 0 came, but it should be greater than 0."),
        ({"kind": "magpie"}, DATA, "give number (of questions) or kept (of records that filters leave)."),
        ({"kind": "magpie", "number": 5, "kept": 5}, DATA, "number is 5 and kept is 5. Give one"),
        ({"kind": "magpie", "kept": 5, "most": 4}, DATA, "most is 4: the most questions that are asked"),
        (
            {"kind": "magpie", "number": 5, "most": 9},
            DATA,
            "until `kept` records are, and no fewer than these. Leave it",
        ),
        ({"kind": "magpie", "number": 5, "topic": "x"}, DATA, "synthesis.topic: there is no such key."),
        (MAGPIE, {"kind": "text"}, "synthesis of kind magpie writes conversations for data of kind chat"),
        ({"kind": "continue", "number": 5}, DATA, "synthesis of kind continue writes text for data of kind text"),
        ({"kind": "topics", "number": 5}, DATA, "give topics or a root: exactly one of them"),
        ({"kind": "questions"}, DATA, "give path or templates: exactly one of them"),
        ({"kind": "personas", "number": 5, "personas": []}, DATA, "personas"),
        (
            {"kind": "evolve", "number": 5},
            DATA,
            "give path or start: exactly one of them says which questions are evolved",
        ),
        (
            {"kind": "evolve", "number": 5, "start": {"kind": "topics", "root": "x", "number": 3, "turns": 2}},
            DATA,
            "start.turns is given, but what starts only asks questions",
        ),
        ({"kind": "evolve", "number": 5, "path": "x", "ways": ["up"]}, DATA, "ways has 'up'. Known: constraints,"),
        (
            {"kind": "magpie", "number": 5, "answers": {"samples": 2, "sampling": {"temperature": 0}}},
            DATA,
            "samples is 2, but at temperature 0 all of them are the same",
        ),
        ({"kind": "magpie", "number": 5, "answers": {"learn": "answer"}}, DATA, "learn is answer, but with trace none"),
        (
            {**MAGPIE, "choose": {"kind": "pairs", "reward": {"kind": "length"}}},
            DATA,
            "choose.kind pairs takes one of several answers, but answers.samples is 1",
        ),
        ({**MAGPIE, "filters": [{"name": "lenght"}]}, DATA, "'lenght' is not known. Did you mean 'length'?"),
        ({**MAGPIE, "writer": {"kind": "remote", "model": "x"}}, DATA, "synthesis.writer.base_url: it must be given."),
        (MAGPIE, {**DATA, "path": "rows.jsonl"}, "give data.path or synthesis: exactly one of them"),
    ],
)
def test_a_fault_of_the_recipe_is_named(data_free, tmp_path, no_model, synthesis, data, words):
    assert_refused(stillhouse("distill", data_free(synthesis, data=data)), words)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


@pytest.mark.parametrize("kind", ["self_instruct", "evolve", "documents", "questions"])
def test_a_file_that_is_not_there_is_named_before_a_model_is_loaded(data_free, tmp_path, no_model, kind):
    path = data_free({"kind": kind, "number": 5, "path": str(tmp_path / "nowhere.jsonl")})
    assert_refused_in_one_line(stillhouse("synthesize", path), "synthesis.path", "there is no such file or folder")
    assert_refused_in_one_line(stillhouse("synthesize", path, "--dry-run"), "there is no such file or folder")


@pytest.mark.parametrize("kind", ["magpie", "questions"])
def test_a_teacher_without_a_template_is_refused(data_free, tmp_path, no_model, writing_teacher, kind):
    bare = tmp_path.parent / f"{tmp_path.name}-bare"
    bare.mkdir()
    for file in writing_teacher.iterdir():
        if file.suffix != ".jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    synthesis = MAGPIE if kind == "magpie" else {"kind": "questions", "templates": ["why?"]}
    said = stillhouse("synthesize", data_free(synthesis, **{"teacher.model": str(bare)}))
    assert_refused_in_one_line(said, "chat template")


def test_a_dry_run_without_synthesis_and_of_another_verb_is_refused(recipe, texts_file, no_model):
    path = recipe({"synthesis": None, "data.path": str(texts_file)})
    assert_refused(stillhouse("synthesize", path, "--dry-run"), "synthesis: it must be given for --dry-run")
    with pytest.raises(SystemExit):
        stillhouse("distill", path, "--dry-run")


def test_the_best_of_several_answers_is_learnt_and_pairs_are_written_down(data_free, tmp_path):
    answers = {"samples": 3, "sampling": {"max_new_tokens": 16}}
    choose = {"kind": "pairs", "reward": {"kind": "length", "better": "shorter"}}
    synthesis = {**MAGPIE, "answers": answers, "choose": choose, "filters": [{"name": "duplicates"}]}
    said = stillhouse("synthesize", data_free(synthesis))
    assert said.code == 0, said.err
    data = tmp_path / "run" / "data"
    rows, pairs = read_lines(data / "synthetic.jsonl"), read_lines(data / "preferences.jsonl")
    assert len(rows) == len(pairs) > 2
    for row, pair in zip(rows, pairs, strict=True):
        assert row["messages"][-1]["content"] == pair["chosen"] and len(pair["chosen"]) < len(pair["rejected"])
        assert [dict(m) for m in row["messages"][:-1]] == pair["messages"] and "length" in row["scores"]
    assert json.loads((data / "card.json").read_text())["reward"]["kind"] == "pairs"


def test_what_a_remote_model_writes_is_learnt_and_a_larger_budget_goes_on(data_free, tmp_path, monkeypatch):
    asked = []

    class Remote:
        """A server that stops where its budget does."""

        name, currency = "remote", "EUR"

        def __init__(self, config, say=print):
            self.config, self.fingerprint, self.tokenizer = config, config.model, None

        def write(self, requests, done=()):
            for request in requests:
                if request.key not in done:
                    if len(asked) == self.config.budget.tokens:
                        raise StillhouseError("the budget is used up")
                    asked.append(request)
                    yield request, Reply(text=f"so {len(asked)}", finished=True, tokens=2, prompt_tokens=3, cost=0.25)

    monkeypatch.setattr("stillhouse.commands.synthesis.RemoteWriter", Remote)
    remote = {"kind": "remote", "base_url": "http://127.0.0.1:1/v1", "model": "big", "budget": {"tokens": 7}}
    synthesis = {
        "kind": "questions",
        "templates": ["who ran to the {place}?"],
        "slots": {"place": ["hill", "sea", "garden", "house", "boat"]},
        "turns": 1,
        "user": {"kind": "played"},
        "filters": FILTERS,
        "writer": remote,
    }
    path = data_free(synthesis)
    assert_refused(stillhouse("synthesize", path), "the budget is used up")
    assert stillhouse("train", path, "synthesis.writer.budget.tokens=100").code == 0
    assert len(asked) == len({request.key for request in asked}) == 15
    card = json.loads((tmp_path / "run" / "data" / "card.json").read_text())
    assert card["written_by"]["model"] == "remote" and card["cost"] == {"money": 15 * 0.25, "currency": "EUR"}
    assert card["licence"]["named"] == "not known here: ask who runs the model"
    rows = read_lines(tmp_path / "run" / "data" / "synthetic.jsonl")
    assert [len(row["messages"]) for row in rows] == [4] * 5
    opening = stillhouse("synthesize", path, "synthesis.user.kind=opening", f"run={tmp_path / 'other'}")
    assert_refused_in_one_line(opening, "Name synthesis.writer.tokenizer, or use kind played")


def test_of_a_small_data_set_too_little_is_said(data_free):
    said = stillhouse("synthesize", data_free({**MAGPIE, "number": 4, "sampling": {"max_new_tokens": 1}}))
    assert_refused(said, "records are kept, too few to learn from", "a question that was cut off")
