"""Pairs of answers from a file to a report, and what a recipe must not say of them."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult

from .conftest import PAIRS_OF_ANSWERS, WriteRecipe, assert_refused, stillhouse, write_recipe, write_rows

CHANGES = {
    "synthesis": None,
    "labels": None,
    "data": {"kind": "preferences", "sequence_tokens": 64, "held_out": 0.25},
    "objectives": [{"name": "dpo", "beta": 0.5}, {"name": "next_token", "weight": 0.1}],
    "training": {"epochs": 8, "learning_rate": 2e-3, "rows_per_step": 4},
    "evaluation": {"samples": 1},
}


def changed(folder: Path, **more) -> dict:
    rows = write_rows(folder / "pairs.jsonl", PAIRS_OF_ANSWERS)
    return {**CHANGES, **more, "data": {**CHANGES["data"], "path": str(rows), **more.get("data", {})}}


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder):
    """A run of pairs that nothing interrupted. Look, do not touch."""
    folder = tmp_path_factory.mktemp("pairs")
    path = write_recipe(folder, teacher_folder, **changed(folder))
    return path, folder / "run", stillhouse("distill", path)


def result_of(run) -> EvaluationResult:
    record = json.loads((run / "stages" / "evaluate.json").read_text())
    return EvaluationResult.from_dict(record["result"])


def test_pairs_go_the_whole_way(done):
    _, run, said = done
    assert said.code == 0, said.err
    assert {"weigh", "train", "evaluate", "report"} <= {file.stem for file in (run / "stages").glob("*.json")}
    lines = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]
    assert lines[0]["dpo"] == pytest.approx(math.log(2), abs=1e-4)
    assert lines[-1]["dpo"] < 0.5
    assert all(line["loss"] == pytest.approx(line["dpo"] + 0.1 * line["next_token"], rel=1e-4) for line in lines)
    control = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "control_hard_labels"]
    assert len(control) == len(lines) and "dpo" not in control[0] and "next_token" in control[0]


def test_everyone_is_asked_which_answer_it_prefers(done):
    _, run, said = done
    result = result_of(run)
    assert result.preferences is not None
    readings = {(row.role, row.liking): row for row in result.preferences.readings}
    assert readings.keys() == {
        *((role, "likelihood") for role in ("teacher", "student_before", "control_hard_labels", "student")),
        *((role, "reward") for role in ("student_before", "control_hard_labels", "student")),
    }
    before = readings["student_before", "reward"]
    assert (before.accuracy.value, before.margin.value) == (0.5, 0.0)
    assert readings["student", "reward"].accuracy.value > 0.7
    assert result.model("student").metrics["preference_accuracy"] == readings["student", "reward"].accuracy
    assert "preference_accuracy" not in result.model("teacher").metrics
    rows = {(row.metric, row.other) for row in result.comparisons}
    assert {("preference_accuracy", other) for other in ("student_before", "control_hard_labels")} <= rows
    assert result.retentions == []
    card, page = (run / "student" / "README.md").read_text(), (run / "report.html").read_text()
    for text in (said.out, card, page):
        assert "Who always prefers the longer answer is right on" in " ".join(text.replace("\xa0", " ").split())
    assert "pair accuracy" in said.out and "by its own reward" in page


def test_a_reward_is_what_the_saved_models_say(done):
    """By their own logits, one answer at a time."""
    _, run, _ = done
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    models = [AutoModelForCausalLM.from_pretrained(run / name) for name in ("student", "student_before")]
    margins = []
    reading = next(
        row for row in result_of(run).preferences.readings if (row.role, row.liking) == ("student", "reward")
    )
    for row in PAIRS_OF_ANSWERS:
        sides = []
        for answer in (row["chosen"], row["rejected"]):
            prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(prompt + answer + "<|end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
            start = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].shape[1]
            with torch.no_grad():
                said = [model(ids).logits[0, :, : len(tokenizer)].log_softmax(-1) for model in models]
            tokens = torch.arange(start, ids.shape[1])
            sides.append(float((said[0] - said[1])[tokens - 1, ids[0, tokens]].sum()))
        margins.append(sides[0] - sides[1])
    prompts = {row["messages"][0]["content"] for row in PAIRS_OF_ANSWERS}
    wanted = {}
    for prompt in prompts:
        own = [m for m, row in zip(margins, PAIRS_OF_ANSWERS, strict=True) if row["messages"][0]["content"] == prompt]
        wanted[prompt] = sum(own) / len(own)
    assert any(reading.margin.value == pytest.approx(value, rel=1e-3) for value in wanted.values())


def test_a_second_run_does_nothing_and_says_the_same(done, no_model):
    path, _, said = done
    assert stillhouse("distill", path).out == said.out


def test_inspect_shows_both_answers(done):
    path, *_ = done
    said = stillhouse("inspect", path, "--examples", "1")
    assert said.code == 0, said.err
    assert "pairs, the chosen side of them" in said.out
    assert "example 1, chosen:" in said.out and "example 1, rejected:" in said.out and "score 0.5" in said.out
    assert "[[nobody" in said.out and "[[the " in said.out


@pytest.fixture
def reference(tmp_path, build_model, tokenizer):
    """What the teacher was before it was tuned."""
    folder = tmp_path / "reference"
    build_model(vocab=len(tokenizer), seed=8).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tuned_teachers_rewards_are_learnt_by_an_adapter(recipe: WriteRecipe, tmp_path, teacher_folder, reference):
    changes = changed(
        tmp_path,
        objectives=[{"name": "reward_kl"}, {"name": "reward_mse", "beta": 0.05}],
        student={"kind": "checkpoint", "model": str(teacher_folder), "lora": {"rank": 4}},
        **{"teacher.reference": reference},
        training={"epochs": 2, "rows_per_step": 4},
        evaluation={"control": "none", "samples": 0},
    )
    said = stillhouse("distill", recipe(changes))
    assert said.code == 0, said.err
    found = load_file(tmp_path / "run" / "answer_logprobs.safetensors")
    assert found.keys() == {"reference_logprobs", "teacher_ratios"}
    result = result_of(tmp_path / "run")
    assert "preference_accuracy" in result.model("teacher").metrics
    own = {row.role for row in result.preferences.readings if row.liking == "reward"}
    assert own == {"teacher", "student", "student_before"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"objectives": [{"name": "hidden_mse"}]}, ["hidden_mse does not learn from data of kind 'preferences'"]),
        ({"objectives": [{"name": "span_forward_kl"}]}, ["span_forward_kl does not learn"]),
        ({"objectives": [{"name": "minillm"}]}, ["minillm"]),
        ({"objectives": [{"name": "dpo", "temperature": 2.0}]}, ["dpo", "temperature"]),
        ({"objectives": [{"name": "dpo", "where": "tokens"}]}, ["dpo has no key 'where'"]),
        ({"objectives": [{"name": "forward_kl", "where": "tokens"}]}, ["where is tokens for forward_kl"]),
        ({"objectives": [{"name": "dpo", "beta": 0.0}]}, ["beta must be positive"]),
        ({"labels": {}}, ["labels", "whole answers"]),
        ({"source": {"kind": "student"}}, ["source.kind student", "'preferences'"]),
        ({"source": {"kind": "teacher"}}, ["source.kind teacher", "'preferences'"]),
        (
            {"objectives": [{"name": "forward_kl", "answers": "student"}]},
            ["answers of the student", "source.kind offline"],
        ),
    ],
)
def test_what_pairs_do_not_go_with_is_refused_before_a_model_is_loaded(recipe, tmp_path, no_model, more, words):
    assert_refused(stillhouse("distill", recipe(changed(tmp_path, **more))), *words)


def test_other_data_has_no_pairs(recipe, texts_file, tmp_path, no_model, reference):
    plain = {"synthesis": None, "labels": None, "data.path": str(texts_file)}
    said = stillhouse("distill", recipe({**plain, "objectives": [{"name": "dpo"}]}))
    assert_refused(said, "dpo learns from pairs of answers", "kind 'text'")
    said = stillhouse("distill", recipe({**plain, "teacher.reference": reference}))
    assert_refused(said, "teacher.reference is for pairs of answers")


def test_rewards_that_nobody_tells_are_missed_at_once(recipe, tmp_path, no_model):
    bare = [{key: value for key, value in row.items() if "score" not in key} for row in PAIRS_OF_ANSWERS]
    changes = changed(tmp_path, objectives=[{"name": "reward_mse"}])
    write_rows(tmp_path / "pairs.jsonl", bare)
    assert_refused(stillhouse("distill", recipe(changes)), "reward_mse", "have no scores", "teacher.reference")


def test_a_reference_with_other_tokens_is_refused(recipe, tmp_path, no_model, student_folder):
    changes = changed(tmp_path, **{"teacher.reference": str(student_folder)})
    said = stillhouse("distill", recipe(changes))
    assert_refused(said, "teacher.reference", "another tokenizer")
