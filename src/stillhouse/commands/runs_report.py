"""`stillhouse report RUN RUN ...`: several runs in one report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillhouse.core import yaml_text
from stillhouse.core.errors import RunError
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder, read_record
from stillhouse.reporting.runs import RunEntry, write_runs

SEEDS = (("training", "seed"), ("run",))
"""Keys of a recipe that runs may differ in and still say the same thing twice."""


def report_runs(folders: Sequence[str | Path], *, out: str | Path = "comparison.html") -> Path:
    """Write one report of the runs or evaluations in these folders, and return where it lies.

    Raises:
        RunError: for a folder in which nothing was evaluated.
        DataError: if the runs have no measure of quality in common.
    """
    runs = [entry_of(Path(folder)) for folder in folders]
    title = f"{len(runs)} runs compared" if len(runs) > 1 else runs[0].name
    write_runs(out, title=title, runs=runs)
    return Path(out)


def entry_of(folder: Path) -> RunEntry:
    """What a run folder holds.

    Raises:
        RunError: if nothing was evaluated there.
    """
    run = RunFolder(folder)
    record = folder / "stages" / "evaluate.json"
    if not record.exists():
        what = "is no run folder" if not run.recipe.exists() else "has no evaluation yet"
        raise RunError(f"{folder} {what}, so there is nothing to report. Run `stillhouse distill` or `evaluate` first.")
    result = EvaluationResult.from_dict(read_record(record)["result"])
    return RunEntry(folder.name, result, group=_all_but_the_seed(run))


def _all_but_the_seed(run: RunFolder) -> str:
    """The recipe without what may differ between repetitions."""
    values: Any = yaml_text.from_yaml(run.recipe.read_text(encoding="utf-8")) if run.recipe.exists() else {}
    for *parents, last in SEEDS:
        here = values
        for name in parents:
            here = here.get(name) or {}
        here.pop(last, None)
    return json.dumps(values, sort_keys=True, default=str)


def show(folders: Sequence[str], *, out: str) -> None:
    """The command."""
    print(f"report   {report_runs(folders, out=out)}")
