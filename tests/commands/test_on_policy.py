"""A student that learns from its own answers, from the recipe to the report."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines
from stillhouse.training import DistillationTrainer, alarms

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

TOKENS = 12
STUDENT = {"kind": "student", "sampling": {"max_new_tokens": TOKENS}, "batch_size": 3}
MIXED = {**STUDENT, "kind": "mixed", "student_share": 0.5}
END = "<|end|>"
EPOCHS = 3
ONCE = {"training.epochs": 1}


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


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder) -> Finished:
    """A run in which some answers are the student's. Look, do not touch."""
    folder = tmp_path_factory.mktemp("mixed")
    path = write_on_policy(folder, teacher_folder, source=MIXED)
    return Finished(path, folder / "run", stillhouse("distill", path))


def steps(run: Path, arm: str = "student") -> list[dict[str, float]]:
    return [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == arm]


@pytest.fixture(scope="module")
def last_turns(tmp_path_factory, teacher_folder) -> Path:
    """The run of a student that answers only the last turn of each conversation. Look, do not touch."""
    folder = tmp_path_factory.mktemp("last")
    path = write_on_policy(folder, teacher_folder, source=STUDENT, **{"data.weight": "last"})
    assert stillhouse("train", path).code == 0
    return folder / "run"


def test_a_student_comes_nearer_to_its_teacher_on_what_it_says_itself(last_turns):
    values = [line["reverse_kl"] for line in steps(last_turns)]
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_what_a_student_says_while_it_learns_is_written_down(done):
    assert done.said.code == 0, done.said.err
    rollouts = read_lines(done.folder / "rollouts.jsonl")
    assert [line["step"] for line in rollouts] == sorted(line["step"] for line in rollouts)
    assert {line["step"] for line in rollouts} <= {line["step"] for line in steps(done.folder)}
    firsts = [line for line in rollouts if line["turn"] == 0]
    assert 0 < len(firsts) < EPOCHS * 12  # each conversation once an epoch, and not always
    assert all(line["tokens"] <= TOKENS for line in rollouts)
    assert all(END not in line["answer"] for line in rollouts if line["finished"])
    assert all(line["logprob"] < 0 for line in rollouts)
    beginnings = ("<|user|>who ran to the ", "<|start|>the ")
    assert all(line["prompt"].startswith(beginnings) for line in rollouts)
    assert (done.folder / "report.html").stat().st_size > 0


def test_of_last_turns_the_prompt_is_the_datas_conversation_before_the_last_answer(last_turns):
    for line in read_lines(last_turns / "rollouts.jsonl"):
        assert line["turn"] == 0
        assert line["prompt"].endswith(f"ran{END}<|user|>and sang?{END}<|assistant|>")


def test_of_all_turns_each_is_asked_behind_the_students_own_answers(on_policy, tmp_path):
    assert stillhouse("train", on_policy(source=STUDENT, **ONCE)).code == 0
    lines = read_lines(tmp_path / "run" / "rollouts.jsonl")
    before = {(line["step"], line["row"]): line for line in lines if line["turn"] == 0}
    seconds = [line for line in lines if line["turn"] == 1]
    assert len(before) == 12 and 0 < len(seconds) <= 12
    for line in seconds:
        first = before[line["step"], line["row"]]
        assert line["prompt"] == f"{first['prompt']}{first['answer']}{END}<|user|>and sang?{END}<|assistant|>"


def test_a_conversation_with_tools_keeps_all_but_its_last_turn_and_that_is_said(on_policy, tmp_path):
    path = on_policy(source=STUDENT, **ONCE)
    answered = {"role": "tool", "content": "the hill"}
    rows = [{"messages": [*chat["messages"][:2], answered, chat["messages"][3]]} for chat in CHATS]
    write_rows(path.parent / "rows.jsonl", rows)
    said = stillhouse("train", path)
    assert said.code == 0 and "12 call tools: the student answers only their last turn" in said.err
    for line in read_lines(tmp_path / "run" / "rollouts.jsonl"):
        assert line["turn"] == 0 and line["prompt"].endswith(f"<|tool|>the hill{END}<|assistant|>")


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
    path = on_policy(source={**MIXED, "student_share": 0.0}, **ONCE)
    assert stillhouse("train", path).code == 0
    assert read_lines(tmp_path / "run" / "rollouts.jsonl") == []


