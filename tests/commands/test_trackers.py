"""Trackers that a recipe names, and what they are told."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import TrainerCallback

from stillhouse.commands.trackers import PACKAGES, check_trackers
from stillhouse.core.errors import RecipeError

from .conftest import assert_refused, stillhouse, write_recipe


@pytest.mark.usefixtures("no_model")
def test_a_tracker_that_is_not_installed_is_named_before_any_model_is_loaded(
    tmp_path: Path, teacher_folder: Path, monkeypatch
):
    monkeypatch.setattr("stillhouse.commands.trackers.find_spec", lambda name: None)
    said = stillhouse("distill", write_recipe(tmp_path, teacher_folder), "report_to=[wandb]")
    assert_refused(said, "report_to: wandb is not installed", "pip install wandb")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="mlflow is not installed"):
        check_trackers(["mlflow"], run=tmp_path)


def test_an_unknown_tracker_is_a_fault_of_the_recipe(tmp_path: Path, teacher_folder: Path):
    said = stillhouse("distill", write_recipe(tmp_path, teacher_folder), "report_to=[notebook]")
    assert_refused(said, "report_to", "notebook")


def test_tensorboard_keeps_its_files_where_no_checkpoint_is_removed(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setattr("stillhouse.commands.trackers.find_spec", lambda name: ModuleType(name))
    check_trackers([*PACKAGES], run=tmp_path)
    import os

    assert os.environ.pop("TENSORBOARD_LOGGING_DIR") == str(tmp_path / "tensorboard")


def test_a_tracker_is_told_every_step_and_every_term(tmp_path: Path, teacher_folder: Path, monkeypatch):
    told = []

    class Listener(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **options):
            told.append((state.global_step, dict(logs or {})))

    monkeypatch.setattr("stillhouse.commands.trackers.find_spec", lambda name: ModuleType(name))
    integrations = sys.modules["transformers.integrations.integration_utils"]
    monkeypatch.setitem(integrations.INTEGRATION_TO_CALLBACK, "trackio", Listener)
    recipe = write_recipe(tmp_path, teacher_folder, evaluation={"samples": 0, "control": "none"})
    said = stillhouse("train", recipe, "report_to=[trackio]", "training.epochs=1")
    assert said.code == 0, said.err
    steps = [logs for _, logs in told if "loss" in logs]
    assert steps
    assert all({"forward_kl", "next_token", "learning_rate"} <= logs.keys() for logs in steps)
