"""What leaves the house says the same as what it was made from, and is served by those who serve."""

import functools
import json
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from stillhouse.commands.export import formats
from stillhouse.commands.export.check import compare
from stillhouse.commands.export.command import SOME_TEXT, export, place_of, texts_for
from stillhouse.commands.export.formats import FORMATS
from stillhouse.commands.serve import check_port, command_of, default_engine, model_of
from stillhouse.core.errors import ModelError, StillhouseError
from stillhouse.models.load import load_model

from .conftest import LABELS, assert_refused, assert_refused_in_one_line, stillhouse

copytree = functools.partial(shutil.copytree, dirs_exist_ok=True)
TEXTS = [[1, 2, 3], [4, 5]]
ROWS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


def ask(ids):
    """Logits of each position."""
    return ROWS[list(ids)]


def test_the_same_answers_are_no_distance_apart_and_others_the_mean_kl():
    same = compare(ask, ask, TEXTS, task="causal_lm", quantise="float32", most=None)
    assert same.passes and same.distance == 0 and same.agreement == 1 and same.answers == 5
    moved = compare(ask, lambda ids: ask(ids) + 3, TEXTS, task="causal_lm", quantise="float32", most=None)
    assert moved.distance == pytest.approx(0, abs=1e-12)
    tilted = compare(ask, lambda ids: 2 * ask(ids), TEXTS, task="causal_lm", quantise="float32", most=None)
    p, q = (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (ROWS[1:6].astype(float), 2 * ROWS[1:6].astype(float))
    )
    assert tilted.distance == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert tilted.agreement == 1 and not tilted.passes


def test_what_is_not_a_number_never_passes():
    broken = compare(ask, lambda ids: ask(ids) * np.nan, TEXTS, task="causal_lm", quantise="int8", most=1e9)
    assert not broken.passes
    with pytest.raises(ValueError, match="the export answers"):
        compare(ask, lambda ids: ask(ids)[:, :2], TEXTS, task="causal_lm", quantise="int8", most=None)


def test_numbers_are_compared_by_their_spread():
    found = compare(
        lambda ids: np.array([sum(ids)], dtype=np.float32),
        lambda ids: np.array([sum(ids) + 0.15], dtype=np.float32),
        TEXTS,
        task="reward",
        quantise="int8",
        most=None,
    )
    assert found.distance == pytest.approx(0.15 / 1.5, rel=1e-5) and found.agreement is None


def test_a_run_is_exported_from_the_command_line_and_compared_on_what_it_held_out(finished, tmp_path):
    run = finished.recipe.parent / "run"
    out = tmp_path / "out"
    said = stillhouse("export", run, "--to", "safetensors", "--out", out)
    assert said.code == 0, said.err
    account = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert account["quantise"] == "bfloat16" and 0 < account["distance"] <= account["most"] and account["texts"] > 1
    assert load_model(str(out), "causal_lm").model.config.dtype is not None
    strict = tmp_path / "strict"
    refused = stillhouse("export", run, "--to", "safetensors", "--out", strict, "--most", "0")
    assert_refused(
        refused, "written, run and refused", "--most"
    )  # behind the bars of transformers, which is here already
    assert list(tmp_path.iterdir()) == [out]
    assert_refused_in_one_line(stillhouse("export", run, "--to", "onyx"), "Did you mean 'onnx'?")
    assert_refused_in_one_line(stillhouse("export", run, "--to", "gguf", "--quantize", "q3"), "q8_0, q5_1")
    assert_refused_in_one_line(stillhouse("export", run, "--to", "onnx", "--quantise", "int3"), "float32, int8")
    assert_refused_in_one_line(stillhouse("export", tmp_path, "--to", "onnx"), "neither a run folder")


def test_a_graph_says_what_the_model_says_whole_and_in_eight_bits(build_model, tokenizer, tmp_path, monkeypatch):
    """Written once: the same graph is what is quantised."""
    for part in (build_model(layers=1, vocab=len(tokenizer)), tokenizer):
        part.save_pretrained(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), "causal_lm")
    texts = texts_for(loaded, None, "")
    assert len(texts) == len(SOME_TEXT)
    whole = export(loaded, FORMATS["onnx"], tmp_path / "whole", quantise="float32", texts=texts)
    assert whole.passes and whole.distance < 1e-6
    monkeypatch.setattr(formats, "_write_graph", lambda _loaded, file: copytree(tmp_path / "whole", file.parent))
    small = export(loaded, FORMATS["onnx"], tmp_path / "small", quantise="int8", texts=texts)
    assert small.passes and small.distance > whole.distance
    assert {"export.json", "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "small").iterdir()}


def test_no_text_is_longer_than_the_model_reads(save_teacher):
    loaded = load_model(str(save_teacher("sequence_classification", labels=LABELS)), "sequence_classification")
    assert max(len(ids) for ids in texts_for(loaded, None, "")) == loaded.model.config.max_position_embeddings


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # peft's own, about itself
def test_an_adapter_becomes_one_with_the_model_below_it(teacher_folder, tmp_path):
    base = load_model(str(teacher_folder), "causal_lm")
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(teacher_folder)
    adapted.save_pretrained(tmp_path / "adapter")
    out = tmp_path / "whole"
    said = stillhouse("export", tmp_path / "adapter", "--to", "merged-lora", "--out", out)
    assert said.code == 0, said.err
    ids = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(str(out), "causal_lm").model(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4
        )
    assert_refused_in_one_line(stillhouse("export", tmp_path / "adapter", "--to", "onnx"), "--to merged-lora")


def test_a_folder_is_served_by_what_is_installed_and_refused_in_words_where_nothing_is(
    monkeypatch, tmp_path, teacher_folder
):
    folder = model_of(str(teacher_folder))
    monkeypatch.setattr("stillhouse.commands.serve.find_spec", lambda name: None if name == "vllm" else object())
    assert default_engine(folder) == "transformers" and default_engine("a.gguf") == "llama.cpp"
    command = command_of("transformers", folder, host="127.0.0.1", port=8001)
    assert command == [
        *(sys.executable, "-m", "stillhouse.commands.guarded", "serve", folder),
        *("--host", "127.0.0.1", "--port", "8001"),
    ]
    monkeypatch.setattr("stillhouse.commands.serve.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"stillhouse\[serve\]"):
        command_of("transformers", folder, host="127.0.0.1", port=8001)
    with pytest.raises(ModelError, match="reads GGUF files"):
        command_of("llama.cpp", folder, host="127.0.0.1", port=8001)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="llama-server is not here"):
        command_of("llama.cpp", "a.gguf", host="127.0.0.1", port=8001)
    with pytest.raises(StillhouseError, match="neither a run folder"):
        model_of(str(tmp_path / "none"))


def test_a_port_that_is_taken_is_refused_before_a_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StillhouseError, match=f"--port {port} cannot be listened on"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_run_without_a_student_is_told_how_to_make_one(tmp_path):
    (tmp_path / "recipe.yaml").write_text("run: x\n", encoding="utf-8")
    with pytest.raises(StillhouseError, match="no student yet"):
        place_of(str(tmp_path))
