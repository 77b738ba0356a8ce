"""A student that learns what the teacher answered before training, from the recipe to the report."""

import json
from functools import partial
from pathlib import Path

import pytest

from stillhouse.core.files import read_lines

from .conftest import CHATS, Finished, files_in, stillhouse
from .test_on_policy import END, MIXED, steps, write_on_policy

TEACHER = {"kind": "teacher", "sampling": {"max_new_tokens": 10}, "batch_size": 4}
LEARNT = [{"name": "next_token"}]
SHORT = {"epochs": 2, "learning_rate": 1e-2, "rows_per_step": 2, "rows_per_micro_batch": 2, "save_every_steps": 4}
NO_CONTROL = {"control": "none", "samples": 0}


@pytest.fixture
def answered(tmp_path, teacher_folder):
    """Write a recipe whose teacher answers; its run is `tmp_path / "run"`."""
    return partial(write_on_policy, tmp_path, teacher_folder, source=TEACHER, objectives=LEARNT, training=SHORT)


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder) -> Finished:
    """A run with three samples and stored labels. Look, do not touch."""
    folder = tmp_path_factory.mktemp("answered")
    path = write_on_policy(
        folder,
        teacher_folder,
        source={**TEACHER, "samples": 3},
        objectives=[{"name": "forward_kl"}, {"name": "next_token"}],
        labels={"shard_tokens": 200},
        training=SHORT,
    )
    return Finished(path, folder / "run", stillhouse("distill", path))


def answers(run: Path) -> list[dict[str, object]]:
    return read_lines(run / "answers" / "answers.jsonl")


def _prompt(chat: dict[str, list[dict[str, str]]]) -> str:
    """A conversation up to its last answer, as the template of the tests writes it."""
    before = "".join(f"<|{turn['role']}|>{turn['content']}{END}" for turn in chat["messages"][:-1])
    return before + "<|assistant|>"


def test_the_teacher_answers_what_is_trained_on_and_never_what_is_held_out(done):
    assert done.said.code == 0, done.said.err
    said = answers(done.folder)
    assert sum(line["times"] for line in said) == 3 * 12  # of 16 conversations, 4 are held out
    assert "answers to 12 prompts" in done.said.err
    asked = {str(line["prompt"]) for line in said}
    learnt = [chat for number, chat in enumerate(CHATS, 1) if number % 4]  # every fourth is held out
    assert asked == {_prompt(chat) for chat in learnt}
    assert (done.folder / "report.html").stat().st_size > 0


def test_what_is_learnt_are_the_answers_and_by_a_control_the_datas_in_as_many_steps(done):
    tokens = sum(line["tokens"] * line["times"] for line in answers(done.folder))
    assert steps(done.folder)[-1]["tokens"] == 2 * tokens  # epochs
    control = steps(done.folder, "control_hard_labels")
    assert [line["step"] for line in control] == [line["step"] for line in steps(done.folder)]
    assert control[-1]["tokens"] != steps(done.folder)[-1]["tokens"]


def test_the_answers_are_a_stage_that_is_done_once(done):
    before = files_in(done.folder)
    assert stillhouse("distill", done.recipe).code == 0
    assert files_in(done.folder) == before


def test_a_run_that_stops_while_the_teacher_answers_ends_with_the_same(answered, tmp_path, monkeypatch):
    path = answered(evaluation=NO_CONTROL)
    assert stillhouse("train", path).code == 0

    from stillhouse.synthesis import answers as writing

    run, told = tmp_path / "again", []

    def stop(*given, sample=writing.sample, **options):
        if told:  # behind the first batch
            raise KeyboardInterrupt
        told.append(given)
        return sample(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "sample", stop)
        assert stillhouse("train", path, f"run={run}").code == 130
    assert len(list((run / "answers" / "parts").iterdir())) == 1 and not (run / "answers" / "answers.jsonl").exists()
    assert stillhouse("train", path, f"run={run}").code == 0
    for name in ("student/model.safetensors", "answers/answers.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_answers_that_were_changed_by_hand_are_not_taken_for_the_teachers(answered, tmp_path):
    path = answered(evaluation=NO_CONTROL)
    assert stillhouse("train", path).code == 0
    file = tmp_path / "run" / "answers" / "answers.jsonl"
    lines = answers(tmp_path / "run")
    lines[0]["ids"] = [5, 6]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    said = stillhouse("train", path)
    assert said.code == 2 and "'train'" in said.err and "was made from something else" in said.err


@pytest.mark.parametrize("method", ["beam", "nearest"])
def test_a_beam_search_answers_too(answered, tmp_path, method):
    source = {**TEACHER, "method": method, "beams": 2}
    assert stillhouse("train", answered(source=source, evaluation=NO_CONTROL)).code == 0
    assert [line["row"] for line in answers(tmp_path / "run")] == list(range(12))


def test_the_teacher_may_answer_where_the_student_does_not_and_the_share_may_move(answered, tmp_path):
    source = {**MIXED, "otherwise": "teacher", "student_share": {"start": 0.0, "end": 1.0}}
    path = answered(source=source, objectives=[{"name": "reverse_kl"}], evaluation=NO_CONTROL)
    assert stillhouse("train", path).code == 0
    assert len(answers(tmp_path / "run")) == 12
    shares = [line["student_share"] for line in steps(tmp_path / "run")]
    assert shares == pytest.approx([number / len(shares) for number in range(len(shares))])
    assert all(line["step"] > 1 for line in read_lines(tmp_path / "run" / "rollouts.jsonl"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": {**TEACHER, "beams": 3}}, ["method sample has no beams"]),
        ({"source": {**TEACHER, "method": "beam", "samples": 3}}, ["method beam has no samples"]),
        ({"source": {**TEACHER, "method": "beam", "sampling": {"temperature": 0.5}}}, ["beam draws nothing"]),
        ({"source": {**TEACHER, "samples": 2, "sampling": {"temperature": 0}}}, ["Raise the temperature"]),
        ({"source": {**TEACHER, "method": "bean"}}, ["source.method"]),
        ({"source": {**MIXED, "teacher": {"samples": 2}}}, ["otherwise is data"]),
        ({"source": {**MIXED, "student_share": {"start": 0, "end": 2}}}, ["student_share goes from 0.0 to 2.0"]),
        (
            {"source": {**MIXED, "student_share": {"start": 0, "end": 1, "shape": "adaptive"}}},
            ["student_share follows no term's value"],
        ),
    ],
)
def test_what_the_teacher_cannot_answer_is_refused(answered, no_model, changes, words):
    said = stillhouse("distill", answered(**changes))
    assert said.code == 2
    for word in words:
        assert word in said.err
