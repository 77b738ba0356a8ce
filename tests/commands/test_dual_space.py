"""Dual-space distillation, from the recipe to the files."""

from functools import partial

import pytest
from safetensors import safe_open

from stillhouse.training import DistillationTrainer

from .conftest import assert_refused, stillhouse
from .test_cross_tokenizer import terms, weights, write_across
from .test_on_policy import STUDENT
from .test_teacher_answers import NO_CONTROL

DUAL = [
    {"name": "dual_space_student", "weight": 0.5, "temperature": 2.0},
    {"name": "dual_space_teacher", "weight": 0.5, "temperature": {"start": 2.0, "end": 1.0}},
]
TRAINING = {"epochs": 3, "learning_rate": 1e-2, "rows_per_step": 2, "rows_per_micro_batch": 1, "save_every_steps": 2}


@pytest.fixture
def dual(tmp_path, teacher_folder, student_folder):
    """Write that recipe for a student with another tokenizer; its run is `tmp_path / "run"`."""
    changes = {"objectives": [*DUAL, {"name": "next_token"}], "training": TRAINING, "evaluation": NO_CONTROL}
    write = partial(write_across, tmp_path, teacher_folder, student_folder)
    return lambda kind="text", **own: write(kind, **{**changes, **own})


def test_a_student_learns_in_both_spaces_and_the_maps_are_kept_beside_it(dual, tmp_path, monkeypatch):
    path, run = dual(), tmp_path / "run"
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    for chosen in DUAL:
        values = terms(run, chosen["name"])
        assert values[-1] < values[0]
    with safe_open(run / "projections.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"dual_space.query", "dual_space.value", "dual_space.states"}
    with safe_open(run / "student" / "model.safetensors", framework="pt") as file:
        assert not any("dual" in name or "maps" in name or "projections" in name for name in file.keys())  # noqa: SIM118

    compute_loss = DistillationTrainer.compute_loss

    def stop(self, *args, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **options)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        assert stillhouse("train", path, f"run={again}").code == 130
    assert (again / "checkpoints" / "student" / "checkpoint-2" / "projections.safetensors").exists()
    assert stillhouse("train", path, f"run={again}").code == 0
    assert weights(again) == weights(run)
    assert (again / "projections.safetensors").read_bytes() == (run / "projections.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["same tokens", "own answers"])
def test_it_learns_in_the_same_tokens_and_from_own_answers_too(name, dual, tmp_path):
    changes = {"student": {"kind": "from_layers", "keep": [0, 2]}} if name == "same tokens" else {"source": STUDENT}
    path = dual("chat", objectives=DUAL, **changes, **{"training.epochs": 0.5})
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    assert all(terms(tmp_path / "run", chosen["name"]) for chosen in DUAL)
    with safe_open(tmp_path / "run" / "projections.safetensors", framework="pt") as file:
        assert ("dual_space.query" in file.keys()) == (name == "own answers")  # noqa: SIM118


def test_what_it_cannot_read_is_refused(dual, no_model, kind_recipe):
    assert_refused(stillhouse("distill", dual(labels={"signal": "last_hidden"})), "no stored signal keeps together")
    said = stillhouse("distill", dual(objectives=[{**DUAL[0], "layers": "final"}]))
    assert_refused(said, "dual_space_student has no key 'layers'")
    assert_refused(stillhouse("distill", dual(objectives=[{**DUAL[0], "temperature": -1}])), "temperature")
    said = stillhouse("distill", dual(objectives=[*DUAL, {"name": "span_forward_kl"}, {"name": "hidden_mse"}]))
    assert_refused(said, "hidden_mse compares token by token")
    said = stillhouse("distill", kind_recipe("masked_text", {"objectives": [DUAL[0]]}))
    assert_refused(said, "dual_space_student reads which token comes next")
