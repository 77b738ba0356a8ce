"""The whole job: what it leaves behind, what it does not do twice, and what the student needs."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import stillhouse as library
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult

from .conftest import TEXTS, files_in, stillhouse

STAGES = ["synthesize", "label", "student", "train", "control_hard_labels", "contamination", "evaluate", "report"]


def stages_done(folder):
    return [line["stage"] for line in read_lines(folder / "events.jsonl") if line["event"] == "finished"]


def weights(folder):
    return (folder / "student" / "model.safetensors").read_bytes()


def losses(folder, arm="student"):
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl") if line.get("arm") == arm]


def test_distill_fills_the_run_folder(finished):
    assert finished.said.code == 0
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {"recipe.yaml", "data", "labels", "student", "metrics.jsonl", "events.jsonl", "report.html"}
    student = {path.name for path in (finished.folder / "student").iterdir()}
    assert student >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {path.name for path in (finished.folder / "labels").iterdir()} >= {"manifest.json", "head.safetensors"}
    assert (finished.folder / "data" / "documents.jsonl").exists()
    assert not list(finished.folder.rglob("*.part"))


def test_distill_prints_the_result_and_where_it_lies(finished):
    for words in (
        "teacher",
        "student",
        "control",
        f"report   {finished.folder}/report.html",
        str(finished.folder / "student"),
    ):
        assert words in finished.said.out


def test_the_report_and_the_card_show_the_run(finished):
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "forward_kl" in report
    assert "<script src" not in report
    assert "learning_rate" in (finished.folder / "student" / "README.md").read_text(encoding="utf-8")


def test_the_resolved_recipe_reads_back_equal(finished):
    assert load_recipe(Recipe, finished.folder / "recipe.yaml") == load_recipe(Recipe, finished.recipe)


def test_events_name_every_stage_in_order(finished):
    events = [(line["event"], line["stage"]) for line in read_lines(finished.folder / "events.jsonl")]
    assert events == [(event, stage) for stage in STAGES for event in ("started", "finished")]


def test_metrics_have_every_step_and_every_measurement_once(finished):
    lines = read_lines(finished.folder / "metrics.jsonl")
    steps = {
        arm: [line["step"] for line in lines if line.get("arm") == arm] for arm in ("student", "control_hard_labels")
    }
    assert steps["student"] == steps["control_hard_labels"] == list(range(1, len(steps["student"]) + 1))
    assert len(steps["student"]) > 8
    measured = Counter((line["evaluated"], line["metric"]) for line in lines if "evaluated" in line)
    assert len(measured) == 4 * 5
    assert set(measured.values()) == {1}


def test_the_student_and_its_control_have_learnt_and_differ(finished):
    student = load_file(finished.folder / "student" / "model.safetensors")
    control = load_file(finished.folder / "control_hard_labels" / "model.safetensors")
    before = load_file(finished.folder / "student_before" / "model.safetensors")
    for one, other in [(student, before), (control, before), (student, control)]:
        assert any(not torch.equal(one[name], other[name]) for name in one)
    assert losses(finished.folder)[-1] < losses(finished.folder)[0]


def test_a_second_run_writes_nothing_loads_no_model_and_says_the_same(finished, no_model):
    before = files_in(finished.folder)
    again = stillhouse("distill", finished.recipe)
    assert (again.code, again.out) == (0, finished.said.out)
    assert files_in(finished.folder) == before


def test_each_verb_goes_as_far_as_its_own_stage_and_the_same_recipe_gives_the_same_student_bit_for_bit(
    finished, recipe, tmp_path
):
    path, folder = recipe(), tmp_path / "run"
    for verb, last in [
        ("synthesize", "synthesize"),
        ("label", "label"),
        ("train", "train"),
        ("evaluate", "evaluate"),
        ("report", "report"),
    ]:
        said = stillhouse(verb, path)
        assert said.code == 0, said.err
        assert stages_done(folder) == STAGES[: STAGES.index(last) + 1]
        assert ("control" in said.out) == (verb in ("evaluate", "report"))
    assert weights(folder) == weights(finished.folder)


@pytest.mark.parametrize(("verb", "key"), [("synthesize", "synthesis"), ("label", "labels")])
def test_a_verb_without_its_section_is_refused(recipe, texts_file, tmp_path, verb, key):
    said = stillhouse(verb, recipe({"synthesis": None, "data.path": str(texts_file), "labels": None}))
    assert said.code == 2
    assert f"{key}: it must be given for `stillhouse {verb}`" in said.err
    assert not (tmp_path / "run").exists()


QUICK = {"synthesis": None, "labels": None, "training.epochs": 1, "evaluation": {"control": "none", "samples": 0}}


def test_json_lines_plain_text_and_a_folder_are_the_same_data(recipe, texts_file, tmp_path):
    plain = tmp_path / "plain" / "texts.txt"
    plain.parent.mkdir()
    plain.write_text("\n<|endoftext|>\n".join(TEXTS) + "\n<|endoftext|>\n", encoding="utf-8")
    students = []
    for number, data in enumerate([texts_file, plain, plain.parent]):
        run = tmp_path / f"run{number}"
        said = stillhouse("train", recipe({**QUICK, "data.path": str(data), "run": str(run)}))
        assert said.code == 0, said.err
        students.append(weights(run))
    assert students[0] == students[1] == students[2]


def test_a_live_teacher_teaches_what_a_stored_one_does(finished, recipe, tmp_path):
    path = recipe({"labels": None})
    assert stillhouse("train", path).code == 0
    assert not (tmp_path / "run" / "labels").exists()
    assert "label" not in stages_done(tmp_path / "run")
    # Labels are good to 2^-11 of a hidden value, and a KL near its minimum moves with the square of that.
    live, stored = torch.tensor(losses(tmp_path / "run")), torch.tensor(losses(finished.folder))
    assert_close(live, stored, rtol=0, atol=1e-4)
    assert not torch.equal(live, stored)


@pytest.mark.parametrize(
    ("student", "control", "roles"),
    [
        (
            {"kind": "from_config", "changes": {"num_hidden_layers": 1}},
            "both",
            ["control_hard_labels", "control_from_scratch"],
        ),
        ({"kind": "checkpoint"}, "from_scratch", ["control_from_scratch"]),
        ({"kind": "from_config"}, "none", []),
        ({"kind": "from_layers", "keep": [0, 3]}, "none", []),
    ],
)
def test_every_kind_of_student_and_control_goes_the_whole_way(
    recipe, texts_file, teacher_folder, tmp_path, student, control, roles
):
    if student == {"kind": "checkpoint"}:
        student = {**student, "model": str(teacher_folder)}
    if student == {"kind": "from_config"}:  # of a folder that has a configuration and nothing else
        student = {**student, "config": str(tmp_path)}
        shutil.copy(teacher_folder / "config.json", tmp_path)
    changes = {"student": student, "synthesis": None, "data.path": str(texts_file), "training.epochs": 1}
    said = stillhouse("distill", recipe({**changes, "evaluation.control": control}))
    assert said.code == 0, said.err
    measured = {line["evaluated"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "evaluated" in line}
    assert measured == {"teacher", "student", "student_before", *roles}


LOAD_WITHOUT_US = """
import sys
sys.modules["stillhouse"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("the fox ran", return_tensors="pt")["input_ids"]
print(model.config.num_hidden_layers, len(tokenizer), tokenizer.decode(ids[0]), sep="|")
print(model(ids).logits.sum().item())
assert not any(name.startswith("stillhouse.") for name in sys.modules)
"""


def test_the_student_loads_where_nothing_of_ours_is_installed(finished):
    student = finished.folder / "student"
    command = [sys.executable, "-c", LOAD_WITHOUT_US, str(student)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[0] == "2|300|the fox ran"
    assert torch.tensor(float(printed[1])).isfinite()
    assert "auto_map" not in json.loads((student / "config.json").read_text())


def test_the_library_does_what_the_command_line_does(finished, tmp_path):
    copy = shutil.copytree(finished.folder, tmp_path / "run")
    result = library.distill(finished.recipe, overrides=[f"run={copy}"])
    assert isinstance(result, EvaluationResult)
    assert result.model("student") is not None
    sections = load_recipe(Recipe, copy / "recipe.yaml").model_dump()
    assert library.distill(**{**sections, "run": copy}) == result


def test_the_library_refuses_what_it_would_have_to_ignore(finished):
    for arguments in [{"recipe": finished.recipe, "run": "elsewhere"}, {"overrides": ["run=elsewhere"]}]:
        with pytest.raises(RecipeError):
            library.distill(**arguments)


@pytest.mark.parametrize(
    "gone", ["student", "student_before", "report.html", "student/README.md", "data/documents.jsonl"]
)
def test_what_was_removed_from_a_finished_run_is_made_again_the_same(finished, tmp_path, gone):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    path = folder / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    said = stillhouse("distill", finished.recipe, f"run={folder}")
    assert said.code == 0, said.err
    assert weights(folder) == weights(finished.folder)
    assert path.exists()
    assert (folder / "student" / "README.md").exists()


def test_a_new_measurement_gets_a_new_report(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / "stages" / "evaluate.json").unlink()
    before = files_in(folder)
    assert stillhouse("distill", finished.recipe, f"run={folder}").code == 0
    after = files_in(folder)
    for name in ("report.html", "student/README.md"):
        assert after[name] != before[name]
    assert after["student/model.safetensors"] == before["student/model.safetensors"]


def test_labels_may_go_once_the_student_has_learnt(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    shutil.rmtree(folder / "labels")
    assert stillhouse("distill", finished.recipe, f"run={folder}").code == 0
    assert not (folder / "labels").exists()


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damaged_labels_are_named_and_only_they_are_made_again(finished, tmp_path, damage):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    victim = folder / "labels" / "shard-00001.safetensors"
    content = victim.read_bytes()
    match damage:
        case "bit":
            victim.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        case "cut":
            victim.write_bytes(content[:-1])
        case "gone":
            victim.unlink()
    before = files_in(folder / "labels")
    said = stillhouse("label", finished.recipe, f"run={folder}")
    assert said.code == 0
    assert "made again: shard-00001.safetensors" in said.err
    after = files_in(folder / "labels")
    shards = [name for name in after if name.startswith("shard")]
    assert len(shards) > 2
    assert [name for name in shards if after[name] != before.get(name)] == [victim.name]
    assert victim.read_bytes() == content
    warning = [line for line in read_lines(folder / "events.jsonl") if line["event"] == "warned"]
    assert [line["damaged"] for line in warning] == [["shard-00001.safetensors"]]
