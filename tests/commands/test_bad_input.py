"""Bad input: one clear message, exit code 2, nothing begun and nothing lost."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from stillhouse.core.files import read_lines

from .conftest import TEXTS, assert_refused, assert_refused_in_one_line, files_in, stillhouse

Broken = Callable[[Path], None]
FROM_FILE = {"synthesis": None, "labels": None}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainig": {}}, ["trainig: there is no such key. Did you mean 'training'?"]),
        ({"training.epoch": 3}, ["training.epoch: there is no such key. Did you mean 'epochs'?"]),
        ({"training.epochs": "three"}, ['training.epochs: "three" came, but it should be a number.']),
        ({"training.seed": -1}, ["training.seed: -1 came, but it should be greater than or equal to 0."]),
        ({"training.seed": 2**32}, ["training.seed: 4294967296 came, but it should be less than 4294967296."]),
        (
            {"training.rows_per_micro_batch": 4},
            ["training: rows_per_micro_batch is 4, which does not divide rows_per_step (2)"],
        ),
        (
            {"training.compile": True, "objectives": [{"name": "attention_kl"}]},
            ["training.compile is true, but attention_kl reads attention"],
        ),
        ({"student.kind": "from_layer"}, ["student.kind: 'from_layer' is not known. Did you mean 'from_layers'?"]),
        ({"student.keep": None}, ["student.keep: null came, but it should be a whole number, or a list."]),
        (
            {"student": {"kind": "from_layers"}},
            ["student.keep: it must be given. How many layers, or which: the first is 0."],
        ),
        ({"objectives": []}, ["objectives: [] came, but it should have at least 1."]),
        (
            {"objectives": [{"name": "foward_kl"}]},
            ["objectives.0: There is no objective 'foward_kl'. Did you mean 'forward_kl'?"],
        ),
        ({"objectives": [{"name": "jsd", "bta": 0.5}]}, ["objectives.0: jsd has no key 'bta'. Did you mean 'beta'?"]),
        (
            {"objectives": [{"name": "jsd", "wieght": 1}]},
            ["objectives.0: jsd has no key 'wieght'. Did you mean 'weight'?"],
        ),
        ({"objectives": [{"name": "jsd", "beta": 1.0}]}, ["objectives.0: jsd needs 0 < beta < 1, but beta is 1.0."]),
        (
            {"objectives": [{"name": "jsd", "beta": "half"}]},
            ['objectives.0.beta: "half" came, but it should be a number, or a mapping of keys to values.'],
        ),
        (
            {"objectives": [{"name": "next_token", "temperature": 2.0}]},
            ["objectives.0: next_token compares with hard targets"],
        ),
        ({"objectives": [{"name": "jsd"}, {"name": "jsd"}]}, ["objectives names 'jsd' twice"]),
        ({"objectives": [{"name": "jsd", "weight": 0}]}, ["every weight in objectives is 0"]),
        ({"data.path": "texts.jsonl"}, ["give data.path or synthesis: exactly one of them"]),
        ({"synthesis": None}, ["give data.path or synthesis: exactly one of them"]),
        (
            {"synthesis.templates": ["About {whom}."]},
            ["synthesis: the template 'About {whom}.' names ['whom']", "['what', 'who']"],
        ),
        ({"synthesis.templates": []}, ["synthesis.templates: [] came, but it should have at least 1."]),
        ({"synthesis.slots": {"who": []}}, ["synthesis.slots.who: [] came, but it should have at least 1."]),
        ({"synthesis.slots": {"who": "a fox"}}, ['synthesis.slots.who: "a fox" came, but it should be a list.']),
        ({"evaluation.control": "random"}, ["evaluation.control: \"random\" came, but it should be 'hard_labels'"]),
        ({"run": 5}, ["run: 5 came, but it should be text."]),
        (
            {"trainig": {}, "training.epochs": "x", "objectives": [{"name": "x"}], "run": 5},
            ["has 4 faults", "trainig:", "training.epochs:", "objectives.0:", "run:"],
        ),
    ],
)
def test_a_fault_of_the_recipe_is_named_and_nothing_is_made(recipe, tmp_path, changes, words):
    said = stillhouse("distill", recipe(changes))
    assert_refused(said, f"stillhouse: {tmp_path / 'recipe.yaml'} has ", *words)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


@pytest.mark.usefixtures("no_model")
def test_a_fault_of_the_command_line_is_named_as_such(recipe, tmp_path):
    assert_refused(
        stillhouse("distill", recipe(), "training.epochs"), "the command line has a fault", "write key=value"
    )
    assert_refused(stillhouse("distill", recipe(), "training.epoch=3"), "Did you mean 'epochs'?")
    assert_refused(stillhouse("distill", tmp_path / "none.yaml"), "none.yaml has a fault:\n  there is no such file.")
    assert not (tmp_path / "run").exists()


def data_file(tmp_path: Path, name: str, content: bytes) -> dict[str, Any]:
    (tmp_path / name).write_bytes(content)
    return {**FROM_FILE, "data.path": str(tmp_path / name)}


GOOD = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", b"", ["empty.jsonl' holds no text. Give it at least two documents."]),
        ("blank.txt", b"\n \n", ["blank.txt' holds no text."]),
        ("bad.jsonl", GOOD + b'{"text": "a"\n', ["bad.jsonl, line 17 is not JSON: ", "at column 13"]),
        ("word.jsonl", b"\n" + GOOD + b"hello\n", ["word.jsonl, line 18 is not JSON: Expecting value at column 1"]),
        ("keys.jsonl", GOOD + b'{"body": "a"}\n', ["keys.jsonl, line 17 has ['body']. Expected {\"text\": ...}"]),
        ("list.jsonl", b"[1]\n", ["list.jsonl, line 1 has list."]),
        ("type.jsonl", b'{"text": 5}\n', ["type.jsonl, line 1 has ['text']", "not empty"]),
        ("void.jsonl", b'{"text": ""}\n', ["void.jsonl, line 1 has ['text']", "not empty"]),
        ("half.jsonl", b'{"text": "a\\ud800"}\n', ["half.jsonl, line 1 holds half a character, '\\ud800'"]),
        ("deep.jsonl", b'{"text": ' + b"[" * 10**5, ["deep.jsonl, line 1 cannot be read"]),
        ("long.jsonl", b'{"text": "a", "n": ' + b"9" * 5000 + b"}", ["long.jsonl, line 1 cannot be read"]),
        ("latin.txt", "caf\u00e9".encode("latin-1"), ["latin.txt cannot be read as UTF-8 text"]),
        ("table.csv", b"text\nhello\n", ["table.csv' ends in '.csv'. Known: .jsonl, .txt, or a folder."]),
        (
            "few.jsonl",
            GOOD[: GOOD.index(b"\n") + 1],
            ["1 different texts are too few to hold 25% of them out. Give at least 4"],
        ),
        ("same.jsonl", GOOD[: GOOD.index(b"\n") + 1] * 9, ["1 different texts are too few"]),
        ("one.txt", b"a single document", ["Give at least 4; in a .txt file, <|endoftext|> separates them."]),
    ],
)
def test_a_fault_of_the_data_names_the_file_and_line_and_nothing_is_made(recipe, tmp_path, name, content, words):
    said = stillhouse("distill", recipe(data_file(tmp_path, name, content)))
    assert_refused_in_one_line(said, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_data_that_is_not_there_or_an_empty_folder_is_refused(recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, words in [
        ("none.jsonl", "none.jsonl': there is no such file or folder."),
        ("empty", "empty' holds no text."),
    ]:
        said = stillhouse("distill", recipe({**FROM_FILE, "data.path": str(tmp_path / name)}))
        assert_refused_in_one_line(said, "data.path", words)
    assert not (tmp_path / "run").exists()


def test_texts_of_a_single_token_are_refused_before_anything_is_learnt(recipe, teacher_folder, tmp_path):
    # A tokenizer without marks for the beginning and the end: a short text is one token, which nothing predicts.
    teacher = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    settings = json.loads((teacher / "tokenizer_config.json").read_text())
    bare = {name: value for name, value in settings.items() if name not in ("bos_token", "eos_token")}
    (teacher / "tokenizer_config.json").write_text(json.dumps(bare))
    letters = "".join(json.dumps({"text": letter}) + "\n" for letter in "abcdefgh")
    changes = data_file(tmp_path, "letters.jsonl", letters.encode())
    said = stillhouse("distill", recipe({**changes, "labels": {}, "teacher.model": str(teacher)}))
    assert_refused(said, "too short to predict anything. Give longer ones")


def forget(name: str) -> Broken:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def configured(**settings: object) -> Broken:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))

    return change


def text_in(name: str, text: str) -> Broken:
    return lambda folder: (folder / name).write_text(text)


EARLY: list[tuple[Broken, str]] = [
    (forget("config.json"), "has no config.json, so there is no Hugging Face model in it."),
    (forget("model.safetensors"), "has no weights in safetensors."),
    (pickled, "Pickled ones can run code and are not read: save the model again"),
    (text_in("config.json", "{"), "has no configuration that can be loaded"),
    (text_in("config.json", "[]"), "has no configuration that can be loaded"),
    (configured(model_type="nope"), "has no configuration that can be loaded"),
    (text_in("tokenizer.json", "{"), "has no tokenizer that can be loaded"),
]
LATE: list[tuple[Broken, str]] = [
    (text_in("model.safetensors", ""), "cannot be loaded as a causal language model"),
    (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
        "cannot be",
    ),
    (configured(num_hidden_layers=6), "no fitting weights for 18 parts of the model that its config.json describes"),
    (configured(intermediate_size=32), "no fitting weights for 12 parts"),
    (configured(model_type="t5"), "cannot be loaded as a causal language model"),
]


@pytest.mark.parametrize("part", ["teacher", "student"])
@pytest.mark.parametrize(("breaking", "words"), EARLY)
def test_a_folder_that_holds_no_usable_model_is_refused_before_any_is_loaded(
    recipe, teacher_folder, texts_file, tmp_path, no_model, part, breaking, words
):
    broken = Path(shutil.copytree(teacher_folder, tmp_path / "broken"))
    breaking(broken)
    model = (
        {"teacher.model": str(broken)}
        if part == "teacher"
        else {"student": {"kind": "checkpoint", "model": str(broken)}}
    )
    said = stillhouse("distill", recipe({**FROM_FILE, "data.path": str(texts_file), **model}))
    assert_refused_in_one_line(said, str(broken), words)
    assert not (tmp_path / "run").exists()


OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig
Path({mark!r}).touch()
class Config(LlamaConfig):
    model_type = "own"
"""


