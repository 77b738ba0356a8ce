"""One of the processes that train an arm together: `accelerate launch -m stillhouse.commands.launch.worker RUN ARM`."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, cast, get_args

from stillhouse.commands.launch.config import Ranks
from stillhouse.commands.launch.launcher import Place, place_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.stages.training import learn, learn_without_teacher
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.config import load_recipe, read_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import append_line, write_atomic
from stillhouse.core.memory import peak_bytes
from stillhouse.core.plugins import plugins
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Role
from stillhouse.core.run import RunFolder
from stillhouse.teachers.on_ray import Faculty
from stillhouse.training.sharding import Held, TeacherHeld


class Telling(Progress):
    """Writes what it is told down, for the process that waits."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def stage(self, name: str, detail: str = "") -> None:
        """Is told by whoever waits."""

    def start(self, title: str, total: int, unit: str = "") -> None:
        """Work begins."""
        append_line(self.file, {"call": "start", "with": [title, total, unit]})

    def advance(self, amount: int = 1, note: str = "") -> None:
        """More is done."""
        append_line(self.file, {"call": "advance", "with": [amount, note]})

    def finish(self) -> None:
        """All is done."""
        append_line(self.file, {"call": "finish", "with": []})

    def say(self, text: str) -> None:
        """A line."""
        append_line(self.file, {"call": "say", "with": [text]})


def main() -> int:
    """Train one arm; the first process keeps what comes of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("arm")
    parser.add_argument("--held", choices=get_args(Held), default="whole")
    parser.add_argument("--teacher-held", choices=get_args(TeacherHeld), default="whole")
    parser.add_argument("--faculty", nargs=3)
    parser.add_argument("--allow-plugins", action="store_true")
    chosen = parser.parse_args()
    run = RunFolder(chosen.run)
    place, rank = place_of(run, chosen.arm), int(os.environ.get("RANK", "0"))
    try:
        with plugins(allowed=chosen.allow_plugins):
            number, found = int(os.environ.get("WORLD_SIZE", "1")), _faculty(chosen.faculty)
            ranks = Ranks(rank, number, chosen.held, chosen.teacher_held, found)
            _work(run, chosen.arm, place, ranks)
    except StillhouseError as error:
        if not place.fault.exists():
            write_atomic(place.fault, str(error))
        return 2
    return 0


def _work(run: RunFolder, arm: str, place: Place, ranks: Ranks) -> None:
    # What a file of `accelerate config` says of FSDP and DeepSpeed is done by our trainer: accelerate would take the head
    # apart, too, and divide losses that are divided already.
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        os.environ.pop(name, None)
    progress = Telling(place.told) if ranks.rank == 0 else SILENT
    outcome = _learnt(run, arm, progress, ranks)
    write_atomic(place.peak(ranks.rank), str(peak_bytes()))
    if ranks.rank == 0:
        write_atomic(place.outcome, json.dumps(outcome))


def _learnt(run: RunFolder, arm: str, progress: Progress, ranks: Ranks) -> dict[str, Any]:
    """What an arm of a recipe of this kind took."""
    values = read_recipe(run.recipe, [])
    if is_of_stories(values) or is_of_retrieval(values):
        kind = "stories" if is_of_stories(values) else "retrieval"
        pipeline = importlib.import_module(f"stillhouse.commands.{kind}.pipeline")
        told: dict[str, Any] = pipeline.learn_arm(run, arm, progress, ranks, changes=told_by_accelerate())
        return told
    recipe = load_recipe(Recipe, run.recipe, told_by_accelerate())
    shop = Workshop(recipe, run, progress)
    shop.rank, shop.num_ranks, shop.held, shop.teacher_held = ranks.rank, ranks.number, ranks.held, ranks.teacher_held
    shop.faculty = ranks.faculty
    role = cast(Role, arm)
    return learn(shop) if role == "student" else learn_without_teacher(shop, role)


def _faculty(words: list[str] | None) -> Faculty | None:
    if words is None:
        return None
    address, namespace, actors = words
    return Faculty(address, namespace, int(actors))


def told_by_accelerate() -> list[str]:
    """What a file of the user's changes in the recipe: its mixed precision is the recipe's own, and left to our trainer."""
    is_mixed = os.environ.pop("ACCELERATE_MIXED_PRECISION", "no") == "bf16"
    return ["training.precision=bfloat16"] if is_mixed else []


if __name__ == "__main__":
    sys.exit(main())
