"""An arm that several processes train."""

import json
from importlib.util import find_spec

import pytest
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from stillhouse.commands.launch.config import (
    check_adapter,
    check_compiled,
    check_launch,
    held_by,
    share_of,
    write_config,
)
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.labelling import check_spread
from stillhouse.commands.stages.teaching import check_taught_on_ray
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import RecipeError, StillhouseError
from stillhouse.core.files import read_lines
from stillhouse.training.trainer import Schedule

from .conftest import assert_refused_in_one_line, recipe_values, stillhouse


@pytest.mark.parametrize(
    ("rows", "at_once", "ranks", "shared"),
    [(8, 8, 2, (4, 4)), (8, 2, 4, (2, 2)), (12, 4, 2, (6, 3)), (2, 1, 2, (1, 1))],
)
def test_ranks_share_the_rows_of_a_step(rows, at_once, ranks, shared):
    schedule = share_of(Schedule(rows_per_step=rows, rows_per_micro_batch=at_once), ranks)
    assert (schedule.rows_per_step, schedule.rows_per_micro_batch) == shared


def test_what_ranks_cannot_do_together_is_refused_before_anything_begins(teacher_folder, tmp_path, recipe):
    made = parse_recipe(Recipe, recipe_values(teacher_folder, {"run": "runs/x"}))
    check_launch(made, 2, config=None)
    for ranks, words in ((0, "1 or more"), (3, "multiple of 3")):
        with pytest.raises(StillhouseError, match=words):
            check_launch(made, ranks, config=None)
    written = write_config(tmp_path / "accelerate.json", 2, config=None)
    check_launch(made, 2, config=str(written))
    assert yaml.safe_load(written.read_text())["num_processes"] == 2
    assert held_by(written) == "whole"
    refused = {
        "distributed_type: MEGATRON_LM": "MEGATRON_LM.*MULTI_GPU.*FSDP2.*--sharded.*DEEPSPEED",
        "distributed_type: DEEPSPEED": "zero_stage None.*2.*3",
        "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 1}": "zero_stage 1.*2.*3",
        "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3, offload_param_device: cpu}": "offload_param_device cpu",
        "distributed_type: FSDP": r"fsdp_version 1.*FSDP2.*fsdp_version: 2",
        "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, fsdp_offload_params: true}": "fsdp_offload_params",
        "distributed_type: FSDP\nmixed_precision: fp16\nfsdp_config: {fsdp_version: 2}": "mixed_precision fp16",
        "num_processes: 2": "no distributed_type",
    }
    for text, words in refused.items():
        written.write_text(text)
        with pytest.raises(StillhouseError, match=words):
            check_launch(made, 2, config=str(written))
    for stage in (2, 3):
        written.write_text(BY_DEEPSPEED.format(stage))
        assert held_by(written) == f"zero{stage}"
    check_compiled(Schedule(compile=True), "sharded")
    with pytest.raises(StillhouseError, match=r"training\.compile.*DeepSpeed.*--sharded"):
        check_compiled(Schedule(compile=True), "zero3")
    if find_spec("deepspeed") is None:
        with pytest.raises(StillhouseError, match=r"distributed_type DEEPSPEED: .*not installed.*pip install"):
            check_launch(made, 2, config=str(written))
    written.write_text("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}")
    assert held_by(written) == "sharded"
    adapted = parse_recipe(Recipe, recipe_values(teacher_folder, {"run": "runs/x", "student.lora": {}}))
    for options in ({"config": str(written)}, {"config": None, "held": "sharded"}):
        check_launch(adapted, 2, **options)
    narrow = parse_recipe(
        Recipe, recipe_values(teacher_folder, {"run": "runs/x", "student.lora": {"quantize": "4bit"}})
    )
    with pytest.raises(StillhouseError, match=r"student\.lora\.quantize is 4bit.*--sharded"):
        check_launch(narrow, 2, config=None, held="sharded")
    own = {"teacher": {"kind": "self"}, "student": {"kind": "checkpoint", "model": str(teacher_folder), "lora": {}}}
    twice = parse_recipe(Recipe, recipe_values(teacher_folder, {"run": "runs/x", **own, "labels": None}))
    for held in ("zero2", "zero3"):
        check_adapter(adapted, held)
        for made, words in ((narrow, r"quantize is 4bit.*or DEEPSPEED\."), (twice, r"is 'self'.*leave DEEPSPEED out")):
            with pytest.raises(StillhouseError, match=words):
                check_adapter(made, held)
    assert_refused_in_one_line(stillhouse("train", recipe(), "--launch-config", written), "--launch N")
    assert_refused_in_one_line(stillhouse("train", recipe(), "--sharded-teacher"), "--launch N")
    among_others = {
        "labels": None,
        "synthesis": None,
        "data.path": "x.txt",
        "replay": {"path": "y.txt", "learn": "next_token", "share": 0.5},
    }
    said_again = {**among_others, "source": {"kind": "replay"}, "objectives": [{"name": "reverse_kl"}]}
    for changes, words in (({"labels": {"signal": "sparse"}}, "labels"), (among_others, ""), (said_again, "")):
        made = parse_recipe(Recipe, recipe_values(teacher_folder, {"run": "runs/x", **changes}))
        if words:
            with pytest.raises(StillhouseError, match=words):
                check_launch(made, 2, config=None, teacher_held="sharded")
        else:
            check_launch(made, 2, config=None, teacher_held="sharded")
    assert_refused_in_one_line(stillhouse("train", recipe(), "--sharded"), "--launch N")
    both = stillhouse("train", recipe(), "--launch", "2", "--sharded", "--launch-config", written)
    assert_refused_in_one_line(both, "distributed_type: FSDP")


