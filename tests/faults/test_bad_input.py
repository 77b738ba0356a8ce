"""Whatever is given, one message says what is wrong with it, and nothing is written: no traceback, at no input of these."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from stillhouse.cli import _in_the_users_words
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import load_recipe, parse_recipe
from stillhouse.core.files import append_line, read_lines, write_atomic
from stillhouse.core.label_store import open_shard, read_head, read_manifest
from stillhouse.core.run import RunFolder
from stillhouse.data.config import DataConfig
from stillhouse.data.prepare import prepare
from stillhouse.models.load import check_head, check_serves, check_weights, load_config, load_model, load_tokenizer

from . import bad_data, bad_folders, bad_recipes
from .harness import shared, stillhouse, tally

LONGEST = 1000
"""Characters of a message that a person still reads."""


def refusal(call: Callable[[], object], kind: str) -> str:
    """What is said of it, on one line for each fault."""
    try:
        outcome = call()
    except Exception as error:
        said = _in_the_users_words(error)
        if said is None:
            tally(kind, tracebacks=1)
            raise
    else:
        pytest.fail(f"it was accepted: {outcome!r:.200}")
    tally(kind, survived=1)
    first, *faults = said.split("\n")
    assert all(fault.startswith("  ") for fault in faults), said
    assert all(len(line) <= LONGEST for line in (first, *faults)), said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", said.replace("\n", "")), repr(said)
    return said


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    for name, value in changes.items():
        *parents, last = name.split(".") if name else [""]
        here = values
        for parent in parents:
            here = here[parent]
        here[last] = value
    return {name: value for name, value in values.items() if value is not None}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Any]:
    return shared.recipe_values(Path("teacher"), {"run": str(tmp_path_factory.mktemp("nowhere") / "run")})


def test_the_recipe_that_is_spoilt_below_is_good(good):
    assert parse_recipe(Recipe, good).run == Path(good["run"])


@pytest.mark.parametrize("name", bad_recipes.TEXTS)
def test_a_recipe_that_is_none_is_refused(name, tmp_path):
    content, words = bad_recipes.TEXTS[name]
    (tmp_path / "recipe.yaml").write_bytes(content)
    said = refusal(lambda: load_recipe(Recipe, tmp_path / "recipe.yaml"), "bad recipes")
    assert said.startswith(f"{tmp_path / 'recipe.yaml'} has ") and words in said, said


@pytest.mark.parametrize("name", bad_recipes.CHANGES)
def test_a_recipe_with_a_value_that_cannot_be_is_refused(name, good):
    changes, words = bad_recipes.CHANGES[name]
    said = refusal(lambda: parse_recipe(Recipe, changed(good, changes)), "bad recipes")
    assert words in said, said


@pytest.mark.parametrize("name", bad_recipes.OVERRIDES)
def test_an_override_that_cannot_be_is_refused(name, good, tmp_path):
    override, words = bad_recipes.OVERRIDES[name]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(good))
    said = refusal(lambda: load_recipe(Recipe, tmp_path / "recipe.yaml", [override]), "bad recipes")
    assert words in said, said


@pytest.mark.parametrize("name", bad_data.FILES)
def test_a_data_file_that_cannot_be_is_refused(name, tokenizer, bert_tokenizer, tmp_path):
    kind, file, content, words = bad_data.FILES[name]
    (tmp_path / file).write_bytes(content)
    config = TypeAdapter(DataConfig).validate_json(json.dumps({"kind": kind, "path": str(tmp_path / file)}))
    speaks = tokenizer if kind in ("text", "chat", "preferences") else bert_tokenizer
    said = refusal(lambda: prepare(config, speaks), "bad data files")
    assert words in said, said


@pytest.mark.parametrize(
    "path", ["nowhere.jsonl", "a folder", "a\0b.jsonl", "x" * 300 + ".jsonl", "/dev/null", "a link", "a loop", "~/x"]
)
def test_a_path_that_leads_to_no_data_is_refused(path, tokenizer, tmp_path):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "rows.jsonl").mkdir()
    (tmp_path / "a link").symlink_to("/no/such/file")
    (tmp_path / "a loop").symlink_to(tmp_path / "a loop")
    config = TypeAdapter(DataConfig).validate_json(json.dumps({"path": str(tmp_path / path)}))
    refusal(lambda: prepare(config, tokenizer), "bad data files")


def use(source: str) -> None:
    """What every command does with a model, in this order."""
    check_weights(source)
    config = load_config(source)
    check_serves(config, "causal_lm", source=source)
    check_head(source, config, "causal_lm")
    load_tokenizer(source)
    load_model(source, "causal_lm")


@pytest.mark.parametrize("name", bad_folders.MODELS)
def test_a_model_that_cannot_be_is_refused(name, teacher_folder, tmp_path):
    breaking, words = bad_folders.MODELS[name]
    folder = tmp_path / "model"
    folder.mkdir()
    for file in teacher_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    breaking(folder)
    said = refusal(lambda: use(str(folder)), "bad models")
    assert str(folder) in said and words in said, said


@pytest.mark.parametrize("name", bad_folders.PATHS)
def test_a_name_that_leads_to_no_model_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, words = bad_folders.PATHS[name]
    said = refusal(lambda: use(path), "bad models")
    assert words in said, said


def test_a_model_that_is_whole_is_used(teacher_folder):
    use(str(teacher_folder))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_gguf_file_cut_short_is_refused(share, gguf, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    content = gguf.read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: int(len(content) * share)])
    said = refusal(lambda: use(str(tmp_path / "model.gguf")), "bad models")
    assert "model.gguf" in said
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    """A GGUF file of a few tensors and settings, of a family that is known."""
    from gguf import GGUFWriter

    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = GGUFWriter(str(file), "llama")
    for name, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 64,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count(4)
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# Stores of our own


@pytest.fixture
def labels(undisturbed, tmp_path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    for file in (undisturbed.folder / "labels").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def read_all(folder: Path) -> None:
    manifest = read_manifest(folder)
    read_head(folder, manifest)
    for name in manifest.shards:
        open_shard(folder / name, manifest)


SHARD = "shard-00000.safetensors"
STORES: dict[str, tuple[bad_folders.Break, str]] = {
    "no manifest": (bad_folders.without("manifest.json"), "holds no finished labels"),
    "a manifest of nothing": (bad_folders.having("manifest.json", b""), "is not what was written"),
    "a manifest that is null": (bad_folders.having("manifest.json", "null"), "is not what was written"),
    "a manifest that is a list": (bad_folders.having("manifest.json", "[1]"), "is not what was written"),
    "a manifest of great depth": (bad_folders.having("manifest.json", bad_folders.DEEP), "is not what was written"),
    "a manifest of another encoding": (bad_folders.having("manifest.json", b"\xff\xfe"), "is not what was written"),
    "a manifest that is a folder": (bad_folders.as_folder("manifest.json"), "manifest.json"),
    "a manifest of another version": (bad_folders.setting("manifest.json", format=99), "has label format 99"),
    "a manifest of more records": (bad_folders.setting("manifest.json", records=10**9), "is not what was written"),
    "a manifest of other shards": (bad_folders.setting("manifest.json", shards=["../x"]), "is not what was written"),
    "no shard": (bad_folders.without(SHARD), "is missing or cut short"),
    "a shard of nothing": (bad_folders.having(SHARD, b""), "is missing or cut short"),
    "a shard of text": (bad_folders.having(SHARD, "not found" * 9), "is missing or cut short"),
    "a shard that is a folder": (bad_folders.as_folder(SHARD), "is missing or cut short"),
    "half a shard": (bad_folders.cut(SHARD, 0.5), "is missing or cut short"),
    "no head": (bad_folders.without("head.safetensors"), "is missing or cut short"),
    "a head without end": (bad_folders.having("head.safetensors", b"\xff" * 64), "is missing or cut short"),
}


@pytest.mark.parametrize("name", STORES)
def test_labels_that_cannot_be_are_refused_and_seen(name, labels):
    breaking, words = STORES[name]
    breaking(labels)
    said = refusal(lambda: read_all(labels), "bad stores")
    assert words in said, said


def test_a_manifest_cannot_send_its_reader_elsewhere(labels, tmp_path):
    """Also one whose hash was made to fit."""
    from dataclasses import replace

    from stillhouse.core.label_store import write_manifest

    (tmp_path / "outside.safetensors").write_bytes((labels / SHARD).read_bytes())
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "..", "a/b", "a\0b"):
        write_manifest(labels, replace(read_manifest(labels), shards=[name]) if labels.exists() else None)
        said = refusal(lambda: read_manifest(labels), "bad stores")
        assert "names a file outside of its folder" in said, said
        write_manifest(labels, replace(_manifest_without_check(labels), shards=[SHARD]))


def _manifest_without_check(folder: Path):
    from stillhouse.core.label_store import Manifest

    values = json.loads((folder / "manifest.json").read_text())
    values.pop("check")
    return Manifest(**values)


RUNS: dict[str, tuple[bad_folders.Break, str]] = {
    "a record of nothing": (bad_folders.having("stages/train.json", b""), "train.json is not what was written"),
    "a record of great depth": (bad_folders.having("stages/train.json", bad_folders.DEEP), "train.json"),
    "a record that is a list": (bad_folders.having("stages/train.json", "[]"), "train.json"),
    "a record that was changed": (bad_folders.setting("stages/train.json", seconds=0.5), "does not match its hash"),
    "a record of another encoding": (bad_folders.having("stages/train.json", b"\xff"), "train.json"),
    "an event that is none": (bad_folders.having("events.jsonl", b'{"event": "x"}\n{"ev\n'), "events.jsonl, line 2"),
    "an event that is a number": (bad_folders.having("events.jsonl", b"5\n"), "events.jsonl, line 1"),
    "a number that is none": (bad_folders.having("metrics.jsonl", b"\xff\xff\n"), "metrics.jsonl, line 1"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_with_a_damaged_record_is_refused(name, tmp_path):
    breaking, words = RUNS[name]
    run = RunFolder(tmp_path)
    run.stage("train", made_from="malt", work=lambda: {"steps": 3})
    run.log(arm="student", step=1)
    breaking(tmp_path)

    def look() -> object:
        run.metric_lines()
        return run.stages(), run.stage("train", made_from="malt", work=lambda: {})

    said = refusal(look, "bad stores")
    assert words in said and "Remove" in said, said


# Through the door


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill", "a folder"], "it is a folder"),
        (["distill", "/dev/null"], "a recipe is a mapping"),
        (["distill", "a link"], "there is no such file"),
        (["distill", ""], ""),
        (["report", "a folder"], "is no run folder"),
        (["evaluate", "a folder"], "--teacher"),
        (["chat", "a folder"], ""),
        (["rag", "ask", "a folder", "who?"], ""),
        (["inspect", "/dev/null"], "a recipe is a mapping"),
        (["tokenizers", "a folder", "a folder"], "has no config.json"),
        (["sweep", "/dev/null", "--grid", "a=1"], "a recipe is a mapping"),
        (["objectives", "nothing"], "nothing"),
    ],
)
def test_a_command_that_cannot_be_ends_with_2_and_leaves_nothing(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a link").symlink_to("/no/such/file")
    said = stillhouse(*arguments)
    tally("bad commands", survived=1)
    assert (said.code, said.out) == (2, ""), said
    assert said.err.startswith("stillhouse: ") and words in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder", "a link"]
    assert not list((tmp_path / "a folder").iterdir())


def test_there_are_enough_of_them():
    tables = (bad_recipes.TEXTS, bad_recipes.CHANGES, bad_recipes.OVERRIDES, bad_data.FILES)
    folders = (bad_folders.MODELS, bad_folders.PATHS, STORES, RUNS)
    assert sum(len(table) for table in (*tables, *folders)) >= 250


def test_lines_that_were_written_are_read(tmp_path):
    append_line(tmp_path / "x.jsonl", {"a": 1})
    assert read_lines(tmp_path / "x.jsonl") == [{"a": 1}]
    write_atomic(tmp_path / "y", "z")