def test_prompts_that_leave_no_room_are_left_out_and_said(on_policy):
    long = {"messages": [{"role": "user", "content": "who sang? " * 40}, {"role": "assistant", "content": "the fox"}]}
    others = [
        {"messages": [{**long["messages"][0], "content": f"{n} who sang? " * 40}, long["messages"][1]]}
        for n in range(3)
    ]
    path = on_policy(source=STUDENT, **ONCE)
    write_rows(path.parent / "rows.jsonl", [*CHATS, *others])
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert "with a prompt that fills data.sequence_tokens" in said.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"signal": "last_hidden"}}, ["source.kind mixed", "Leave labels out"]),
        ({"objectives": [{"name": "reverse_kl"}, {"name": "next_token"}]}, ["next_token learns the text itself"]),
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
    path = on_policy(synthesis=SYNTHESIS, data={"sequence_tokens": 64, "held_out": 0.25}, source=STUDENT, **ONCE)
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert all("Write about" in line["prompt"] for line in read_lines(tmp_path / "run" / "rollouts.jsonl"))
    shutil.rmtree(tmp_path / "run")


def test_an_alarm_is_said_once_with_its_figures_and_the_report_advises(on_policy, tmp_path, monkeypatch):
    """Even where a kill lets the step that sounds it be done again."""
    monkeypatch.setattr(alarms, "HARDLY_ANY", 1.0)  # so that any share of finished answers is hardly any
    monkeypatch.setattr(alarms, "WINDOW", 3)
    path, run = on_policy(source=STUDENT), tmp_path / "run"
    step = 2 * alarms.WINDOW

    def stop(self, *args, **options):
        if self.state.global_step == step + 2:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **options)

    compute_loss = DistillationTrainer.compute_loss
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        patch.setattr(alarms, "ALARMS", {"end_never_learnt": alarms.end_never_learnt})
        said = stillhouse("train", path, "training.save_every_steps=5", "evaluation.control=none")
    assert said.code == 130 and f"alarm in step {step}: " in said.err
    monkeypatch.setattr(alarms, "ALARMS", {"end_never_learnt": alarms.end_never_learnt})
    again = stillhouse("distill", path, "training.save_every_steps=5", "evaluation.control=none")
    assert again.code == 0 and "alarm" not in again.err
    (told,) = [line for line in read_lines(run / "events.jsonl") if line["event"] == "alarm"]
    assert told["alarm"] == "end_never_learnt" and told["step"] == step
    assert f"of the answers end before {TOKENS} tokens since step 4" in told["says"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"Alarm in step {step}: {told['says']}." in page
    assert "tokens of the student&#39;s answers" in page and "share of its answers that end by themselves" in page


def test_what_a_step_answered_is_logged_beside_its_loss(done):
    rollouts = read_lines(done.folder / "rollouts.jsonl")
    for line in steps(done.folder):
        own = [rollout for rollout in rollouts if rollout["step"] == line["step"]]
        if own:
            assert line["answer_tokens"] == sum(one["tokens"] for one in own) / len(own)
            assert line["finished_share"] == sum(one["finished"] for one in own) / len(own)
        assert ("answer_entropy" in line) == bool(own)
        assert 0 <= line["top1_agreement"] <= 1 and line["weightless_share"] == 0
    assert not any("top1_agreement" in line for line in steps(done.folder, "control_hard_labels"))


def test_vllm_is_refused_where_it_is_not_installed(on_policy, no_model, monkeypatch):
    monkeypatch.setattr("stillhouse.models.vllm_engine.find_spec", lambda name: None)
    said = stillhouse("distill", on_policy(source={**STUDENT, "engine": "vllm"}))
    assert_refused_in_one_line(said, "source.engine is vllm, but vllm is not installed here", "pip install vllm")