def test_code_that_comes_with_a_model_is_never_run_nor_asked_about(recipe, teacher_folder, tmp_path):
    teacher = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    configured(model_type="own", auto_map={"AutoConfig": "own.Config"})(teacher)
    (teacher / "own.py").write_text(OWN_CODE.format(mark=str(tmp_path / "mark")))
    said = stillhouse("distill", recipe({"teacher.model": str(teacher)}))
    assert_refused_in_one_line(said, "contains custom code which must be executed")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(("breaking", "words"), LATE)
def test_weights_that_do_not_fit_are_refused_rather_than_filled_in_at_random(
    recipe, teacher_folder, texts_file, tmp_path, breaking, words
):
    broken = Path(shutil.copytree(teacher_folder, tmp_path / "broken"))
    breaking(broken)
    said = stillhouse("train", recipe({**FROM_FILE, "data.path": str(texts_file), "teacher.model": str(broken)}))
    assert_refused(said, str(broken), words)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("source", ["/no/such/teacher", "./teacher", "~/no/such", "no-such.gguf", "teacher", "a/b/c"])
def test_a_teacher_that_is_not_there_is_refused(recipe, tmp_path, source):
    said = stillhouse("distill", recipe({"teacher.model": source}))
    assert_refused_in_one_line(said, f"the model {source!r} is neither an existing folder or GGUF file, nor a hub id")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_a_teacher_that_is_a_file_is_refused(recipe, teacher_folder, tmp_path):
    said = stillhouse("distill", recipe({"teacher.model": str(teacher_folder / "config.json")}))
    assert_refused_in_one_line(said, "is a file. Name the folder that it lies in, or a GGUF file.")
    assert not (tmp_path / "run").exists()


