"""A reward of held-out answers beside agreement with the teacher, over training and in the report."""

import json
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines
from stillhouse.training import DistillationTrainer

from .conftest import CHATS, TEXTS, assert_refused, stillhouse, write_recipe, write_rows

LENGTH = {"reward": {"kind": "length", "better": "longer"}, "prompts": 3, "every_steps": 3, "max_new_tokens": 6}
REWARD = {
    "kind": "best_of_n",
    "reward": "length",
    "samples": 40,
    "prompts": 10,
    "n": 4,
    "kept": 10,
    "mean_before": 20.0,
    "mean_after": 30.0,
    "mean_length_before": 20.0,
    "mean_length_after": 30.0,
    "kl_bound": 0.636,
    "unparsable": 2,
    **{f"length_correlation{name}": 0.9 for name in ("", "_low", "_high", "_all", "_all_low", "_all_high")},
}


def write_watched(folder: Path, teacher: Path, kind: str = "chat", /, **changes) -> Path:
    """A recipe with a watched reward."""
    rows = CHATS if kind == "chat" else [{"text": text} for text in TEXTS]
    values = {
        "synthesis": None,
        "labels": None,
        "data": {
            "kind": kind,
            "path": str(write_rows(folder / "rows.jsonl", rows)),
            "sequence_tokens": 96,
            "held_out": 0.25,
        },
        "training": {
            "epochs": 2,
            "learning_rate": 1e-3,
            "rows_per_step": 2,
            "rows_per_micro_batch": 1,
            "save_every_steps": 2,
        },
        "evaluation": {"samples": 1, "control": "none", "reward": LENGTH},
    }
    return write_recipe(folder, teacher, **{**values, **changes})


def looks(run: Path) -> list[dict]:
    return [line for line in read_lines(run / "metrics.jsonl") if "held_out_reward" in line]


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_the_report_shows_reward_beside_agreement(tmp_path, teacher_folder, kind):
    path, run = write_watched(tmp_path, teacher_folder, kind), tmp_path / "run"
    assert stillhouse("train", path).code == 0
    (run / "data").mkdir(exist_ok=True)
    (run / "data" / "card.json").write_text(json.dumps({"reward": REWARD}))
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    steps = [line["step"] for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]
    found = looks(run)
    assert [line["step"] for line in found] == sorted({0, *(s for s in steps if s % 3 == 0), steps[-1]})
    lines = read_lines(run / "held_out_answers.jsonl")
    answers = [line for line in lines if line["who"] == "student"]
    assert len(answers) == 3 * len(found) and len([line for line in lines if line["who"] == "teacher"]) == 3
    agreements = [line["agreements"] for line in lines if line["who"] == "agreement"]
    for number, line in enumerate(found):
        of_step = [answer["reward"] for answer in answers if answer["step"] == line["step"]]
        assert line["held_out_reward"] == pytest.approx(sum(of_step) / 3)
        assert line["held_out_agreement"] == pytest.approx(sum(agreements[number]) / len(agreements[number]))
        assert 0 <= line["held_out_agreement"] <= 1
    if kind == "chat":
        assert all(answer["reward"] == len(answer["answer"]) for answer in answers)
    page = (run / "report.html").read_text(encoding="utf-8")
    for words in (
        "Over training the reward of held-out answers went from",
        "likes long answers",
        "nats a whole answer",
    ):
        assert words in page
        assert words in " ".join(said.out.split())
    assert "2 judgements could not be read" in page


def test_a_killed_run_sees_the_same(tmp_path, teacher_folder, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert stillhouse("train", write_watched(whole, teacher_folder)).code == 0
    path = write_watched(killed, teacher_folder)
    log = DistillationTrainer.log

    def stopping(self, logs, start_time=None):
        log(self, logs, start_time)
        if self.state.global_step == 3:  # behind the checkpoint of step 2
            raise KeyboardInterrupt

    monkeypatch.setattr(DistillationTrainer, "log", stopping)
    assert stillhouse("train", path).code == 130
    monkeypatch.undo()
    assert stillhouse("train", path).code == 0
    for name in ("held_out_answers.jsonl", "metrics.jsonl", "student/model.safetensors"):
        one, other = ((folder / "run" / name).read_bytes() for folder in (whole, killed))
        assert one == other, name


def test_looking_at_a_student_does_not_change_it(tmp_path, teacher_folder):
    weights = []
    for name, reward in (("with", LENGTH), ("without", None)):
        (tmp_path / name).mkdir()
        evaluation = {"samples": 1, "control": "none", "reward": reward}
        assert stillhouse("train", write_watched(tmp_path / name, teacher_folder, evaluation=evaluation)).code == 0
        weights.append((tmp_path / name / "run" / "student" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"kind": "function", "function": "json:dumps"}, ["evaluation.reward.reward.function", "--allow-plugins"]),
        ({"kind": "model", "model": "no/such/folder"}, ["no/such/folder"]),
        ({"kind": "modell"}, ["'modell' is not known"]),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused_at_once(tmp_path, teacher_folder, reward, words):
    evaluation = {"reward": {"reward": reward}}
    said = stillhouse("train", write_watched(tmp_path, teacher_folder, evaluation=evaluation))
    assert_refused(said, *words)
    assert not (tmp_path / "run").exists()


def test_the_command_may_let_code_run(tmp_path, teacher_folder, monkeypatch):
    (tmp_path / "own_watch.py").write_text("def vowels(record):\n    return sum(c in 'aeiou' for c in record.answer)\n")
    monkeypatch.syspath_prepend(tmp_path)
    evaluation = {
        "control": "none",
        "reward": {**LENGTH, "reward": {"kind": "function", "function": "own_watch:vowels"}},
    }
    said = stillhouse("train", write_watched(tmp_path, teacher_folder, evaluation=evaluation), "--allow-plugins")
    assert said.code == 0, said.err
    assert looks(tmp_path / "run")
