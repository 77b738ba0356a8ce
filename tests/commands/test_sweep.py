"""A grid of recipes as ordinary runs."""

from pathlib import Path

import pytest

from stillhouse.commands.sweep import trials
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import read_lines
from stillhouse.core.run import RunFolder

from .conftest import assert_refused, files_in, stillhouse, write_recipe


def test_a_grid_is_every_combination_under_a_name_of_its_own(tmp_path: Path, teacher_folder: Path):
    recipe = write_recipe(tmp_path, teacher_folder)
    found = trials(recipe, [], grid=["student.keep=1,2", "training.epochs=1,2"], seeds=2, out=tmp_path / "out")
    assert len(found) == 8
    assert len({trial.recipe.run for trial in found}) == 8
    assert found[0].name == "keep=1,epochs=1,seed=0"
    assert {(trial.recipe.student.keep, trial.recipe.training.epochs) for trial in found} == {
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    }
    (one,) = trials(recipe, [], grid=["objectives=[{name: next_token}]"], seeds=1, out=tmp_path)
    assert [objective.name for objective in one.recipe.objectives] == ["next_token"]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["student.keep"], "is no axis"),
        (["student.keep="], "is no axis"),
        (["run=a,b"], "each run has a folder of its own"),
        (["training.seed=1,2", "training.seed=3"], "is given twice"),
        (["training.seed=1,1"], "the same settings"),
        (["training.epochs=" + ",".join(map(str, range(1, 300)))], "200 is the most"),
        (["student.kep=1"], "student.kep"),
    ],
)
def test_a_grid_that_is_none_is_refused_before_any_run(grid, words, tmp_path: Path, teacher_folder: Path):
    with pytest.raises(RecipeError, match=words):
        trials(write_recipe(tmp_path, teacher_folder), [], grid=grid, seeds=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sweep_shares_what_is_the_same_and_is_done_once(tmp_path: Path, teacher_folder: Path):
    evaluation = {"samples": 0, "control": "hard_labels", "control_budget": "both"}
    recipe = write_recipe(tmp_path, teacher_folder, evaluation=evaluation)
    command = ["sweep", recipe, "--grid", "objectives.0.weight=0.9,0.5", "--out", tmp_path / "out", "training.epochs=1"]
    said = stillhouse(*command)
    assert said.code == 0, said.err
    first, second = (tmp_path / "out" / "runs" / f"weight={weight}" for weight in (0.9, 0.5))
    events = read_lines(second / "events.jsonl")
    assert {line["stage"] for line in events if line["event"] == "borrowed"} == {
        "synthesize",
        "student",
        "control_hard_labels",
    }
    control = "control_hard_labels/model.safetensors"
    assert (first / control).read_bytes() == (second / control).read_bytes()
    steps = [
        [line["step"] for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]
        for run in (first, second)
    ]
    assert steps[0] == steps[1] == sorted(set(steps[1]))  # its own, and not the other's too
    arms = [{line["arm"] for line in read_lines(run / "metrics.jsonl") if "arm" in line} for run in (first, second)]
    assert arms == [{"student", "control_hard_labels", "control_hard_labels_flops"}] * 2
    stages = RunFolder(first).stages()
    same_tokens, same_flops = (stages[f"control_hard_labels{budget}"]["steps"] for budget in ("", "_flops"))
    assert stages["train"]["steps"] == same_tokens < same_flops  # no teacher ran beside it, so it goes on for longer
    assert "no teacher, same FLOPs" in (first / "summary.md").read_text(encoding="utf-8")
    assert len(read_lines(tmp_path / "out" / "sweep.jsonl")) == 2
    again = f"stillhouse sweep {recipe} --grid objectives.0.weight=0.9,0.5 --out {tmp_path / 'out'} training.epochs=1"
    assert all(again in (tmp_path / "out" / f"sweep.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))

    before = files_in(tmp_path / "out" / "runs")
    assert stillhouse(*command).code == 0
    assert files_in(tmp_path / "out" / "runs") == before

    together = stillhouse("report", first, second, "--out", tmp_path / "both.html")
    assert together.code == 0, together.err
    assert "weight=0.5" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert_refused(stillhouse("report", first, tmp_path), "nothing to report")


def test_a_sweep_over_nothing_is_refused(tmp_path: Path, teacher_folder: Path):
    assert_refused(stillhouse("sweep", write_recipe(tmp_path, teacher_folder)), "--grid", "--seeds")
