"""A recipe with tiny numbers, a run that it made, and the command line in this process."""

import contextlib
import copy
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml
from little import time_little
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from vllm_stand_in import StandIn, modules

from stillhouse.cli import main
from stillhouse.core.task import Task
from stillhouse.models.vllm_engine import ENVIRONMENT

ANIMALS = ["fox", "girl", "robot", "old man"]
PLACES = ["hill", "sea", "garden", "red house"]
TEXTS = [f"the {animal} ran to the {place} and sang" for animal in ANIMALS for place in PLACES]

SYNTHESIS = {
    "templates": ["Write about {who} and {what}."],
    "slots": {"who": ["a fox", "a girl", "a robot", "an old man"], "what": ["a key", "the sea", "a boat", "a door"]},
    "tokens": 300,
    "batch_size": 2,
    "sampling": {"max_new_tokens": 32},
}

RECIPE: dict[str, Any] = {
    "student": {"kind": "from_layers", "keep": 2, "calibration_tokens": 32},
    "synthesis": SYNTHESIS,
    "data": {"sequence_tokens": 64, "held_out": 0.25},
    "labels": {"shard_tokens": 100},
    "objectives": [{"name": "forward_kl", "weight": 0.9, "temperature": 2.0}, {"name": "next_token", "weight": 0.1}],
    "training": {
        "epochs": 2,
        "learning_rate": 1e-3,
        "rows_per_step": 2,
        "rows_per_micro_batch": 1,
        "save_every_steps": 4,
    },
    "evaluation": {"samples": 1},
}


@pytest.fixture(scope="package", autouse=True)
def _little_is_timed_and_written() -> Iterator[None]:
    """How fast a model is, and how long a sample of it, is told elsewhere; here it only takes time."""
    with pytest.MonkeyPatch.context() as patch:
        time_little(patch)
        yield


def _module(path: Path) -> Any:
    """A file of another folder of tests, which none of them can import."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


FAULT_SERVER = _module(Path(__file__).parents[1] / "teachers" / "fault_server.py")
"""`FaultServer` and what it can answer."""


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def stillhouse(*arguments: str | Path) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def assert_refused(said: Said, *words: str) -> None:
    assert said.code == 2, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def assert_refused_in_one_line(said: Said, *words: str) -> None:
    assert_refused(said, *words)
    assert said.err.startswith("stillhouse: ")
    assert said.err.count("\n") == 1


@pytest.fixture
def no_model(monkeypatch) -> None:
    """Whatever is refused here must be refused before any weight is read."""

    def refuse(*_args: object, **_options: object) -> None:
        pytest.fail("a model was loaded before the fault was found")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)


WriteRecipe = Callable[..., Path]


def recipe_values(teacher: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tiny recipe; a change with a dotted name is set deep inside, None takes a section away."""
    values = {"teacher": {"kind": "local", "model": str(teacher)}, **copy.deepcopy(RECIPE)}
    for name, value in changes.items():
        *parents, last = name.split(".")
        here = values
        for parent in parents:
            here = here[parent]
        here[last] = value
    return {name: value for name, value in values.items() if value is not None}


def write_recipe(folder: Path, teacher: Path, **changes: Any) -> Path:
    """The tiny recipe in `folder`, which also gets its run."""
    path = folder / "recipe.yaml"
    values = recipe_values(teacher, {"run": str(folder / "run"), **changes})
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def recipe(tmp_path: Path, teacher_folder: Path) -> WriteRecipe:
    """Write the tiny recipe, with changes; its run is `tmp_path / "run"`."""

    def write(changes: Mapping[str, Any] | None = None) -> Path:
        return write_recipe(tmp_path, teacher_folder, **(changes or {}))

    return write


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts to learn, one JSON object a line."""
    file = tmp_path_factory.mktemp("data") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return file


@dataclass(frozen=True)
class Finished:
    """A run that nothing interrupted."""

    recipe: Path
    folder: Path
    said: Said


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Finished:
    """The tiny recipe, run from beginning to end. Look, do not touch."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder, teacher_folder)
    return Finished(path, folder / "run", stillhouse("distill", path))


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and its content; without `now.json`, which says when somebody was last at work."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file() and file.name != "now.json"
    }


# A student with another tokenizer.

OTHER_TEMPLATE = (
    "<s>{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


def make_other_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level too, but trained on other text, with other special tokens and another template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([*TEXTS, "the fox went to see the singing robot"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=OTHER_TEMPLATE
    )


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory, build_model: Callable[..., PreTrainedModel]) -> Path:
    """A tiny student on disk, with a tokenizer of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("models") / "student", make_other_tokenizer()
    build_model("mistral", layers=2, vocab=len(tokenizer) + 3, hidden=16, seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def writing_teacher(
    tmp_path_factory: pytest.TempPathFactory,
    build_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A tiny random teacher that reads long prompts and comes to an end: its head has a bias towards the end of a turn."""
    folder = tmp_path_factory.mktemp("models") / "writer"
    model = build_model("phi", vocab=len(tokenizer), max_position_embeddings=2048)
    model.lm_head.bias.data[tokenizer.eos_token_id] += 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Every other kind of data.

LABELS = ("sad", "glad", "angry")
"""In an order that is not the alphabet's: the teacher's own."""
TAGS = ("O", "B-who", "B-where")


@dataclass(frozen=True)
class Kind:
    """What a kind of data is learnt by: the teacher's task and family, the file's rows, and what is asked of the student."""

    task: Task
    rows: list[dict[str, Any]]
    objectives: list[dict[str, Any]]
    data: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    family: str = "bert"
    hard: str | None = None
    """What the control learns."""


CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"who ran to the {place}?"},
            {"role": "assistant", "content": f"the {animal} ran"},
            {"role": "user", "content": "and sang?"},
            {"role": "assistant", "content": f"the {animal} sang to the {place}"},
        ]
    }
    for animal in ANIMALS
    for place in PLACES
]