def test_a_file_that_only_is_called_gguf_is_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "teacher.gguf").write_bytes(b"GGUF, or so it says")
    said = stillhouse("distill", recipe({"teacher.model": str(tmp_path / "teacher.gguf")}))
    assert_refused(said)
    announced, refused = said.err.splitlines()
    assert announced == "unpacking teacher.gguf, once"
    assert refused.startswith("stillhouse: ")
    assert "teacher.gguf' cannot be read as GGUF" in refused
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"kind": "from_layers", "keep": 5}, "student.keep is 5, but the teacher has 4 layers. Keep between 1 and 4."),
        ({"kind": "from_layers", "keep": [0, 4]}, "student.keep is [0, 4], but the teacher's layers are 0 to 3."),
        (
            {"kind": "from_layers", "keep": [1, 1]},
            "student.keep is [1, 1], but the teacher's layers are 0 to 3. Name at least one, each",
        ),
        ({"kind": "from_layers", "keep": []}, "student.keep is [], but the teacher's layers are 0 to 3."),
        ({"kind": "from_config", "changes": {"num_hidden_layers": 0}}, "student.changes.num_hidden_layers is 0."),
        (
            {"kind": "from_config", "changes": {"num_hidden_layers": "x"}},
            "{'num_hidden_layers': 'x'} do not fit together",
        ),
        ({"kind": "from_config", "changes": {"hidden_size": 7}}, "The hidden size (7) is not a multiple of"),
        ({"kind": "from_config", "changes": {"to_dict": 7}}, "student.changes.to_dict is no setting of LlamaConfig."),
        (
            {"kind": "from_config", "changes": {"num_layer": 2}},
            "student.changes.num_layer is no setting of LlamaConfig.",
        ),
        (
            {"kind": "from_config", "changes": {"vocab_size": 200}},
            "the student's vocab_size is 200, but the teacher's tokenizer has 300",
        ),
        ({"kind": "from_config", "config": "/no/such"}, "the model '/no/such' is neither an existing folder"),
        (
            {"kind": "from_config", "changes": {"max_position_embeddings": 32}},
            "sequence_tokens is 64, but the student reads at most 32",
        ),
        ({"kind": "checkpoint", "model": "/no/such"}, "the model '/no/such' is neither an existing folder"),
    ],
)
def test_a_student_that_cannot_be_is_refused_before_any_model_is_loaded(recipe, tmp_path, student, words):
    assert_refused_in_one_line(stillhouse("distill", recipe({"student": student})), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_rows_longer_than_the_teacher_reads_are_refused(recipe, tmp_path):
    said = stillhouse("distill", recipe({"data.sequence_tokens": 129}))
    assert_refused_in_one_line(said, "data.sequence_tokens is 129, but the teacher reads at most 128 tokens. Lower it")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_a_student_with_another_vocabulary_is_refused_also_where_it_is_as_large(recipe, teacher_folder, tmp_path):
    other = Path(shutil.copytree(teacher_folder, tmp_path / "other"))
    tokens = PreTrainedTokenizerFast.from_pretrained(other).get_vocab()
    swapped = {token: (number ^ 1 if 10 <= number < 20 else number) for token, number in tokens.items()}
    assert len(swapped) == len(set(swapped.values())) == len(tokens)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(swapped, unk_token="a"))).save_pretrained(other)
    said = stillhouse("distill", recipe({"student": {"kind": "checkpoint", "model": str(other)}}))
    assert_refused_in_one_line(
        said, f"student.model {str(other)!r} has a vocabulary of 300 tokens that is not the teacher's (300)"
    )
    assert not (tmp_path / "run").exists()


