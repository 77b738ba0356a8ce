"""`stillhouse tokenizers`: the verdict on a pair, in a terminal and as an exit code."""

import json
import shutil

import pytest

from .conftest import assert_refused_in_one_line, stillhouse


@pytest.fixture
def other_folder(teacher_folder, tmp_path):
    """The teacher's tokenizer with two tokens exchanged, and no weights."""
    folder = shutil.copytree(teacher_folder, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    parts = json.loads((folder / "tokenizer.json").read_text())
    vocab = parts["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    return folder


def resized(folder, rows):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    return folder


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize(
    ("rows", "exchanged", "code", "headline"),
    [
        (300, False, 0, "identical"),
        (320, False, 0, "same ids, padded heads"),
        (300, True, 1, "different"),
        (20, False, 2, "refused"),
    ],
)
def test_the_verdict_comes_first_then_what_it_rests_on_then_the_way(
    rows, exchanged, code, headline, columns, teacher_folder, other_folder, no_model, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    if not exchanged:
        shutil.copy(teacher_folder / "tokenizer.json", other_folder)
    said = stillhouse("tokenizers", teacher_folder, resized(other_folder, rows))
    assert (said.code, said.err) == (code, "")
    lines = said.out.splitlines()
    assert lines[0] == f"Tokenizers: {headline}"
    assert all(len(line) <= min(columns, 100) and line == line.rstrip() for line in lines)
    told = " ".join(said.out.split())
    assert told.index("ids in common") < told.index("chat template") < told.index("- ")


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_model_is_refused_in_one_line(place, teacher_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, or so it says")
    for source, words in {
        "/no/such/model": "neither an existing folder or GGUF file, nor a hub id",
        str(tmp_path / "empty"): "has no config.json",
        str(tmp_path / "notes.txt"): "is a file. Name the folder",
    }.items():
        pair = [teacher_folder, teacher_folder]
        pair[place] = source
        assert_refused_in_one_line(stillhouse("tokenizers", *pair), words)


def test_a_file_that_only_is_called_gguf_is_refused(teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, or so it says")
    said = stillhouse("tokenizers", teacher_folder, tmp_path / "bad.gguf")
    announced, refused = said.err.splitlines()
    assert (said.code, said.out, announced) == (2, "", "reading the vocabulary of bad.gguf, once")
    assert "bad.gguf' cannot be read as GGUF" in refused


def test_a_pair_needs_two(capsys):
    with pytest.raises(SystemExit) as ended:
        stillhouse("tokenizers", "owner/name")
    assert ended.value.code == 2
