"""A recipe with an adapter: what a run leaves behind, what is refused, and that the student can be its own teacher."""

import gc
import json
import shutil
from functools import partial

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel

from stillhouse.commands.pipeline import Pipeline
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder
from stillhouse.models.adapters import load_adapter, merge_adapter
from stillhouse.students.config import LoraConfig
from stillhouse.students.lora import add_adapter
from stillhouse.training import train

from .conftest import assert_refused, stillhouse, write_recipe

LORA = {"rank": 4, "alpha": 8}
SOFT = {"name": "forward_kl", "weight": 0.5}
HARD = {"name": "next_token", "weight": 0.5}


def written(folder, teacher, texts, *, own=False, **changes):
    """A student that carries an adapter, and with `own` is its own teacher."""
    values = {
        **({"teacher.kind": "self", "teacher.model": ""} if own else {}),
        "student": {"kind": "checkpoint", "model": str(teacher), "lora": dict(LORA)},
        "synthesis": None,
        "labels": None,
        "data": {"path": str(texts), "sequence_tokens": 32, "held_out": 0.25},
        "objectives": [dict(SOFT), dict(HARD)],
        "training.epochs": 2,
        "evaluation": {"samples": 1},
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def lora_recipe(tmp_path, texts_file, teacher_folder):
    return partial(written, tmp_path, teacher_folder, texts_file)


def pipeline_of(path, run):
    return Pipeline(load_recipe(Recipe, path, []), RunFolder(run), SILENT)


# A run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, texts_file, teacher_folder):
    """A run whose student was its own teacher. What is taken out of it is made again, the same."""
    folder = tmp_path_factory.mktemp("finished")
    path = written(folder, teacher_folder, texts_file, own=True)
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    return path, folder / "run"


def test_a_run_leaves_a_plain_student_and_its_adapter_alone(finished_run, tokenizer, teacher_folder):
    _, run = finished_run
    ids = torch.tensor([tokenizer("the fox ran to the sea")["input_ids"]])
    student = AutoModelForCausalLM.from_pretrained(run / "student")
    with safe_open(run / "student/model.safetensors", framework="pt") as file:
        assert not [name for name in list(file.keys()) if "lora" in name or "base_layer" in name]
    base = AutoModelForCausalLM.from_pretrained(teacher_folder)
    again = add_adapter(base, LoraConfig(**LORA), seed=9)
    load_adapter(again, run / "adapter")
    with torch.no_grad():
        expected = again(input_ids=ids).logits
        assert_close(student(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        assert_close(merge_adapter(again)(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert set(load_file(run / "adapter/adapter_model.safetensors"))
    assert not (run / "checkpoints").exists()


def test_report_and_cards_say_how_little_learnt(finished_run):
    _, run = finished_run
    card, adapter_card, report = (
        (run / name).read_text(encoding="utf-8") for name in ("student/README.md", "adapter/README.md", "report.html")
    )
    learnt = sum(weight.numel() for weight in load_file(run / "adapter/adapter_model.safetensors").values())
    assert f"{learnt:,} of " in card
    assert "rank 4" in card
    assert f"{learnt:,}" in report
    assert "PeftModel.from_pretrained" in adapter_card
    header = yaml.safe_load(adapter_card.split("---")[1])
    assert header["library_name"] == "peft"


def test_the_resolved_recipe_says_who_the_teacher_is_and_runs_again(finished_run, teacher_folder):
    _, run = finished_run
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["teacher"] == {"kind": "self", "model": str(teacher_folder)}
    again = stillhouse("distill", run / "recipe.yaml")
    assert again.code == 0, again.err


def test_a_lost_adapter_is_made_again(finished_run):
    path, run = finished_run
    before = (run / "adapter/adapter_model.safetensors").read_bytes()
    shutil.rmtree(run / "adapter")
    assert stillhouse("distill", path).code == 0
    assert (run / "adapter/adapter_model.safetensors").read_bytes() == before
    assert (run / "adapter/README.md").exists()


def test_the_control_trains_the_same_adapter_from_the_same_start(lora_recipe, tmp_path, monkeypatch):
    started = {}

    def noted(student, rows, *, checkpoints, **options):
        learning = {name: p.clone() for name, p in student.named_parameters() if p.requires_grad}
        started[checkpoints.name] = learning, student.state_dict().keys()
        return train(student, rows, checkpoints=checkpoints, **options)

    monkeypatch.setattr("stillhouse.commands.stages.arms.train", noted)
    path = lora_recipe()
    pipeline = pipeline_of(path, tmp_path / "run")
    with pipeline.run.open(pipeline.recipe):
        pipeline.train()
        pipeline.train_controls()
    student, control = started["student"], started["control_hard_labels"]
    assert student[1] == control[1]
    assert student[0].keys() == control[0].keys()
    assert all(torch.equal(student[0][name], control[0][name]) for name in student[0])


# One model as teacher and student


def _bytes_held():
    """Of all models' parameters that live in this process."""
    gc.collect()
    models = [thing for thing in gc.get_objects() if issubclass(type(thing), PreTrainedModel)]
    storages = [parameter.untyped_storage() for model in models for parameter in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _bytes_in(file):
    return sum(weight.nbytes for weight in load_file(file).values())


def test_a_student_that_is_its_own_teacher_is_held_once(lora_recipe, tmp_path, teacher_folder, monkeypatch):
    held = []

    def noted(*args, **options):
        held.append(_bytes_held())
        return train(*args, **options)

    monkeypatch.setattr("stillhouse.commands.stages.arms.train", noted)
    for own in (True, False):
        run = tmp_path / f"run-{own}"
        pipeline = pipeline_of(lora_recipe(own=own, run=str(run)), run)
        before = _bytes_held()
        with pipeline.run.open(pipeline.recipe):
            pipeline.train()
        held[-1] -= before
        del pipeline
    base = _bytes_in(teacher_folder / "model.safetensors")
    adapter = _bytes_in(tmp_path / "run-True/adapter/adapter_model.safetensors")
    assert held == [base + adapter, 2 * base + adapter]


def test_its_first_step_is_no_distance_away(lora_recipe, tmp_path):
    path = lora_recipe(own=True)
    assert stillhouse("train", path).code == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    learnt = [line for line in lines if line.get("arm") == "student"]
    first, last = learnt[0], learnt[-1]
    assert first["forward_kl"] == 0.0
    assert last["forward_kl"] != 0.0


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.lora": None}, ["teacher.kind is self", "student.lora: {rank: 16}"]),
        ({"student": {"kind": "from_layers", "keep": 2, "lora": LORA}}, ["teacher.kind is self", "kind from_layers"]),
        ({"teacher.model": "other"}, ["teacher.model is 'other'", "Leave teacher.model out"]),
        ({"objectives": [SOFT]}, ["there is nothing to learn", "next_token"]),
    ],
)
def test_a_teacher_of_its_own_that_cannot_be_is_refused(lora_recipe, no_model, changes, words):
    said = stillhouse("distill", lora_recipe(own=True, **changes))
    assert_refused(said, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.lora": {"targets": ["q_prj"]}}, ["student.lora.targets", "'q_prj'", "q_proj", "lm_head"]),
        ({"student.lora": {"targets": ["lm_head"], "dropout": 0.1}}, ["student.lora.dropout", "head"]),
        ({"student.lora": {"targets": []}}, ["student.lora.targets"]),
        ({"student.lora": {"targets": "all"}}, ["student.lora.targets"]),
        ({"student.lora": {"rank": 0}}, ["student.lora.rank"]),
        ({"student.lora": {"rnk": 8}}, ["student.lora.rnk", "rank"]),
        ({"student.lora": {"quantize": "4bit"}}, ["student.lora.quantize", "bitsandbytes"]),
        ({"evaluation": {"control": "from_scratch"}}, ["evaluation.control is from_scratch", "hard_labels"]),
        ({"evaluation": {"control": "both"}}, ["evaluation.control is both"]),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_before_a_model_is_loaded(
    lora_recipe, no_model, monkeypatch, changes, words
):
    monkeypatch.setattr("stillhouse.students.lora.find_spec", lambda name: None)
    assert_refused(stillhouse("distill", lora_recipe(**changes)), *words)


def test_an_adapter_can_learn_on_4_bits_and_ends_on_all(lora_recipe, tmp_path, teacher_folder):
    pytest.importorskip("bitsandbytes")
    path = lora_recipe(own=True, **{"student.lora": {**LORA, "quantize": "4bit"}})
    said = stillhouse("train", path)
    assert said.code == 0, said.err
    run = tmp_path / "run"
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["forward_kl"] == 0.0
    whole = add_adapter(AutoModelForCausalLM.from_pretrained(teacher_folder), LoraConfig(**LORA), seed=9)
    load_adapter(whole, run / "adapter")
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        expected = merge_adapter(whole)(input_ids=ids).logits
        assert_close(AutoModelForCausalLM.from_pretrained(run / "student")(input_ids=ids).logits, expected)