def test_actors_are_refused_where_the_teacher_has_nothing_to_do_beforehand(teacher_folder, texts_file, recipe):
    local, data = Cluster("local"), {"run": "runs/x", "synthesis": None, "data.path": str(texts_file)}
    known = {
        "labels": {"labels": {"signal": "sparse"}, **data},
        "synthesis": {"run": "runs/x", "labels": None},
        "answers": {"labels": None, "source": {"kind": "teacher"}, **data},
    }
    for changes in known.values():
        check_spread(parse_recipe(Recipe, recipe_values(teacher_folder, changes)), local)
    idle = parse_recipe(Recipe, recipe_values(teacher_folder, {"labels": None, **data}))
    with pytest.raises(
        StillhouseError, match=r"--ray is for what the teacher does beforehand.*give labels, or say --teacher-on-ray"
    ):
        check_spread(idle, local)
    tried = stillhouse("synthesize", recipe(), "--dry-run", "--ray", "local")
    assert_refused_in_one_line(tried, "--dry-run", "Leave --ray")
    check_spread(idle, local, teacher_held="on_ray")
    near = {"labels": {"signal": "sparse", "store": "labels/here"}, **data}
    with pytest.raises(RecipeError, match=r"labels\.store: 'labels/here' is no address"):
        parse_recipe(Recipe, recipe_values(teacher_folder, near))


def test_a_teacher_is_held_by_actors_alone_where_somebody_asks_them_in_every_step(teacher_folder, texts_file, recipe):
    live = {"run": "runs/x", "synthesis": None, "data.path": str(texts_file), "labels": None}
    check_taught_on_ray(parse_recipe(Recipe, recipe_values(teacher_folder, live)))
    refused = {
        "labels keep": {"labels": {"signal": "sparse"}},
        "none of the objectives": {"objectives": [{"name": "next_token"}]},
        "source.teacher_share needs": {
            "source": {"kind": "student", "teacher_share": 0.2},
            "objectives": [{"name": "reverse_kl"}],
        },
        "evaluation.curves needs": {"evaluation.curves": {}},
        "teacher.kind is 'self'": {
            "teacher": {"kind": "self"},
            "student": {"kind": "checkpoint", "model": str(teacher_folder), "lora": {}},
        },
    }
    for words, changes in refused.items():
        made = parse_recipe(Recipe, recipe_values(teacher_folder, {**live, **changes}))
        with pytest.raises(StillhouseError, match=f"{words}.*Leave --teacher-on-ray out"):
            check_taught_on_ray(made)
    assert_refused_in_one_line(stillhouse("train", recipe(), "--teacher-on-ray"), "--ray ADDRESS", "Give both")


BY_DEEPSPEED = """
distributed_type: DEEPSPEED
deepspeed_config: {{zero_stage: {}, gradient_accumulation_steps: 4, offload_param_device: none}}
main_process_port: 0
"""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.mark.parametrize("by", ["--sharded", pytest.param("zero_stage: 3", marks=needs_deepspeed)])
def test_two_processes_make_the_student_that_one_makes(by, recipe, texts_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
    changes = {
        "synthesis": None,
        "data": {"path": str(texts_file), "sequence_tokens": 64, "held_out": 0.25},
        "student": {"kind": "from_layers", "keep": [0, 1]},
        "evaluation": {"control": "none"},
    }
    path = recipe(changes)
    alone = stillhouse("train", path, f"run={tmp_path / 'alone'}")
    assert alone.code == 0, alone.err
    file = tmp_path / "accelerate.yaml"
    file.write_text(BY_DEEPSPEED.format(3))
    how = [by] if by == "--sharded" else ["--launch-config", file]
    shared = stillhouse("train", path, "--launch", "2", *how)
    assert shared.code == 0, shared.err
    assert "training in 2 processes that share the student's weights" in shared.err + shared.out
    ours, theirs = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("run", "alone"))
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("arm") == other.pop("arm") == "student"
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    found, expected = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("run", "alone"))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert_close(found[name], weight, rtol=1e-3, atol=1e-5)
    configs = [json.loads((tmp_path / name / "student" / "config.json").read_text()) for name in ("run", "alone")]
    assert configs[0] == configs[1]
    again = stillhouse("train", path)  # which finds it done, in one process
    assert again.code == 0, again.err
