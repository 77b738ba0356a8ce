"""Other data mixed in, from the recipe to the report."""

from functools import partial
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.training import DistillationTrainer

from .conftest import (
    CHATS,
    TEXTS,
    Finished,
    assert_refused,
    assert_refused_in_one_line,
    stillhouse,
    write_recipe,
    write_rows,
)

OLD = [
    {
        "messages": [
            {"role": "user", "content": f"one day {n}"},
            {"role": "assistant", "content": f"the robot found key {n}"},
        ],
        "topic": "ab"[n % 3 == 0],
    }
    for n in range(30)
]
STUDENT = {"kind": "student", "sampling": {"max_new_tokens": 12}, "batch_size": 4}
MINILLM = [{"name": "minillm", "gamma": 0.9}]
NEXT_TOKEN = {"kind": "text", "learn": "next_token", "weight": 0.5, "share": 0.25}


def write_replay_recipe(folder: Path, teacher: Path, replay=None, /, **changes) -> Path:
    """A recipe for conversations, with others mixed in. Its run is in the same folder."""
    values = {
        "synthesis": None,
        "labels": None,
        "data": {
            "kind": "chat",
            "path": str(write_rows(folder / "rows.jsonl", CHATS)),
            "sequence_tokens": 96,
            "held_out": 0.25,
        },
        "replay": {
            "path": str(write_rows(folder / "old.jsonl", [*OLD, {**CHATS[0], "topic": "a"}])),
            "share": 0.25,
            "held_out": 0.2,
            **(replay or {}),
        },
        "training": {
            "epochs": 2,
            "learning_rate": 1e-2,
            "rows_per_step": 4,
            "rows_per_micro_batch": 2,
            "save_every_steps": 2,
        },
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def replay_recipe(tmp_path, teacher_folder):
    """Write that recipe; its run is `tmp_path / "run"`."""
    return partial(write_replay_recipe, tmp_path, teacher_folder)


def run_of(folder: Path, teacher: Path, *arguments, **changes) -> Finished:
    path = write_replay_recipe(folder, teacher, *arguments, **changes)
    return Finished(path, folder / "run", stillhouse("distill", path))


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder) -> Finished:
    """A run whose objectives are learnt of what is replayed, too. Look, do not touch."""
    return run_of(tmp_path_factory.mktemp("objectives"), teacher_folder, {"sample": 20, "choose": "stratified", "by": "topic"})


def result_of(run: Path) -> EvaluationResult:
    return EvaluationResult.from_dict(RunFolder(run).stages()["evaluate"]["result"])


def steps(run: Path, arm: str = "student") -> list[dict[str, float]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == arm]


def test_a_run_tells_what_was_replayed_and_what_was_forgotten(done):
    assert done.said.code == 0, done.said.err
    Path("/tmp/replay-out.txt").write_text(done.said.err + done.said.out)
    import shutil; shutil.copy(done.folder / "report.html", "/tmp/replay-report.html"); shutil.copy(done.folder/"metrics.jsonl", "/tmp/replay-metrics.jsonl")
