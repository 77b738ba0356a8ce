"""A rehearsal in a process of its own: its memory is that of a run, and what it holds is gone when it ends.

    python -m stillhouse.commands.plan.apart FOLDER

reads `recipe.yaml` and `means.json` in the folder, and leaves what it found in `rehearsal.json`.
"""

import importlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stillhouse.commands.means import Means
from stillhouse.commands.plan.kinds import module_of
from stillhouse.core.config import Config, load_recipe, read_recipe, to_yaml
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import Progress
from stillhouse.core.run import processor_seconds

MEANS, FOUND = "means.json", "rehearsal.json"


def rehearsed_apart(recipe: Config, means: Means, run: Path, progress: Progress) -> dict[str, Any]:
    """What a process of its own found, as plain values. Its folder lies beside the run, and goes with it.

    Raises:
        StillhouseError: what the process could not do.
    """
    progress.say(
        "rehearsing: every stage on a few rows, and up to ten steps of training (leave it out: --no-rehearsal)"
    )
    run.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{run.name}-rehearsal-", dir=run.parent) as name:
        folder = Path(name).absolute()
        (folder / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        (folder / MEANS).write_text(json.dumps(asdict(means)), encoding="utf-8")
        command = [sys.executable, "-m", "stillhouse.commands.plan.apart", str(folder)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise StillhouseError(f"the rehearsal failed: {_why(done)}. --no-rehearsal leaves it out.")
        found: dict[str, Any] = json.loads((folder / FOUND).read_text(encoding="utf-8"))
        return found


def _why(done: "subprocess.CompletedProcess[str]") -> str:
    said = done.stderr.strip().splitlines()
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"it was ended by {name}" + (", as where memory runs out" if name == "SIGKILL" else "")
    return said[-1].rstrip(".") if said else f"it ended with {done.returncode} and said nothing"


def main(arguments: list[str]) -> int:
    """Rehearse the recipe in a folder."""
    folder = Path(arguments[0])
    file = folder / "recipe.yaml"
    try:
        kind: Any = importlib.import_module(module_of(read_recipe(file)))
        started, used = time.monotonic(), processor_seconds()
        means = Means(**json.loads((folder / MEANS).read_text(encoding="utf-8")))
        found = kind.rehearse(load_recipe(kind.RECIPE, file), folder, means)
        share = (processor_seconds() - used) / (time.monotonic() - started)
    except StillhouseError as error:
        print(error, file=sys.stderr)
        return 2
    write_atomic(folder / FOUND, json.dumps({**asdict(found), "share": share}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
