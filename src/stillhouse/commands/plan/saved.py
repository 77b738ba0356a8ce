"""`plan.json`: what was expected of a run, kept beside it until it has ended and can be held against it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.core.config import Config
from stillhouse.core.files import fingerprint, read_lines, write_atomic
from stillhouse.core.run import PLAN, RunFolder
from stillhouse.reporting.plans import plan_lines

VERSION = 3
NOT_ASKED = ("run", "report_to")
"""Keys that change nothing of what a run takes."""


@dataclass(frozen=True)
class SavedPlan:
    """What was expected."""

    version: int
    recipe: str
    """Hash of the recipe that it is about."""
    seconds: Mapping[str, float]
    """Of each stage; empty where nothing was rehearsed."""
    memory: int
    disk: int
    share: float = 1.0
    """Of one processor, that its rehearsal was given."""
    num_ranks: int | None = None
    """How many processes were to train, if it was not the one that does all else."""


@dataclass(frozen=True)
class Error:
    """One number that was expected, and what it came to."""

    planned: float
    taken: float

    @property
    def share(self) -> float:
        """By how much of what it came to it was planned too high; below 0 too low."""
        return self.planned / self.taken - 1


@dataclass(frozen=True)
class Errors:
    """What was expected of a run beside what it took."""

    seconds: Error | None
    memory: Error | None
    stages: Mapping[str, Error]
    shares: Error | None = None
    """Of one processor: what the rehearsal was given, and what these stages were."""
    left_out: tuple[str, ...] = ()
    """Stages that went on from where they had been stopped, or were taken over, of which not all that they took is known; and
    those that other processes did than were to."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def recipe_hash(recipe: Config) -> str:
    """The same for recipes that take as much."""
    values = recipe.model_dump(mode="json")
    return fingerprint({name: value for name, value in values.items() if name not in NOT_ASKED})


def save(plan: SavedPlan, run: Path) -> Path:
    """Write it into the run folder, which is made."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / PLAN
    write_atomic(file, json.dumps(asdict(plan), indent=1))
    return file


def load(run: Path, recipe: Config) -> SavedPlan | None:
    """What was planned of this recipe; None where nothing was, or of another."""
    try:
        values = json.loads((run / PLAN).read_text(encoding="utf-8"))
        plan = SavedPlan(**values)
    except (OSError, json.JSONDecodeError, TypeError):
        return None
    return plan if plan.version == VERSION and plan.recipe == recipe_hash(recipe) else None


def errors_of(run: RunFolder, recipe: Config) -> Errors | None:
    """How far a plan was from what the stages took that are done; None where there is no plan."""
    plan = load(run.path, recipe)
    if plan is None:
        return None
    done = run.stages()
    unclear = [name for name, one in done.items() if _is_unclear(one, plan)]
    known = [name for name in plan.seconds if name in done and name not in unclear]
    stages = {name: Error(plan.seconds[name], max(0.1, float(done[name]["seconds"]))) for name in known}
    planned, taken = (sum(getattr(one, side) for one in stages.values()) for side in ("planned", "taken"))
    ended = [line for line in read_lines(run.path / "events.jsonl") if line["event"] == "finished"]
    peaks = [line["peak_bytes"] for line in ended if "peak_bytes" in line]
    used = {line["stage"]: line["processor_seconds"] for line in ended if "processor_seconds" in line}
    share = sum(used.get(name, 0.0) for name in known) / taken if stages else 0.0
    return Errors(
        seconds=Error(planned, taken) if stages else None,
        memory=Error(plan.memory, max(peaks)) if peaks else None,
        stages=stages,
        shares=Error(plan.share, share) if share > 0 else None,
        left_out=tuple(unclear),
    )


def _is_unclear(done: Mapping[str, Any], plan: SavedPlan) -> bool:
    by_others = "steps" in done and done.get("num_ranks") != plan.num_ranks
    return bool(done.get("resumed")) or "borrowed_from" in done or by_others


def said_of_plan(run: RunFolder, recipe: Config) -> list[str]:
    """By how much the plan was wrong, where there was one: a line each of time and memory."""
    errors = errors_of(run, recipe)
    return [] if errors is None else plan_lines(errors.to_dict())


def planned_beside(run: RunFolder, recipe: Config) -> dict[str, Any]:
    """The same for a report; empty where nothing was planned."""
    errors = errors_of(run, recipe)
    return {} if errors is None else errors.to_dict()
