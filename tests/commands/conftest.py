"""A recipe with tiny numbers, a run that it made, and the command line in this process."""

import contextlib
import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.cli import main

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
        "epochs": 4,
        "learning_rate": 1e-3,
        "rows_per_step": 2,
        "rows_per_micro_batch": 1,
        "save_every_steps": 4,
    },
    "evaluation": {"samples": 1},
}


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
    """When each file was written, and its content."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }
