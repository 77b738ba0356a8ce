"""Conversations in which the teacher answers before the student learns from them, from the recipe to the report."""

from functools import partial

import pytest

from stillhouse.core.files import read_lines
from stillhouse.synthesis.history import sample

from .conftest import CHATS, assert_refused, assert_refused_in_one_line, stillhouse, write_recipe, write_rows

HISTORY = {"sampling": {"max_new_tokens": 10}, "batch_size": 5, "seed": 1}
QUESTIONS = {tuple(m["content"] for m in chat["messages"][::2]) for chat in CHATS}


@pytest.fixture
def history_recipe(tmp_path, teacher_folder):
    """Write a recipe whose teacher answers anew; its run is `tmp_path / "run"`."""
    data = {"kind": "chat", "path": str(write_rows(tmp_path / "rows.jsonl", CHATS)), "sequence_tokens": 96}
    changes = {"synthesis": None, "data": {**data, "held_out": 0.25}, "history": HISTORY}
    return partial(write_recipe, tmp_path, teacher_folder, **changes)


def written(run):
    return read_lines(run / "data" / "conversations.jsonl")


def test_the_student_learns_the_teachers_answers_and_is_judged_by_the_datas(history_recipe, tmp_path):
    run = tmp_path / "run"
    said = stillhouse("distill", history_recipe())
    assert said.code == 0, said.err
    rows = written(run)
    assert len(rows) == 12 and {tuple(m["content"] for m in row["messages"][::2]) for row in rows} <= QUESTIONS
    answers = {m["content"] for chat in CHATS for m in chat["messages"][1::2]}
    assert not answers & {m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"}
    shown = stillhouse("inspect", history_recipe(), "--examples", "12")
    assert "conversations.jsonl: messages of OpenAI, TRL or axolotl, 12 rows" in shown.out
    assert "rows.jsonl: messages of OpenAI, TRL or axolotl, 4 rows" in shown.out  # held out, and the data's own
    assert not any(answer in shown.out for answer in answers)
    assert (run / "labels" / "manifest.json").exists() and (run / "report.html").exists()
    again = stillhouse("distill", history_recipe())
    assert again.code == 0 and "answers anew" not in again.err  # nothing is done twice


def test_a_run_killed_while_the_teacher_answers_ends_with_the_same_student(history_recipe, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert stillhouse("train", history_recipe(), f"run={whole}").code == 0
    calls = []

    def stop(*args, **options):
        calls.append(options["numbers"])
        if options["numbers"][0] == 5:
            raise KeyboardInterrupt
        return sample(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("stillhouse.synthesis.history.sample", stop)
        assert stillhouse("train", history_recipe(), f"run={killed}").code == 130
    assert calls and not (killed / "data" / "conversations.jsonl").exists()
    assert stillhouse("train", history_recipe(), f"run={killed}").code == 0
    for name in ("data/conversations.jsonl", "student/model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_on_policy_the_student_is_asked_behind_its_own_answers_where_the_rest_is_the_teachers(history_recipe, tmp_path):
    source = {"kind": "mixed", "student_share": 0.5, "sampling": {"max_new_tokens": 8}}
    path = history_recipe(source=source, labels=None, objectives=[{"name": "jsd"}])
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert {line["turn"] for line in read_lines(tmp_path / "run" / "rollouts.jsonl")} == {0, 1}


def test_conversations_with_tools_stay_as_they_are_and_that_is_said(history_recipe, tmp_path):
    path = history_recipe()
    tool = {"role": "tool", "content": "the hill"}
    rows = [{"messages": [*chat["messages"][:2], tool, chat["messages"][3]]} for chat in CHATS[:8]]
    write_rows(tmp_path / "rows.jsonl", [*rows, *CHATS[8:]])
    said = stillhouse("synthesize", path)
    assert said.code == 0, said.err
    assert "6 of 12 conversations stay as they are: tool calls, whose answers belong to what was called" in said.err
    kept = [row for row in written(tmp_path / "run") if any(m["role"] == "tool" for m in row["messages"])]
    assert len(kept) == 6 and all(row in rows for row in kept)


def test_a_history_that_nobody_can_write_is_refused_before_a_model_is_loaded(
    history_recipe, recipe, tmp_path, no_model, texts_file
):
    text = recipe({"synthesis": None, "data.path": str(texts_file), "history": HISTORY})
    assert_refused(
        stillhouse("train", text), "history lets the teacher answer in conversations, but data is of kind 'text'"
    )
    path = history_recipe()
    segments = [{"segments": [{"text": f"{n} a", "label": False}, {"text": " b", "label": True}]} for n in range(12)]
    write_rows(tmp_path / "rows.jsonl", segments)
    assert_refused_in_one_line(stillhouse("train", path), "is written out already, in segments")


def test_inspect_says_that_the_teacher_has_yet_to_answer(history_recipe, no_model):
    said = stillhouse("inspect", history_recipe())
    assert said.code == 0 and "history: these are the data's own answers" in said.out
