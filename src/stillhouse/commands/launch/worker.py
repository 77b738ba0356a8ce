"""One of the processes that train an arm together: `accelerate launch -m stillhouse.commands.launch.worker RUN ARM`."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import cast, get_args

from stillhouse.commands.launch.launcher import Place, place_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.stages.training import learn, learn_without_teacher
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.config import load_recipe
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import append_line, write_atomic
from stillhouse.core.plugins import plugins
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Role
from stillhouse.core.run import RunFolder
from stillhouse.training.sharding import Held


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
    parser.add_argument("--teacher-held", choices=get_args(Held), default="whole")
    parser.add_argument("--allow-plugins", action="store_true")
    chosen = parser.parse_args()
    run = RunFolder(chosen.run)
    place, rank = place_of(run, chosen.arm), int(os.environ.get("RANK", "0"))
    try:
        with plugins(allowed=chosen.allow_plugins):
            _work(run, cast(Role, chosen.arm), place, rank=rank, held=(chosen.held, chosen.teacher_held))
    except StillhouseError as error:
        if not place.fault.exists():
            write_atomic(place.fault, str(error))
        return 2
    return 0


def _work(run: RunFolder, arm: Role, place: Place, *, rank: int, held: tuple[Held, Held]) -> None:
    # What a file of `accelerate config` says of FSDP and DeepSpeed is done by our trainer: accelerate would take the head
    # apart, too, and divide losses that are divided already.
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        os.environ.pop(name, None)
    recipe = _as_accelerate_was_told(load_recipe(Recipe, run.recipe))
    shop = Workshop(recipe, run, Telling(place.told) if rank == 0 else SILENT)
    shop.rank, shop.num_ranks = rank, int(os.environ.get("WORLD_SIZE", "1"))
    shop.held, shop.teacher_held = held
    outcome = learn(shop) if arm == "student" else learn_without_teacher(shop, arm)
    if rank == 0:
        write_atomic(place.outcome, json.dumps(outcome))


def _as_accelerate_was_told(recipe: Recipe) -> Recipe:
    """Mixed precision by a file of the user's is the recipe's own, and is left to our trainer."""
    if os.environ.pop("ACCELERATE_MIXED_PRECISION", "no") != "bf16":
        return recipe
    training = recipe.training.model_copy(update={"precision": "bfloat16"})
    return recipe.model_copy(update={"training": training})


if __name__ == "__main__":
    sys.exit(main())