PAIRS_OF_ANSWERS = [
    {
        "messages": [{"role": "user", "content": f"who ran to the {place}?"}],
        "chosen": f"the {animal} ran to the {place}",
        "rejected": "nobody" if number % 2 else "nobody at all, that I have ever seen or heard of",
        "chosen_score": 1.0 + number % 3,
        "rejected_score": 0.5,
    }
    for number, animal in enumerate(ANIMALS)
    for place in PLACES
]
"""As synthesis writes them."""

PAIRS = [(animal, place) for animal in ("fox", "girl", "robot", "bird") for place in ("hill", "sea", "garden")]
SAYINGS = [f"the {animal} {verb} to the {place}" for animal, place in PAIRS for verb in ("ran", "went")]
SOFT = {"name": "forward_kl", "weight": 0.5, "temperature": 2.0}
STATES = {"name": "hidden_mse", "layers": "final"}

KINDS: dict[str, Kind] = {
    "masked_text": Kind(
        "masked_lm",
        [{"text": f"{saying} and {saying}"} for saying in SAYINGS],
        [SOFT, {"name": "masked_token"}, {"name": "attention_kl"}],
        {"kind": "masked_text"},
        hard="masked_token",
    ),
    "classification": Kind(
        "sequence_classification",
        [{"text": saying, "label": LABELS[number % 3]} for number, saying in enumerate(SAYINGS)],
        [SOFT, {"name": "hard_label"}, {"name": "decoupled_kd", "weight": 0.1}],
        {"kind": "classification"},
        labels=LABELS,
        hard="hard_label",
    ),
    "pairs": Kind(
        "sequence_classification",
        [{"a": a, "b": b, "same": str(int(a[4] == b[4]))} for a, b in zip(SAYINGS, SAYINGS[3:], strict=False)],
        [SOFT, STATES],
        {"kind": "classification", "text": "a", "pair": "b", "label": "same"},
        labels=("0", "1"),
        hard="hard_label",
    ),
    "regression": Kind(
        "regression",
        [{"text": saying, "label": number / 24} for number, saying in enumerate(SAYINGS)],
        [{"name": "logit_mse"}, {"name": "squared_error", "weight": 0.5}, {"name": "linear_cka"}],
        {"kind": "regression"},
        labels=("score",),
        family="mpnet",
        hard="squared_error",
    ),
    "tags": Kind(
        "token_classification",
        [{"words": saying.split(), "tags": [*"O", TAGS[1], *"OOO", TAGS[2]]} for saying in SAYINGS],
        [SOFT, {"name": "hard_label"}, {"name": "normalized_mse", "layers": [[0, 0], [2, 3]]}],
        {"kind": "tags"},
        labels=TAGS,
        family="distilbert",
        hard="hard_label",
    ),
    "sentences": Kind(
        "sentence_embedding",
        [{"text": saying} for saying in SAYINGS],
        [{"name": "embedding_mse"}, {"name": "embedding_cosine", "weight": 2.0}, {"name": "gram_mse"}],
        {"kind": "sentences"},
        family="mpnet",
    ),
}


class SaveTeacher(Protocol):
    """Write a tiny random teacher for a task to a folder of its own."""

    def __call__(self, task: Task, family: str = "bert", **changes: Any) -> Path: ...


@pytest.fixture(scope="session")
def save_teacher(
    tmp_path_factory: pytest.TempPathFactory,
    build_encoder: Callable[..., PreTrainedModel],
    bert_tokenizer: PreTrainedTokenizerFast,
    distilbert_tokenizer: PreTrainedTokenizerFast,
) -> SaveTeacher:
    """Write a tiny random teacher for a task to a folder of its own."""

    def save(task: Task, family: str = "bert", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("teachers") / family
        tokenizer = bert_tokenizer if family == "bert" else distilbert_tokenizer
        settings = {"layers": 3, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **changes}
        build_encoder(family, task, **settings).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_kind(folder: Path, kind: str, teacher: Path, **changes: Any) -> Path:
    """A recipe for this kind of data, and its data, in `folder`, which also gets its run."""
    wanted = KINDS[kind]
    values = {
        "student": {"kind": "from_layers", "keep": [0, 2]},
        "synthesis": None,
        "labels": None,
        "data": {
            **wanted.data,
            "path": str(write_rows(folder / "rows.jsonl", wanted.rows)),
            "sequence_tokens": 32,
            "held_out": 0.25,
        },
        "objectives": copy.deepcopy(wanted.objectives),
        "training": {"epochs": 4, "learning_rate": 3e-3, "rows_per_step": 4, "rows_per_micro_batch": 4},
        "evaluation": {},
    }
    return write_recipe(folder, teacher, **{**values, **changes})


@pytest.fixture
def kind_recipe(tmp_path: Path, save_teacher: SaveTeacher) -> Callable[..., Path]:
    """Write the recipe of a kind of data, with changes; its run is `tmp_path / "run"`."""

    def write(kind: str, changes: Mapping[str, Any] | None = None, teacher: Path | None = None) -> Path:
        wanted = KINDS[kind]
        named = {"labels": wanted.labels} if wanted.labels else {}
        return write_kind(
            tmp_path, kind, teacher or save_teacher(wanted.task, wanted.family, **named), **(changes or {})
        )

    return write


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """What was begun in the place of vLLM."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return StandIn.made
