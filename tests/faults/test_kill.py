"""A run that is killed, stopped, starved of room or damaged, and started again, ends as if nothing had happened."""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apart import AT_LENGTH, processes

from stillhouse.cli import main
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.core.files import append_line, read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder

from .harness import (
    Moment,
    Run,
    assert_undisturbed,
    cut_short,
    flip_a_bit,
    move_the_clock,
    numbers,
    stillhouse,
    tally,
)

STAGES: dict[str, Moment] = {
    "synthesize": ("written", "data/parts/00002.json"),
    "label": ("written", "labels/shard-00002.safetensors"),
    "student": ("begun", "student"),
    "train": ("learnt", "student", 7),  # of which the last are behind the last checkpoint
    "control_hard_labels": ("learnt", "control_hard_labels", 6),
    "evaluate": ("begun", "evaluate"),
    "report": ("begun", "report"),
}
"""A moment within each stage."""
FIRST: dict[str, tuple[str, Moment]] = {
    "synthesize": ("full", ("written", "data/parts/00001.json")),
    "label": ("interrupt", ("written", "labels/shard-00001.safetensors")),
    "train": ("terminate", ("learnt", "student", 5)),
    "evaluate": ("read_only", ("begun", "evaluate")),
}
"""What strikes in a stage before the kill, and when."""


@pytest.fixture
def run(recipe, tmp_path) -> Run:
    return Run(recipe(), tmp_path / "run")


def damage_labels(run: Run, chance: random.Random) -> None:
    """One shard with another bit, one cut short, and all of it from tomorrow."""
    flip_a_bit(run.folder / "labels" / "shard-00000.safetensors", chance)
    cut_short(run.folder / "labels" / "shard-00001.safetensors", chance)
    move_the_clock(run.folder, 86_400)


def halve_a_checkpoint(run: Run, chance: random.Random) -> None:
    """The last of them, as a disk leaves it that went down before its end; and all of it from last year."""
    checkpoints = sorted((run.folder / "checkpoints").glob("*/checkpoint-*"), key=lambda path: path.stat().st_mtime)
    file = chance.choice(sorted(path for path in checkpoints[-1].iterdir() if path.suffix in (".safetensors", ".pt")))
    cut_short(file, chance)
    move_the_clock(run.folder, -3.2e7)


DAMAGES: dict[str, Callable[[Run, random.Random], None]] = {"label": damage_labels, "train": halve_a_checkpoint}


def test_a_run_struck_in_every_stage_and_damaged_on_the_way_ends_as_if_nothing_had_happened(run, undisturbed):
    chance, run.clock_jumps = random.Random(0), True
    for stage, moment in STAGES.items():
        if stage in FIRST:
            run.must_suffer(*FIRST[stage])
            assert not list(run.folder.rglob("*.part")), FIRST[stage]
        run.must_suffer("kill", ("resumed", stage) if moment == FIRST.get(stage, ("", ()))[1] else moment)
        assert not RunFolder(run.folder).is_done(stage)
        if stage in DAMAGES:
            DAMAGES[stage](run, chance)
    run.finish()
    found = assert_undisturbed(run.folder, undisturbed.folder)
    assert numbers(run.folder) == numbers(undisturbed.folder)
    for stage in STAGES:
        lines = [line for line in read_lines(run.folder / "events.jsonl") if line["stage"] == stage]
        assert [line["event"] for line in lines if line["event"] != "warned"] == [
            "started",
            *["resumed"] * (2 if stage in FIRST else 1),
            "finished",
        ], stage
    assert list(RunFolder(run.folder).stages()) == list(RunFolder(undisturbed.folder).stages())
    for fault in [*run.faults, "damage", "clock jumps"]:
        tally(fault, survived=1, lost=found.lost, twice=found.twice)


