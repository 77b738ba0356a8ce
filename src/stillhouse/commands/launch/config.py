"""What `accelerate launch` is told: a file as `accelerate config` would write it, for this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stillhouse.commands.recipe import Recipe
from stillhouse.core import yaml_text
from stillhouse.core.errors import StillhouseError
from stillhouse.core.files import write_atomic
from stillhouse.teachers import LocalTeacherConfig, SelfTeacherConfig
from stillhouse.teachers.hosted import is_hosted
from stillhouse.teachers.on_ray import Faculty
from stillhouse.training.sharding import Held, TeacherHeld
from stillhouse.training.sources import OfflineConfig, TeacherSourceConfig
from stillhouse.training.trainer import Schedule
from stillhouse.training.zero import NO_DEEPSPEED

OTHER_WAYS = ("MEGATRON_LM",)
"""Ways of `accelerate` that share a student's weights by a library of their own. The losses here multiply the head
themselves, and find it whole where torch (FSDP2) or DeepSpeed shares the weights; nobody has shown what comes of others."""
ZERO_STAGES: Mapping[object, Held] = {2: "zero2", 3: "zero3"}
LEFT_TO_US = ("deepspeed_config_file", "offload_optimizer_device", "offload_param_device")
"""What a file may say of DeepSpeed that is not done here."""


@dataclass(frozen=True)
class Ranks:
    """Of the processes that train together, which this is, how many there are, and what each holds."""

    rank: int = 0
    number: int = 1
    held: Held = "whole"
    teacher_held: TeacherHeld = "whole"
    faculty: Faculty | None = None
    """Actors that hold the teacher, where it is held so."""


def check_launch(
    recipe: Recipe, num_ranks: int, *, config: str | None, held: Held = "whole", teacher_held: TeacherHeld = "whole"
) -> None:
    """Refuse what so many processes cannot do together, before anything is loaded.

    Raises:
        StillhouseError: naming what is to be changed.
    """
    check_ranks(num_ranks, {"training.rows_per_step": recipe.training.rows_per_step})
    _check_source(recipe)
    found = check_held(config, held)
    check_compiled(recipe.training, found)
    if recipe.student.lora is not None:
        check_adapter(recipe, found)
    if teacher_held == "sharded":
        _check_sharded_teacher(recipe)


def check_ranks(num_ranks: int, shared: Mapping[str, int]) -> None:
    """Refuse a number of processes that some of a recipe's numbers cannot be shared among.

    Raises:
        StillhouseError: naming the first.
    """
    if num_ranks < 1:
        raise StillhouseError(f"--launch {num_ranks}: it should be 1 or more processes.")
    for name, rows in shared.items():
        if rows % num_ranks:
            raise StillhouseError(
                f"--launch {num_ranks} shares {name}, which is {rows}: it must be a multiple of {num_ranks}."
            )


def check_held(config: str | None, held: Held) -> Held:
    """How processes hold the student, by a file of the user's if there is one.

    Raises:
        StillhouseError: for a way that is none of ours, and for a library that is not installed.
    """
    found = held if config is None else held_by(Path(config))
    if found in ZERO_STAGES.values() and find_spec("deepspeed") is None:
        raise StillhouseError(f"--launch-config {config!r} has distributed_type DEEPSPEED: {NO_DEEPSPEED}")
    return found


def check_compiled(schedule: Schedule, held: Held) -> None:
    """Refuse to compile layers of a student that DeepSpeed has: of stage 3 weights come and go within a layer, and nobody has
    tried stage 2.

    Raises:
        StillhouseError: naming what is to be left out.
    """
    if held in ZERO_STAGES.values() and schedule.compile:
        raise StillhouseError(
            "training.compile is true, but what comes of compiled layers by DeepSpeed is not known. Leave it out, or use "
            "--sharded."
        )


def _check_source(recipe: Recipe) -> None:
    source = recipe.source
    if isinstance(source, OfflineConfig | TeacherSourceConfig):
        return
    if source.engine == "vllm":
        raise StillhouseError(
            "source.engine is vllm, which writes for one process alone; with --launch each writes its own share. Leave one out."
        )


def check_adapter(recipe: Recipe, held: Held) -> None:
    """Refuse an adapter on weights that cannot be shared so.

    Raises:
        StillhouseError: naming what is to be left out.
    """
    lora = recipe.student.lora
    assert lora is not None
    if held == "whole":
        return
    way = "--sharded" if held == "sharded" else "DEEPSPEED"
    if lora.quantize != "none":
        raise StillhouseError(
            f"student.lora.quantize is {lora.quantize}, and weights of so few bits are not shared. Leave it out, or {way}."
        )
    if isinstance(recipe.teacher, SelfTeacherConfig) and recipe.labels is None:
        raise StillhouseError(
            "teacher.kind is 'self': the student answers twice in a step, which processes that share it do not. Ask it "
            f"beforehand (labels: {{signal: sampled}}), or leave {way} out."
        )


def _check_sharded_teacher(recipe: Recipe) -> None:
    mend = "Leave --sharded-teacher out."
    if is_hosted(recipe.teacher):
        raise StillhouseError(
            "teacher.engine is vllm, which shares the teacher among GPUs by itself, before a student learns "
            f"(teacher.tensor_parallel). {mend}"
        )
    if recipe.labels is not None:
        raise StillhouseError(f"labels keep what the teacher says, so no process asks it. {mend}")
    if not isinstance(recipe.teacher, LocalTeacherConfig):
        raise StillhouseError(f"teacher.kind is {recipe.teacher.kind!r}, of which there is nothing to share. {mend}")


def held_by(file: Path) -> Held:
    """Whether processes hold a student whole, by a configuration of the user's.

    Raises:
        StillhouseError: for a way of sharing it that is none of ours.
    """
    if not file.is_file():
        raise StillhouseError(f"--launch-config {str(file)!r}: there is no such file. `accelerate config` writes one.")
    values = yaml_text.from_yaml(file.read_text(encoding="utf-8"))
    kind = values.get("distributed_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise StillhouseError(f"--launch-config {str(file)!r} has no distributed_type. `accelerate config` writes one.")
    if kind in OTHER_WAYS:
        raise StillhouseError(
            f"--launch-config {str(file)!r} has distributed_type {kind}, which shares a student's weights among processes by a "
            "library of its own. Here they are whole (MULTI_GPU), shared by FSDP2 (distributed_type: FSDP with "
            "fsdp_config: {fsdp_version: 2}, which is what --sharded does), or by DeepSpeed (DEEPSPEED, zero_stage 2 or 3)."
        )
    precision = values.get("mixed_precision", "no")
    if precision not in ("no", "bf16", False):  # YAML takes a bare `no` for one
        raise StillhouseError(
            f"--launch-config {str(file)!r} has mixed_precision {precision}. It can be no or bf16, as training.precision."
        )
    if kind == "DEEPSPEED":
        return _zero_stage(file, values)
    if kind != "FSDP":
        return "whole"
    _check_fsdp(file, values)
    return "sharded"


def _zero_stage(file: Path, values: dict[str, Any]) -> Held:
    chosen = values.get("deepspeed_config")
    settings = chosen if isinstance(chosen, dict) else {}
    for name in LEFT_TO_US:
        if settings.get(name) not in (None, "none"):
            raise StillhouseError(
                f"--launch-config {str(file)!r} has deepspeed_config.{name} {settings[name]}. Of DeepSpeed zero_stage counts "
                "here; weights and optimiser stay where they are used. Leave it out."
            )
    stage = settings.get("zero_stage")
    if stage not in ZERO_STAGES:
        raise StillhouseError(
            f"--launch-config {str(file)!r} has deepspeed_config.zero_stage {stage}. It can be 2 (gradients and optimiser are "
            "shared) or 3 (weights, too)."
        )
    return ZERO_STAGES[stage]


def _check_fsdp(file: Path, values: dict[str, Any]) -> None:
    chosen = values.get("fsdp_config")
    settings = chosen if isinstance(chosen, dict) else {}
    version = settings.get("fsdp_version", 1)
    if version != 2:
        raise StillhouseError(
            f"--launch-config {str(file)!r} has fsdp_config.fsdp_version {version}, the FSDP that torch gives up. FSDP2 is "
            "known: set fsdp_version: 2 (`accelerate to-fsdp2` rewrites the file), or leave the file out for --sharded."
        )
    if settings.get("fsdp_offload_params"):
        raise StillhouseError(
            f"--launch-config {str(file)!r} has fsdp_config.fsdp_offload_params, which keeps weights in the processor's "
            "memory. They stay on the GPUs here: set it to false, and start more processes."
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
    """What the processes find in their environment besides what this one does, until `accelerate launch` adds to it."""
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks) if hasattr(os, "sched_getaffinity") else 1
    own = {"OMP_NUM_THREADS": str(threads)} if num_ranks > 1 else {}
    on = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return {**own, **os.environ, **on}
