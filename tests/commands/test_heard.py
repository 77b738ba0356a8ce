"""A student that answers a teacher with another tokenizer, and one that learns what such a teacher answers."""

import json
from collections import Counter

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from stillhouse.core.files import read_lines
from stillhouse.training import DistillationTrainer

from .conftest import Finished, assert_refused, assert_refused_in_one_line, stillhouse
from .test_cross_tokenizer import weights, write_across
from .test_on_policy import MIXED, STUDENT, steps
from .test_teacher_answers import NO_CONTROL, SHORT, TEACHER, answers

REPLAY = {**STUDENT, "kind": "replay", "capacity": 6, "student_share": 0.5, "fresh_share": 0.25, "tolerance_nats": 0.0}
ACROSS = [{"name": "span_reverse_kl", "temperature": 2.0}]
TRAINING = {"epochs": 2, "learning_rate": 1e-2, "rows_per_step": 4, "rows_per_micro_batch": 2, "save_every_steps": 4}


@pytest.fixture
def heard(tmp_path, teacher_folder, student_folder):
    """Write a recipe whose student has another tokenizer and answers for itself; its run is `tmp_path / "run"`."""
    settings = {"source": STUDENT, "objectives": ACROSS, "training": TRAINING, "evaluation": NO_CONTROL}
    return lambda kind="chat", /, **changes: write_across(
        tmp_path, teacher_folder, student_folder, kind, **{**settings, **changes}
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory, teacher_folder, student_folder) -> Finished:
    """A run in which the student's answers are learnt, new ones and some of before. Look, do not touch."""
    folder = tmp_path_factory.mktemp("replay")
    settings = {"source": REPLAY, "objectives": ACROSS, "training": TRAINING}
    path = write_across(folder, teacher_folder, student_folder, "text", **settings)
    return Finished(path, folder / "run", stillhouse("distill", path))


def test_a_student_learns_from_what_it_says_itself_to_a_teacher_with_another_tokenizer(done):
    assert done.said.code == 0, done.said.err
    lines = steps(done.folder)
    assert all(line["span_reverse_kl"] > 0 for line in lines)
    answered = Counter(line["step"] for line in read_lines(done.folder / "rollouts.jsonl") if line["turn"] == 0)
    for line in lines:
        assert ("left_out" in line) == (line["step"] in answered)
        assert ("compared_share" in line) == (line.get("left_out", 0) < answered[line["step"]])
        assert 0 < line.get("compared_share", 1.0) <= 1
    assert any("compared_share" in line for line in lines)
    assert not any("left_out" in line for line in steps(done.folder, "control_hard_labels"))
    assert [line["step"] for line in steps(done.folder, "control_hard_labels")] == [line["step"] for line in lines]
    assert (done.folder / "report.html").stat().st_size > 0


def test_a_run_that_stops_behind_a_checkpoint_ends_with_the_same_student_and_the_same_answers(
    done, tmp_path, monkeypatch
):
    compute_loss = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **options)

    run = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", done.recipe, f"run={run}").code == 130
    assert (run / "checkpoints" / "student" / "checkpoint-4").exists()
    assert stillhouse("train", done.recipe, f"run={run}").code == 0
    for name in ("student/model.safetensors", "rollouts.jsonl"):
        assert (run / name).read_bytes() == (done.folder / name).read_bytes()


