"""Policy gradients, and a teacher that helps to write, from the recipe to the student."""

import pytest

from stillhouse.core.files import read_lines
from stillhouse.training import DistillationTrainer

from .conftest import CHATS, assert_refused, stillhouse, write_recipe, write_rows

STUDENT = {"kind": "student", "sampling": {"max_new_tokens": 8}, "batch_size": 3}
MINILLM = [{"name": "minillm", "gamma": 0.9}]


@pytest.fixture
def on_policy(tmp_path, teacher_folder):
    """Write a recipe whose student answers for itself; its run is `tmp_path / "run"`."""

    def write(**changes):
        values = {
            "synthesis": None,
            "labels": None,
            "data": {
                "kind": "chat",
                "path": str(write_rows(tmp_path / "rows.jsonl", CHATS)),
                "sequence_tokens": 96,
                "held_out": 0.25,
            },
            "source": STUDENT,
            "objectives": MINILLM,
            "training": {
                "epochs": 2,
                "learning_rate": 1e-2,
                "rows_per_step": 4,
                "rows_per_micro_batch": 2,
                "save_every_steps": 2,
            },
        }
        return write_recipe(tmp_path, teacher_folder, **{**values, **changes})

    return write


def said(run):
    return [line["answer"] for line in read_lines(run / "rollouts.jsonl")]


def test_a_run_that_stops_ends_with_the_same_student_and_the_same_answers(on_policy, tmp_path, monkeypatch):
    objectives = [{"name": "sampled_reverse_kl"}, {"name": "jsd", "weight": 0.5}]
    path = on_policy(objectives=objectives, source={**STUDENT, "kind": "mixed", "accept_top_k": 20})
    done = stillhouse("train", path)
    assert done.code == 0, done.err
    save = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return save(self, *args, **options)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", path, f"run={again}").code == 130
    assert stillhouse("train", path, f"run={again}").code == 0
    for name in ("student/model.safetensors", "rollouts.jsonl"):
        assert (again / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line.get("arm") == "student"]
    assert all(chosen["name"] in line for line in lines for chosen in objectives)


def test_what_a_teacher_that_helps_says_is_heard(on_policy, tmp_path):
    answers = {}
    for name, help_of in {"alone": {}, "share": {"teacher_share": 0.9}, "teacher": {"accept_top_k": 0}}.items():
        path = on_policy(source={**STUDENT, **help_of})
        assert stillhouse("train", path, f"run={tmp_path / name}", "training.epochs=0.25").code == 0
        answers[name] = said(tmp_path / name)
    assert len({tuple(found) for found in answers.values()}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": {"kind": "offline"}}, "minillm learns from answers that the student draws while it trains"),
        ({"source": {**STUDENT, "sampling": {"temperature": 0}}}, "source.sampling.temperature 0"),
        ({"source": {**STUDENT, "sampling": {"top_p": 0.9}}}, "source.sampling.top_p keeps some from ever being drawn"),
        ({"source": {**STUDENT, "sampling": {"top_k": 9}}}, "source.sampling.top_k keeps some from ever being drawn"),
        ({"source": {**STUDENT, "teacher_share": 0.2, "accept_top_k": 3}}, "the teacher can help to write in one way"),
        ({"source": {**STUDENT, "teacher_share": 1.2}}, "source.teacher_share: 1.2 came"),
        ({"source": {"kind": "offline", "teacher_share": 0.2}}, "teacher_share"),
        ({"objectives": [{"name": "minillm", "temperature": 2.0}]}, "minillm has no key 'temperature'"),
        ({"objectives": [{"name": "minillm", "where": "tokens"}]}, "minillm has no key 'where'"),
        ({"objectives": [{"name": "minillm", "gamma": 2.0}]}, "gamma must lie between 0 and 1, but it is 2"),
        ({"objectives": [{"name": "minillm", "beta": 0.5}]}, "minillm has no key 'beta'"),
        ({"labels": {"signal": "last_hidden"}}, "minillm learns from answers that are drawn while it trains"),
    ],
)
def test_what_has_nothing_to_draw_from_is_refused(on_policy, no_model, changes, words):
    assert_refused(stillhouse("distill", on_policy(**changes)), words)