def test_masks_and_projections_of_a_run_killed_in_training_go_on_as_they_would_have(kind_recipe, tmp_path):
    student = {"kind": "from_config", "changes": {"hidden_size": 16, "num_hidden_layers": 2}}
    objectives = [{"name": "masked_token"}, {"name": "hidden_mse"}]
    path = kind_recipe("masked_text", {"student": student, "objectives": objectives, "training.save_every_steps": 6})
    whole, killed = (Run(path, tmp_path / name, "train") for name in ("whole", "killed"))
    whole.finish()
    # An epoch has 5 steps: the checkpoint is behind one that had other masks, and within the next.
    killed.must_suffer("kill", STAGES["train"])
    assert (killed.folder / "checkpoints" / "student" / "checkpoint-6" / "projections.safetensors").exists()
    killed.finish()
    for name in ("student/model.safetensors", "projections.safetensors"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert numbers(killed.folder) == numbers(whole.folder)


def test_a_second_process_in_the_same_folder_is_refused_while_the_first_goes_on(recipe, tmp_path):
    run, path = tmp_path / "run", recipe()
    process = processes().Process(target=main, args=(["distill", str(path)],))
    process.start()
    try:
        while not (run / "recipe.yaml").exists():
            assert process.is_alive()
            time.sleep(0.001)
        said = stillhouse("distill", path)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    message = f"{run} is in use by another stillhouse process. Wait for it, or name run=FOLDER."
    assert (said.code, said.err) == (2, f"stillhouse: {message}\n")
    tally("two runs in one folder", survived=1)


def test_an_evaluation_cut_short_leaves_no_number_twice(undisturbed, tmp_path):
    run = RunFolder(tmp_path)
    record = json.loads((undisturbed.folder / "stages" / "evaluate.json").read_text())
    result = EvaluationResult.from_dict(record["result"])
    append_line(run.metrics, {"arm": "student", "step": 1, "loss": 2.0})
    for _ in range(2):
        MetricsLog(run).evaluation(result)
    lines = run.metric_lines()
    assert lines[0]["step"] == 1
    assert len(lines) == 1 + sum(len(model.metrics) for model in result.models)


# In full: at random instants, until so many have struck.

MANY = {"kill": 100, "terminate": 10, "interrupt": 10, "full": 20, "read_only": 10}


@AT_LENGTH
@pytest.mark.parametrize("what", MANY)
def test_faults_at_random_instants_lose_nothing_and_repeat_nothing(what, recipe, undisturbed, tmp_path):
    chance, struck, number, path = random.Random(what), 0, 0, recipe()
    operations, struck_in = int(json.loads(undisturbed.said)), set()
    while struck < MANY[what]:
        run, number = Run(path, tmp_path / f"run{number}"), number + 1
        while struck < MANY[what]:
            by_time = what == "kill" and chance.random() < 0.5
            moment = ("seconds", chance.uniform(0, 2)) if by_time else ("operation", chance.randrange(operations // 3))
            if run.suffer(what, moment) == 0:
                break
            struck += 1
            struck_in |= {line["stage"] for line in read_lines(run.folder / "events.jsonl")[-1:]}
        run.finish()
        found = assert_undisturbed(run.folder, undisturbed.folder)
        for fault in run.faults:
            tally(f"{fault} at a random instant", survived=1, lost=found.lost, twice=found.twice)
        shutil.rmtree(run.folder)
    assert what != "kill" or struck_in >= STAGES.keys(), struck_in


@AT_LENGTH
def test_random_damage_to_a_run_that_was_killed_is_found_and_mended(recipe, undisturbed, tmp_path):
    chance, path = random.Random("damage"), recipe()
    labelled, training = Run(path, tmp_path / "labelled"), Run(path, tmp_path / "training")
    labelled.must_suffer("kill", ("begun", "student"))
    training.must_suffer("kill", STAGES["train"])
    for number in range(20):
        source = chance.choice([labelled, training])
        run = Run(path, Path(shutil.copytree(source.folder, tmp_path / f"run{number}")))
        if source is labelled or chance.random() < 0.5:
            name = chance.choice(["labels bit-flipped", "labels cut short"])
            damage = flip_a_bit if name == "labels bit-flipped" else cut_short
            damage(chance.choice(sorted((run.folder / "labels").iterdir())), chance)
        else:
            name = "checkpoint cut short"
            halve_a_checkpoint(run, chance)
        run.finish()
        found = assert_undisturbed(run.folder, undisturbed.folder)
        tally(name, survived=1, lost=found.lost, twice=found.twice)
        shutil.rmtree(run.folder)
