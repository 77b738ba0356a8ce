"""Conversations from beginning to end, and `stillhouse inspect` for every kind of data."""

import json
import re
import shutil

import pytest

from stillhouse.core.files import read_lines

from .conftest import CHATS, KINDS, assert_refused_in_one_line, stillhouse, write_recipe, write_rows

EXAMPLES = "<|user|>and sang?<|end|><|assistant|>[[the fox sang to the sea<|end|>]]"


@pytest.fixture
def chat_recipe(tmp_path, teacher_folder):
    """Write the tiny recipe for conversations, with changes to its data."""

    def write(rows=CHATS, **data):
        path = write_rows(tmp_path / "rows.jsonl", rows)
        values = {"kind": "chat", "path": str(path), "sequence_tokens": 96, "held_out": 0.25, **data}
        return write_recipe(tmp_path, teacher_folder, synthesis=None, data=values)

    return write


def num_supervised(said):
    return [int(number.replace(",", "")) for number in re.findall(r"supervised \(([\d,]+)\)", said.out)]


def test_a_chat_model_is_distilled_from_stored_labels_and_learns_what_inspect_shows(chat_recipe, tmp_path):
    recipe = chat_recipe()
    shown = stillhouse("inspect", recipe)
    assert shown.code == 0 and not (tmp_path / "run").exists()
    said = stillhouse("distill", recipe)
    assert said.code == 0, said.err
    assert "rows.jsonl: messages of OpenAI, TRL or axolotl, 16 rows" in said.err
    assert (tmp_path / "run" / "labels" / "manifest.json").exists()
    assert (tmp_path / "run" / "student" / "chat_template.jinja").exists()
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line.get("arm") == "student"]
    assert losses[-1] < losses[0]
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"{num_supervised(shown)[0]:,}" in report


def test_inspect_marks_what_the_assistant_says_and_nothing_else(chat_recipe):
    said = stillhouse("inspect", chat_recipe(), "--examples", "12")
    assert said.out.count("\nexample ") == said.out.count("[[") / 2 == 12
    assert EXAMPLES in said.out
    assert "\x1b" not in said.out


def test_inspect_of_last_turns_has_less_to_learn(chat_recipe):
    every, last = (
        stillhouse("inspect", chat_recipe(weight=weight), "--examples", "1") for weight in ("assistant", "last")
    )
    assert every.out.count("[[") == 2 and last.out.count("[[") == 1
    assert num_supervised(last)[0] < num_supervised(every)[0]


def test_inspect_says_what_is_cut_and_what_is_left_out(chat_recipe):
    rows = [
        *CHATS,
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": "you"}]},
    ]
    said = stillhouse("inspect", chat_recipe(rows, sequence_tokens=16))
    assert "longer than data.sequence_tokens (16): cut into pieces" in said.out
    assert "left out: 2 with no turn of the assistant" in said.out


def test_inspect_colours_a_terminal_unless_told_not_to(chat_recipe, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    recipe = chat_recipe()
    assert "\x1b[1;32m" in stillhouse("inspect", recipe).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[[" in stillhouse("inspect", recipe).out


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_shows_every_kind_of_data_without_a_model(kind, kind_recipe, no_model):
    said = stillhouse("inspect", kind_recipe(kind), "--examples", "2")
    assert said.code == 0, said.err
    assert said.out.count("\nexample ") == 2
    assert "train     18 documents" in said.out or kind == "pairs"
    assert ("answer: " in said.out) == (kind != "sentences")
    assert ("% supervised" in said.out) == (kind in ("masked_text", "tags"))


def test_inspect_shows_text(recipe, texts_file, no_model):
    said = stillhouse("inspect", recipe({"synthesis": None, "data.path": str(texts_file)}))
    assert said.code == 0, said.err
    assert "<|start|>[[the " in said.out


def nothing_to_learn():
    return [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "no", "weight": 0}]}
        for n in range(8)
    ]


def test_inspect_refuses_in_one_line_what_distill_would_refuse(chat_recipe, recipe, tmp_path, no_model):
    zero = stillhouse("inspect", chat_recipe(nothing_to_learn()))
    assert_refused_in_one_line(zero, "none of the 6 conversations", "6 have weight 0 for every turn of the assistant")
    assert_refused_in_one_line(
        stillhouse("inspect", chat_recipe(), "data.path=nowhere.jsonl"), "data.path 'nowhere.jsonl'"
    )
    unwritten = stillhouse("inspect", recipe())
    assert unwritten.code == 2 and "stillhouse synthesize" in unwritten.err
    assert stillhouse("inspect", chat_recipe(), "--examples", "-1").code == 2


def test_a_teacher_without_a_template_is_refused_with_the_mend(chat_recipe, teacher_folder, tmp_path, no_model):
    bare = shutil.copytree(teacher_folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    config = bare / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("chat_template", None)
    config.write_text(json.dumps(values), encoding="utf-8")
    said = stillhouse("distill", chat_recipe(), f"teacher.model={bare}")
    assert_refused_in_one_line(said, "the teacher's tokenizer has none. Put one beside it as chat_template.jinja")