def test_with_equal_tokenizers_it_is_the_plain_objective_on_policy(heard, tmp_path):
    """The same answers are drawn, and the same is learnt from them, whatever tokens they are."""
    found = {}
    for name in ("reverse_kl", "span_reverse_kl"):
        path = heard(
            student={"kind": "from_layers", "keep": [0, 2]},
            objectives=[{"name": name}],
            training={**TRAINING, "epochs": 1, "learning_rate": 1e-3},
        )
        assert stillhouse("train", path, f"run={tmp_path / name}").code == 0
        lines = [line[name] for line in steps(tmp_path / name)]
        found[name] = lines, load_file(tmp_path / name / "student" / "model.safetensors")
    plain, spans = found["reverse_kl"], found["span_reverse_kl"]
    assert spans[0] == pytest.approx(plain[0], rel=1e-3)
    said = [read_lines(tmp_path / name / "rollouts.jsonl")[:12] for name in found]
    assert [line["answer"] for line in said[0]] == [line["answer"] for line in said[1]]
    assert_close(spans[1], plain[1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("text", {"objectives": [{"name": "span_forward_kl"}, {"name": "next_token"}], "labels": {}}),
        ("chat", {"source": {**TEACHER, "method": "nearest", "beams": 2}, "objectives": ACROSS}),
    ],
)
def test_a_student_learns_in_its_own_tokens_what_the_teacher_answers_in_its(kind, changes, heard, tmp_path):
    path = heard(kind, **{"source": TEACHER, "training": SHORT, **changes})
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    run = tmp_path / "run"
    assert len(answers(run)) == 12
    assert steps(run)[-1].keys() >= {chosen["name"] for chosen in changes["objectives"]}
    assert stillhouse("train", path).code == 0
    before = weights(run)
    again = tmp_path / "again"
    assert stillhouse("train", path, f"run={again}").code == 0
    assert weights(again) == before


def test_the_teacher_answers_the_prompts_in_its_own_template(heard, tmp_path):
    assert stillhouse("train", heard(source=TEACHER, training=SHORT, objectives=[{"name": "next_token"}])).code == 0
    assert all(line["prompt"].startswith("<|user|>who ran to the ") for line in answers(tmp_path / "run"))
    assert all(line["prompt"].endswith("and sang?<|end|><|assistant|>") for line in answers(tmp_path / "run"))


def test_where_the_teachers_answers_cannot_be_read_the_datas_are_learnt_or_nothing_is(heard, tmp_path, monkeypatch):
    path = heard(source={**MIXED, "otherwise": "teacher"})
    written = "stillhouse.commands.stages.answering.write_answers_by"

    def silent(hands, asked, *, folder, **options):
        outcome = write_answers_by(hands, asked, folder=folder, **options)
        lines = [{**line, "ids": [hands.tokenizer.eos_token_id], "finished": True} for line in answers(folder.parent)]
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return outcome

    from stillhouse.synthesis import write_answers_by

    monkeypatch.setattr(written, silent)
    said = stillhouse("train", path)
    assert said.code == 0 and "left out: 12 prompts whose answers cannot be read" in said.err
    said = stillhouse("train", path, "source={kind: teacher}", f"run={tmp_path / 'again'}")
    assert_refused(said, "none of the teacher's answers", "can be read in the student's tokens")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": [{"name": "reverse_kl"}]}, ["reverse_kl compares token by token", "span_forward_kl"]),
        ({"objectives": [{"name": "minillm"}]}, ["minillm compares token by token", "span_forward_kl"]),
        ({"source": {**STUDENT, "teacher_share": 0.2}}, ["with source.teacher_share both draw each token together"]),
        ({"source": {**STUDENT, "accept_top_k": 0}}, ["with source.accept_top_k both draw each token together"]),
        ({"source": TEACHER, "objectives": [{"name": "forward_kl"}]}, ["forward_kl compares token by token"]),
    ],
)
def test_what_needs_one_tokenizer_is_refused(heard, no_model, changes, words):
    assert_refused_in_one_line(stillhouse("distill", heard(**changes)), "is not the teacher's", *words)


def test_learning_its_own_text_and_stored_labels_are_refused_as_ever(heard, no_model):
    said = stillhouse("distill", heard(objectives=[*ACROSS, {"name": "next_token"}]))
    assert_refused(said, "next_token learns the text itself")
    assert_refused(stillhouse("distill", heard(labels={})), "Leave labels out")
