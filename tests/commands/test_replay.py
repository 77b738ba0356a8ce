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
    return run_of(
        tmp_path_factory.mktemp("objectives"), teacher_folder, {"sample": 20, "choose": "stratified", "by": "topic"}
    )


def result_of(run: Path) -> EvaluationResult:
    return EvaluationResult.from_dict(RunFolder(run).stages()["evaluate"]["result"])


def steps(run: Path, arm: str = "student") -> list[dict[str, float]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == arm]


def test_a_run_tells_what_was_replayed_and_what_was_forgotten(done):
    assert done.said.code == 0, done.said.err
    # 20 of 30 by topic, 10 of which are a: 6.7 and 13.3; and the one that stands in data.path is none of them.
    assert "replay: 16 documents to mix in and 4 held out" in done.said.err
    assert "replay: 1 left out, as they stand in data.path too" in done.said.err
    assert "replay: 2 of 8 rows an epoch (25.0 %)" in done.said.err
    found = result_of(done.folder).replay
    assert found.documents == 4
    roles = ["teacher", "student_before", "control_hard_labels", "student"]
    assert [model.role for model in found.models] == roles
    by_role = {model.role: model for model in found.models}
    assert by_role["teacher"].metrics["forward_kl"].value == 0 and by_role["teacher"].change is None
    assert by_role["student_before"].change.value == 0
    student, before = (by_role[role].metrics["bits_per_byte"].value for role in ("student", "student_before"))
    assert by_role["student"].change.value == pytest.approx(student / before - 1)
    difference = {(row.metric, row.other): row.difference.value for row in found.comparisons}
    control = by_role["control_hard_labels"].metrics["cross_entropy"].value
    assert difference["cross_entropy", "control_hard_labels"] == pytest.approx(
        by_role["student"].metrics["cross_entropy"].value - control
    )
    lines = [line for line in read_lines(done.folder / "metrics.jsonl") if line.get("on") == "replay"]
    assert len(lines) == 4 * 4 and {line["evaluated"] for line in lines} == set(roles)
    said = "On 4 held-out documents of the replayed data"
    assert said in done.said.out
    for file in ("report.html", "student/README.md"):
        page = (done.folder / file).read_text(encoding="utf-8")
        assert "On the replayed data" in page and said in page, file
    assert "2, 25.0\u00a0% of all" in (done.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("arm", ["student", "control_hard_labels"])
def test_the_control_gets_the_same_replayed_rows_in_the_same_steps(done, arm):
    lines = steps(done.folder, arm)
    assert [line["replayed_rows"] for line in lines] == [1, 1, 1, 1]
    assert [line["tokens"] for line in lines] == [line["tokens"] for line in steps(done.folder)]


def test_stored_labels_hold_what_the_teacher_says_of_replayed_rows(done, tmp_path):
    run = tmp_path / "stored"
    said = stillhouse("train", done.recipe, "labels={signal: last_hidden}", f"run={run}")
    assert said.code == 0, said.err
    assert steps(run)[0]["forward_kl"] == pytest.approx(steps(done.folder)[0]["forward_kl"], rel=2e-2)


def test_minillm_learns_a_corpus_beside_its_answers_and_ends_the_same_after_a_kill(
    replay_recipe, tmp_path, monkeypatch
):
    corpus = [{"text": f"the old man sang {n} songs of the sea"} for n in range(20)]
    wanted = {"path": str(write_rows(tmp_path / "corpus.jsonl", corpus)), **NEXT_TOKEN}
    path = replay_recipe(wanted, source=STUDENT, objectives=MINILLM, evaluation={"control": "none", "samples": 0})
    run, again = tmp_path / "run", tmp_path / "again"
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    lines = steps(run)
    assert all({"minillm", "replay_next_token"} <= line.keys() and line["replayed_rows"] == 1 for line in lines)
    assert lines[0]["loss"] == pytest.approx(lines[0]["minillm"] + 0.5 * lines[0]["replay_next_token"], rel=1e-4)
    answered = {line["row"] for line in read_lines(run / "rollouts.jsonl")}
    assert answered <= set(range(12))  # never what is replayed
    compute = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", path, f"run={again}").code == 130
    assert stillhouse("train", path, f"run={again}").code == 0
    name = "student/model.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()


def test_without_a_share_the_student_is_the_plain_one_and_is_measured_all_the_same(replay_recipe, tmp_path):
    path = replay_recipe({"share": 0.0}, evaluation={"control": "none", "samples": 0}, training={"epochs": 1})
    assert stillhouse("distill", path).code == 0
    plain = tmp_path / "plain"
    assert stillhouse("train", path, "replay=null", f"run={plain}").code == 0
    name = "student/model.safetensors"
    assert (plain / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert result_of(tmp_path / "run").replay.documents == 6


def test_a_student_with_another_tokenizer_is_measured_in_its_own_tokens(replay_recipe, student_folder, tmp_path):
    path = replay_recipe(
        student={"kind": "checkpoint", "model": str(student_folder)},
        objectives=[{"name": "span_forward_kl"}],
        evaluation={"control": "none", "samples": 0},
        training={"epochs": 1},
        data={"kind": "chat", "path": str(write_rows(tmp_path / "rows.jsonl", CHATS)), "sequence_tokens": 128},
    )
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    by_role = {model.role: model.metrics.keys() for model in result_of(tmp_path / "run").replay.models}
    assert by_role["teacher"] == {"bits_per_byte"}
    assert by_role["student"] == {"bits_per_byte", "cross_entropy"}


def test_a_small_sample_is_mixed_into_text_that_the_teacher_wrote(tmp_path, teacher_folder):
    old = write_rows(tmp_path / "old.jsonl", [{"text": text} for text in TEXTS])
    replay = {"path": str(old), "share": 0.2, "sample": 8, "held_out": 0.25, "seed": 3}
    path = write_recipe(tmp_path, teacher_folder, replay=replay, evaluation={"control": "none", "samples": 0})
    said = stillhouse("train", path, "training.epochs=1", "labels=null")
    assert said.code == 0, said.err
    assert "an epoch (20.0 %)" in said.err or "replayed_rows" in steps(tmp_path / "run")[0]


def test_inspect_tells_what_would_be_replayed_and_loads_no_model(replay_recipe, no_model):
    said = stillhouse("inspect", replay_recipe(), "--examples", "0")
    assert said.code == 0 and "replay: 24 documents to mix in and 6 held out" in said.out


FILE = {"choose": "stratified", "by": "topic", "sample": 6}


@pytest.mark.parametrize(
    ("replay", "words"),
    [
        ({"path": "nowhere.jsonl"}, "replay.path 'nowhere.jsonl': there is no such file"),
        ({**FILE, "by": "topics"}, "has no 'topics', which replay.by names. Did you mean 'topic'?"),
        ({"held_out": 0.01}, "in replay.path"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused_before_a_model_is_loaded(replay_recipe, no_model, replay, words):
    assert_refused_in_one_line(stillhouse("distill", replay_recipe(replay)), words)


@pytest.mark.parametrize(
    ("replay", "words"),
    [
        ({"share": 1.5}, "replay.share: 1.5 came, but it should be less than 1"),
        ({"shares": 0.5}, "replay.shares: there is no such key. Did you mean 'share'?"),
        ({"choose": "first"}, "Say under sample how many"),
        ({"choose": "stratified", "sample": 4}, "Give both or neither"),
        ({"by": "topic"}, "Give both or neither"),
        ({"weight": 2.0}, "or say learn: next_token"),
        ({"learn": "next_token", "share": 0.1}, "Raise the share, or raise rows_per_step"),
        ({"learn": "next_token", "share": 0.9}, "Lower the share, or raise rows_per_step"),
    ],
)
def test_what_means_nothing_is_refused(replay_recipe, no_model, replay, words):
    assert_refused(stillhouse("distill", replay_recipe(replay)), words)


def test_other_data_than_text_is_refused(kind_recipe, tmp_path, no_model):
    path = kind_recipe("classification", {"replay": {"path": str(tmp_path / "old.jsonl")}})
    assert_refused(stillhouse("distill", path), "data is of kind 'classification'", "Leave replay out")


def test_two_replays_are_refused(replay_recipe, tmp_path, no_model):
    path = replay_recipe(**{"data.teacher_context": {"styles": [{}], "replay": {"path": "other.jsonl"}}})
    assert_refused(stillhouse("distill", path), "replay and data.teacher_context.replay are both given")