# What is known only later, or to a run that has already done something: nothing of that is lost.


def test_a_run_folder_made_by_another_recipe_is_refused_and_left_as_it_was(finished):
    before = files_in(finished.folder)
    said = stillhouse("distill", finished.recipe, "training.epochs=9")
    assert_refused_in_one_line(
        said, f"{finished.folder} was made by another recipe (training.epochs: 2.0 became 9.0)", "run=FOLDER"
    )
    assert files_in(finished.folder) == before


def test_somebody_elses_folder_is_refused_and_left_as_it_was(recipe, tmp_path):
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "run" / "student" / "thesis.tex").write_text("years of work")
    assert_refused_in_one_line(stillhouse("distill", recipe()), "is not empty (it has 'student') and no run made it")
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "run").rglob("*")] == [
        "run/student",
        "run/student/thesis.tex",
    ]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_teacher_that_changed_since_is_refused_and_nothing_is_lost(recipe, teacher_folder, tmp_path, file):
    teacher = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    path = recipe({"teacher.model": str(teacher)})
    assert stillhouse("label", path).code == 0
    before = files_in(tmp_path / "run")
    if file.endswith(".json"):
        (teacher / file).write_text((teacher / file).read_text() + "\n")
    else:
        weights = load_file(teacher / file)
        save_file({name: weight + 1 for name, weight in weights.items()}, teacher / file, metadata={"format": "pt"})
    assert_refused(stillhouse("distill", path), "the stage 'synthesize'", "was made from something else", "run=FOLDER")
    assert files_in(tmp_path / "run") == before


