"""A student that learns from its own answers, from the recipe to the report."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines
from stillhouse.training import DistillationTrainer

from .conftest import (
    CHATS,
    KINDS,
    SYNTHESIS,
    TEXTS,
    Finished,
    assert_refused_in_one_line,
    stillhouse,
    write_recipe,
    write_rows,
)

STUDENT = {"kind": "student", "sampling": {"max_new_tokens": 24}, "batch_size": 3}
MIXED = {**STUDENT, "kind": "mixed", "student_share": 0.5}
END = "<|end|>"
EPOCHS = 8


def write_on_policy(folder: Path, teacher: Path, kind: str = "chat", /, **changes) -> Path:
    """A recipe whose student answers for itself, with changes; its run is in the same folder."""
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
        "source": MIXED,
        "objectives": [{"name": "reverse_kl"}],
        "training": {
            "epochs": EPOCHS,
            "learning_rate": 1e-2,
            "rows_per_step": 4,
            "rows_per_micro_batch": 2,
            "save_every_steps": 4,
        },
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def on_policy(tmp_path, teacher_folder):
    """Write that recipe; its run is `tmp_path / "run"`."""
    return partial(write_on_policy, tmp_path, teacher_folder)


@pytest.fixture(scope="module", params=[("chat", "mixed"), ("chat", "student"), ("text", "student")])
def done(request, tmp_path_factory, teacher_folder) -> Finished:
    """Runs of both sources and of both kinds of data. Look, do not touch."""
    kind, source = request.param
    folder = tmp_path_factory.mktemp(kind)
    path = write_on_policy(folder, teacher_folder, kind, source=MIXED if source == "mixed" else STUDENT)
    return Finished(path, folder / "run", stillhouse("distill", path))


def steps(run: Path, arm: str = "student") -> list[dict[str, float]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == arm]


def test_a_student_comes_nearer_to_its_teacher_on_what_it_says_itself(on_policy, tmp_path):
    assert stillhouse("train", on_policy(source=STUDENT)).code == 0
    values = [line["reverse_kl"] for line in steps(tmp_path / "run")]
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_what_a_student_says_while_it_learns_is_written_down(done):
    assert done.said.code == 0, done.said.err
    rollouts = read_lines(done.folder / "rollouts.jsonl")
    assert [line["step"] for line in rollouts] == sorted(line["step"] for line in rollouts)
    assert {line["step"] for line in rollouts} <= {line["step"] for line in steps(done.folder)}
    if "kind: mixed" in (done.folder / "recipe.yaml").read_text(encoding="utf-8"):
        assert 0 < len(rollouts) < EPOCHS * 12
    else:
        assert len(rollouts) == EPOCHS * 12  # each prompt once an epoch
        assert steps(done.folder)[-1]["tokens"] == sum(line["tokens"] for line in rollouts)
    assert all(line["tokens"] <= 24 for line in rollouts)
    assert all(END not in line["answer"] for line in rollouts if line["finished"])
    assert all(line["logprob"] < 0 for line in rollouts)
    beginnings = ("<|user|>who ran to the ", "<|start|>the ")
    assert all(line["prompt"].startswith(beginnings) for line in rollouts)
    assert (done.folder / "report.html").stat().st_size > 0


def test_a_prompt_of_a_conversation_is_all_that_comes_before_the_last_answer(on_policy, tmp_path):
    assert stillhouse("train", on_policy(source=STUDENT)).code == 0
    for line in read_lines(tmp_path / "run" / "rollouts.jsonl"):
        assert line["prompt"].endswith(f"ran{END}<|user|>and sang?{END}<|assistant|>")


def test_the_control_learns_the_datas_answers_in_as_many_steps(done):
    control = steps(done.folder, "control_hard_labels")
    assert [line["step"] for line in control] == [line["step"] for line in steps(done.folder)]
    assert all("next_token" in line for line in control)


def test_a_run_that_stops_behind_a_checkpoint_ends_with_the_same_student_and_the_same_answers(
    done, tmp_path, monkeypatch
):
    save = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return save(self, *args, **options)

    run = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", done.recipe, f"run={run}").code == 130
    assert max(line["step"] for line in read_lines(run / "rollouts.jsonl")) == 7
    assert (run / "checkpoints" / "student" / "checkpoint-4").exists()
    assert stillhouse("train", done.recipe, f"run={run}").code == 0
    for name in ("student/model.safetensors", "rollouts.jsonl"):
        assert (run / name).read_bytes() == (done.folder / name).read_bytes()


def test_without_a_share_of_the_student_nothing_is_written(on_policy, tmp_path):
    path = on_policy(source={**MIXED, "student_share": 0.0})
    assert stillhouse("train", path).code == 0
    assert read_lines(tmp_path / "run" / "rollouts.jsonl") == []


def test_prompts_that_leave_no_room_are_left_out_and_said(on_policy):
    long = {"messages": [{"role": "user", "content": "who sang? " * 40}, {"role": "assistant", "content": "the fox"}]}
    others = [
        {"messages": [{**long["messages"][0], "content": f"{n} who sang? " * 40}, long["messages"][1]]}
        for n in range(3)
    ]
    path = on_policy(source=STUDENT)
    write_rows(path.parent / "rows.jsonl", [*CHATS, *others])
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert "with a prompt that fills data.sequence_tokens" in said.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"signal": "last_hidden"}}, ["source.kind mixed", "Leave labels out"]),
        ({"objectives": [{"name": "reverse_kl"}, {"name": "next_token"}]}, ["next_token learns the text itself"]),
        ({"objectives": [{"name": "span_forward_kl"}]}, ["span_forward_kl compares across tokenizers"]),
        ({"source": {"kind": "mixed", "student_share": 1.5}}, ["student_share"]),
        ({"source": {"kind": "studnet"}}, ["Did you mean 'student'?"]),
        ({"source": {"kind": "replay", "share_step": 0.0}}, ["so the student never answers"]),
        ({"source": {"kind": "replay", "fresh_share": {"start": 1, "end": -1}}}, ["fresh_share goes from 1.0 to -1.0"]),
        ({"source": {"kind": "student", "student_share": 0.5}}, ["source.student_share"]),
    ],
)
def test_what_cannot_be_learnt_from_own_answers_is_refused(on_policy, no_model, changes, words):
    said = stillhouse("distill", on_policy(**changes))
    assert said.code == 2
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("source", ["student", "teacher", "replay"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_data_without_prompts_is_refused(kind, source, kind_recipe, no_model):
    said = stillhouse("distill", kind_recipe(kind, {"source": {**STUDENT, "kind": source}}))
    assert said.code == 2 and "has none. Leave source out, or use data of kind chat or text." in said.err


def test_a_teacher_of_another_tokenizer_is_refused(on_policy, student_folder, no_model):
    path = on_policy(student={"kind": "checkpoint", "model": str(student_folder)})
    assert_refused_in_one_line(
        stillhouse("distill", path), "with source.kind mixed the teacher must read the student's own"
    )


def test_prompts_without_any_room_are_refused(on_policy, no_model):
    path = on_policy(
        source=STUDENT, data={"kind": "chat", "path": "rows.jsonl", "sequence_tokens": 8, "held_out": 0.25}
    )
    said = stillhouse("distill", path, f"data.path={path.parent / 'rows.jsonl'}")
    assert_refused_in_one_line(said, "prompts fill data.sequence_tokens (8)")


def test_a_student_learns_from_what_it_said_before_and_the_report_shows_it(on_policy, tmp_path):
    replay = {"capacity": 6, "student_share": 0.5, "fresh_share": 0.25, "tolerance_nats": 0.0, "check_every_steps": 4}
    said = stillhouse("distill", on_policy(source={**STUDENT, "kind": "replay", **replay}))
    assert said.code == 0, said.err
    lines = steps(tmp_path / "run")
    assert all({"student_share", "replayed", "held_out_nats"} <= line.keys() for line in lines)
    assert lines[0]["replayed"] == 0 < sum(line["replayed"] for line in lines)
    written = read_lines(tmp_path / "run" / "rollouts.jsonl")
    assert 6 <= len(written) < EPOCHS * 12
    assert len(written) + sum(line["replayed"] for line in lines) <= EPOCHS * 12
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_synthesised_text_gives_prompts_too(on_policy, tmp_path):
    path = on_policy(synthesis=SYNTHESIS, data={"sequence_tokens": 64, "held_out": 0.25}, source=STUDENT)
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert all("Write about" in line["prompt"] for line in read_lines(tmp_path / "run" / "rollouts.jsonl"))
    shutil.rmtree(tmp_path / "run")
