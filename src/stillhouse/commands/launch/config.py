"""What `accelerate launch` is told: a file as `accelerate config` would write it, for this machine."""

import json
import os
from pathlib import Path

import torch

from stillhouse.commands.recipe import Recipe
from stillhouse.core import yaml_text
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import write_atomic
from stillhouse.training.sources import OfflineConfig, TeacherSourceConfig
from stillhouse.training.trainer import Schedule

SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
"""Ways that share a student's weights among processes. The losses here multiply the head themselves, outside of the model's
forward pass, where such a head is not whole; nobody has shown yet that what comes of it is right."""


def check_launch(recipe: Recipe, num_ranks: int, *, config: str | None) -> None:
    """Refuse what so many processes cannot do together, before anything is loaded.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    rows = recipe.training.rows_per_step
    if num_ranks < 1:
        raise StillhouseError(f"--launch {num_ranks}: it should be 1 or more processes.")
    if rows % num_ranks:
        raise StillhouseError(
            f"--launch {num_ranks} shares training.rows_per_step, which is {rows}: it must be a multiple of {num_ranks}."
        )
    if not isinstance(recipe.source, OfflineConfig | TeacherSourceConfig):
        raise StillhouseError(
            f"source.kind is {recipe.source.kind!r}, where the student writes as it learns; --launch is for what was "
            "written before. Leave it out."
        )
    if config is not None:
        _check_config(Path(config))


def _check_config(file: Path) -> None:
    if not file.is_file():
        raise StillhouseError(f"--launch-config {str(file)!r}: there is no such file. `accelerate config` writes one.")
    values = yaml_text.from_yaml(file.read_text(encoding="utf-8"))
    kind = values.get("distributed_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise StillhouseError(f"--launch-config {str(file)!r} has no distributed_type. `accelerate config` writes one.")
    if kind in SHARDED:
        raise StillhouseError(
            f"--launch-config {str(file)!r} has distributed_type {kind}, which shares a student's weights among processes. "
            "Only whole copies learn here: MULTI_GPU. What does not fit on one device may as an adapter: student.lora."
        )


def share_of(schedule: Schedule, num_ranks: int) -> Schedule:
    """The schedule of one of so many processes, which together see as many rows a step as one would."""
    rows = schedule.rows_per_step // num_ranks
    at_once = next(n for n in range(min(rows, schedule.rows_per_micro_batch), 0, -1) if rows % n == 0)
    return schedule.model_copy(update={"rows_per_step": rows, "rows_per_micro_batch": at_once})


def write_config(file: Path, num_ranks: int, *, config: str | None) -> Path:
    """The configuration of a launch; a file of the user's serves as it is."""
    if config is not None:
        return Path(config)
    values = {
        "compute_environment": "LOCAL_MACHINE",
        # Also without a GPU: by this name alone does `accelerate launch` start more than one process, and it is the
        # environment that says on what they run.
        "distributed_type": "MULTI_GPU" if num_ranks > 1 else "NO",
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": num_ranks,
        "main_process_port": 0,
        "mixed_precision": "no",
        "gpu_ids": "all",
    }
    write_atomic(file, json.dumps(values, indent=1))
    return file


def environment(num_ranks: int) -> dict[str, str]:
    """What the processes find in their environment besides what this one does."""
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks) if hasattr(os, "sched_getaffinity") else 1
    own = {"OMP_NUM_THREADS": str(threads)} if num_ranks > 1 else {}
    on = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return {**own, **os.environ, **on}
