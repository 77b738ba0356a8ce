"""A run killed at any instant and started again ends as if nothing had happened."""

import contextlib
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from stillhouse.cli import main
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.core.files import append_line, read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder

from .conftest import stillhouse

SECONDS = 120
ATTEMPTS = 4
"""A moment of some milliseconds may be missed on a busy machine."""

Moment = Callable[[Path], bool]


def begun(stage: str) -> Moment:
    return lambda run: any(line["stage"] == stage for line in read_lines(run / "events.jsonl"))


def written(name: str) -> Moment:
    return lambda run: (run / name).exists()


def learnt(arm: str, steps: int) -> Moment:
    """After this many steps, of which the last are behind the last checkpoint."""
    return lambda run: sum(line.get("arm") == arm for line in read_lines(run / "metrics.jsonl")) >= steps


MOMENTS = {
    "synthesize": written("data/parts/00002.json"),
    "label": written("labels/shard-00002.safetensors"),
    "student": begun("student"),
    "train": learnt("student", 7),
    "control_hard_labels": learnt("control_hard_labels", 6),
    "evaluate": begun("evaluate"),
    "report": begun("report"),
}


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Processes that have already imported what a start spends nearly all of its time on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stillhouse.commands.run"])
    return context


def wait_for(moment: Moment, run: Path, is_alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not moment(run):
        assert is_alive(), "ended before its moment"
        assert time.monotonic() < deadline, "its moment never came"
        time.sleep(0.0005)


def killed_in(stage: str, recipe: Path, folder: Path, processes: BaseContext) -> Path:
    """A run folder as a kill in the middle of this stage leaves it."""
    for attempt in range(ATTEMPTS):
        run = folder / f"run{attempt}"
        process = processes.Process(target=main, args=(["distill", str(recipe), f"run={run}"],))  # type: ignore[attr-defined]
        process.start()
        try:
            wait_for(MOMENTS[stage], run, process.is_alive)
        finally:
            process.kill()
            process.join()
        if process.exitcode == -signal.SIGKILL and not RunFolder(run).is_done(stage):
            return run
    raise AssertionError(f"the stage {stage!r} was over before the kill, {ATTEMPTS} times")


@contextlib.contextmanager
def started(recipe: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command itself, as a shell would start it."""
    command = [sys.executable, "-m", "stillhouse", "distill", str(recipe)]
    hears = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # even where the tests run in the background and do not
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hears
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_run_killed_in_any_stage_ends_with_the_same_student(stage, recipe, finished, tmp_path, processes):
    run = killed_in(stage, recipe(), tmp_path, processes)
    said = stillhouse("distill", recipe(), f"run={run}")
    assert said.code == 0, said.err
    for role in ("student", "student_before", "control_hard_labels"):
        weights = (run / role / "model.safetensors").read_bytes()
        assert weights == (finished.folder / role / "model.safetensors").read_bytes()
    assert (run / "data" / "documents.jsonl").read_bytes() == (
        finished.folder / "data" / "documents.jsonl"
    ).read_bytes()
    assert numbers(run) == numbers(finished.folder)
    events = [line["event"] for line in read_lines(run / "events.jsonl") if line["stage"] == stage]
    assert events == ["started", "resumed", "finished"]
    assert not list(run.rglob("*.part"))


def test_masks_and_projections_of_a_run_killed_in_training_go_on_as_they_would_have(kind_recipe, tmp_path, processes):
    student = {"kind": "from_config", "changes": {"hidden_size": 16, "num_hidden_layers": 2}}
    objectives = [{"name": "masked_token"}, {"name": "hidden_mse"}]
    path = kind_recipe("masked_text", {"student": student, "objectives": objectives, "training.save_every_steps": 6})
    assert stillhouse("train", path).code == 0
    # An epoch has 5 steps: the checkpoint is behind one that had other masks, and within the next.
    run = killed_in("train", path, tmp_path / "killed", processes)
    assert (run / "checkpoints" / "student" / "checkpoint-6" / "projections.safetensors").exists()
    assert stillhouse("train", path, f"run={run}").code == 0
    for name in ("student/model.safetensors", "projections.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert numbers(run) == numbers(tmp_path / "run")


def numbers(run: Path) -> dict[tuple[object, ...], list[object]]:
    """Each line of the metrics by what it is about: nothing twice, nothing missing, and the same values."""
    lines = read_lines(run / "metrics.jsonl")
    keys = [(line["arm"], line["step"]) if "arm" in line else (line["evaluated"], line["metric"]) for line in lines]
    assert set(Counter(keys).values()) == {1}
    return {key: list(line.values()) for key, line in zip(keys, lines, strict=True)}


def test_ctrl_c_ends_with_130_and_one_line_and_the_run_goes_on(recipe, finished, tmp_path):
    run = tmp_path / "run"
    with started(recipe()) as process:
        wait_for(learnt("student", 2), run, lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "stopped. The same command goes on from here."
    assert stillhouse("train", recipe()).code == 0
    weights = (run / "student" / "model.safetensors").read_bytes()
    assert weights == (finished.folder / "student" / "model.safetensors").read_bytes()


def test_a_second_process_in_the_same_folder_is_refused_while_the_first_goes_on(recipe, tmp_path, processes):
    run, path = tmp_path / "run", recipe()
    process = processes.Process(target=main, args=(["distill", str(path)],))
    process.start()
    try:
        wait_for(written("recipe.yaml"), run, process.is_alive)
        said = stillhouse("distill", path)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    message = f"{run} is in use by another stillhouse process. Wait for it, or name run=FOLDER."
    assert (said.code, said.err) == (2, f"stillhouse: {message}\n")


def test_an_evaluation_cut_short_leaves_no_number_twice(finished, tmp_path):
    run = RunFolder(tmp_path)
    record = json.loads((finished.folder / "stages" / "evaluate.json").read_text())
    result = EvaluationResult.from_dict(record["result"])
    append_line(run.metrics, {"arm": "student", "step": 1, "loss": 2.0})
    for _ in range(2):
        MetricsLog(run).evaluation(result)
    lines = run.metric_lines()
    assert lines[0]["step"] == 1
    assert len(lines) == 1 + sum(len(model.metrics) for model in result.models)
