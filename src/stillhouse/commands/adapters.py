"""What a recipe with a low-rank adapter must not say, and what such an adapter is called."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PretrainedConfig

from stillhouse.core.task import Task
from stillhouse.data.config import ChatDataConfig, DataConfig
from stillhouse.models.load import untrained
from stillhouse.objectives import objective
from stillhouse.students.config import CheckpointConfig, LoraConfig, StudentConfig
from stillhouse.students.lora import add_adapter, check_bitsandbytes
from stillhouse.teachers import SelfTeacherConfig, TeacherConfig
from stillhouse.training.config import ObjectiveConfig

ADAPTER_FOLDER = "adapter"
"""In the run folder: what the student learnt, alone."""


def adapter_faults(
    student: StudentConfig,
    teacher: TeacherConfig,
    *,
    control: str,
    data: DataConfig,
    objectives: Sequence[ObjectiveConfig],
) -> list[str]:
    """What an adapter, or a teacher that is the student itself, does not go together with: one sentence a fault."""
    faults: list[str] = []
    if student.lora is not None and control in ("from_scratch", "both"):
        faults.append(
            f"evaluation.control is {control}, but with student.lora all but the adapter stays as it is, and an adapter on "
            "random weights learns nothing. Use hard_labels: the same adapter from the same start, without the teacher."
        )
    if isinstance(teacher, SelfTeacherConfig):
        faults += _own_teacher_faults(student, teacher)
        faults += _nothing_to_learn(data, objectives)
    return faults


def _own_teacher_faults(student: StudentConfig, teacher: SelfTeacherConfig) -> list[str]:
    faults: list[str] = []
    if student.lora is None:
        faults.append(
            "teacher.kind is self, which means the student with its adapter off, but the student has none. Give it one "
            "(student.lora: {rank: 16}), or name a teacher: {kind: local, model: ...}."
        )
    if not isinstance(student, CheckpointConfig):
        faults.append(
            f"teacher.kind is self, but a student of kind {student.kind} is made from another teacher. Use "
            "student: {kind: checkpoint, model: ...}, or name a teacher: {kind: local, model: ...}."
        )
    elif teacher.model != student.model:
        faults.append(
            f"teacher.kind is self, but teacher.model is {teacher.model!r} and student.model {student.model!r}. "
            "Leave teacher.model out."
        )
    return faults


def _nothing_to_learn(data: DataConfig, objectives: Sequence[ObjectiveConfig]) -> list[str]:
    """A teacher that reads the same as the student says the same, before the first step and so ever after."""
    reads_more = isinstance(data, ChatDataConfig) and data.teacher_context is not None
    if reads_more or not all(objective(chosen.name).reads_teacher for chosen in objectives if chosen.has_weight):
        return []
    return [
        "teacher.kind is self, so that the student says what its teacher says before the first step, and objectives only "
        "compare the two: there is nothing to learn. Add one that learns from the data, such as next_token, or tell the "
        "teacher more than the student (data.teacher_context)."
    ]


def named(wanted: LoraConfig | None) -> dict[str, Any]:
    """What to call an adapter in front of people."""
    assert wanted is not None
    kind = f"{'rs' if wanted.rslora else ''}{'DoRA' if wanted.dora else 'LoRA'}"
    return {"kind": f"Q{kind}" if wanted.quantize == "4bit" else kind, "rank": wanted.rank}


def check_adapter(wanted: LoraConfig, student: PretrainedConfig, task: Task) -> None:
    """Refuse an adapter for layers that the student does not have. A model without weights tells.

    Raises:
        ModelError: naming the layers that there are, or the package that is missing.
    """
    check_bitsandbytes(wanted)
    with torch.device("meta"):
        add_adapter(untrained(student, task, dtype=torch.float32), wanted, seed=0)