def test_a_students_checkpoint_that_changed_since_is_refused_and_nothing_is_lost(recipe, teacher_folder, tmp_path):
    start = Path(shutil.copytree(teacher_folder, tmp_path / "start"))
    changes = {**data_file(tmp_path, "texts.jsonl", GOOD), "student": {"kind": "checkpoint", "model": str(start)}}
    path = recipe({**changes, "training.epochs": 0.5})
    assert stillhouse("train", path).code == 0
    before = files_in(tmp_path / "run")
    weights = load_file(start / "model.safetensors")
    save_file(
        {name: weight + 1 for name, weight in weights.items()}, start / "model.safetensors", metadata={"format": "pt"}
    )
    assert_refused(stillhouse("distill", path), "the stage 'student'", "was made from something else")
    assert files_in(tmp_path / "run") == before


def test_data_that_changed_since_is_refused_and_nothing_is_lost(recipe, tmp_path):
    path = recipe({**data_file(tmp_path, "texts.jsonl", GOOD), "labels": {}})
    assert stillhouse("label", path).code == 0
    before = files_in(tmp_path / "run")
    (tmp_path / "texts.jsonl").write_bytes(GOOD + b'{"text": "one more, and all is different"}\n')
    assert_refused(stillhouse("distill", path), "the stage 'label'", "data have changed since")
    assert files_in(tmp_path / "run") == before


def test_prompts_that_give_too_little_text_are_said_and_the_answers_kept(recipe, tmp_path):
    said = stillhouse("distill", recipe({"synthesis.tokens": 10**6}))
    assert_refused(
        said, "16 prompts gave ", "of the 1,000,000 asked for. Add words to synthesis.slots, or lower synthesis.tokens."
    )
    assert len(list((tmp_path / "run" / "data" / "parts").glob("*.json"))) == 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A disk in memory at `tmp_path / "disk"`, and how to change its size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True) and None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_each_stage_with_one_line_and_more_room_lets_it_go_on(recipe, finished, tmp_path, small_disk):
    path, run = recipe({"run": str(tmp_path / "disk" / "run")}), tmp_path / "disk" / "run"
    stopped_in = []
    for size in ("48k", "110k", "200k", "420k", "560k", "640k"):
        small_disk(size)
        said = stillhouse("distill", path)
        assert_refused(said, "stillhouse: the disk is full", "Free some space; the same command goes on from here.")
        assert not list(run.rglob("*.part"))
        stopped_in.append([line["stage"] for line in read_lines(run / "events.jsonl")][-1:])
    small_disk("8m")
    assert stillhouse("distill", path).code == 0
    assert (run / "student" / "model.safetensors").read_bytes() == (
        finished.folder / "student" / "model.safetensors"
    ).read_bytes()
    assert len({str(stage) for stage in stopped_in}) > 2, stopped_in
