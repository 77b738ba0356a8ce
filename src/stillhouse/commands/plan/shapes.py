"""Memory and disk of one teacher and one student, by the shapes of their models: no weight is read."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.commands.checks import student_config, student_depth
from stillhouse.commands.plan.plan import (
    CHECKPOINTS,
    MOMENTS,
    NUMBER,
    PROGRAM,
    Memory,
    divided,
    halved,
    program_bytes,
)
from stillhouse.commands.recipe import Recipe
from stillhouse.labelling.config import LabelsConfig, SampledConfig, SparseConfig
from stillhouse.models.anatomy import parameter_count, text_config
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, untrained, without_weights
from stillhouse.models.vllm_engine import TEACHER_SHARE, teacher_cache_bytes
from stillhouse.students.build import changed_config
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig, LoraConfig
from stillhouse.students.distilbert import distilbert_config
from stillhouse.students.lora import add_adapter
from stillhouse.teachers import RemoteTeacherConfig, SelfTeacherConfig
from stillhouse.teachers.hosted import is_hosted

LOSS_ROOM = 64 * 2**20
"""What the kernels of the losses stay under: `kernels/chunked.py`."""

HOSTED = "teacher in vLLM"
BEFOREHAND = "labelling and writing"
"""The moment before the student learns."""

SPARSE_BYTES, SAMPLED_BYTES = 80.0, 30.0
"""A token of text, as `benchmarks/labels.py` measured at the defaults: docs/memory-and-speed.md."""


@dataclass(frozen=True)
class Models:
    """A recipe's teacher and student on the meta device."""

    recipe: Recipe

    @cached_property
    def teacher(self) -> PreTrainedModel | None:
        """None where it is behind an API, or the student itself."""
        teacher = self.recipe.teacher
        if isinstance(teacher, RemoteTeacherConfig | SelfTeacherConfig):
            return None
        with torch.device("meta"):
            return untrained(load_config(without_weights(teacher.model)), self.recipe.task, dtype=torch.float32)

    @cached_property
    def student(self) -> PreTrainedModel:
        """With its adapter, if it gets one."""
        with torch.device("meta"):
            model = untrained(self._student_config, self.recipe.task, dtype=torch.float32)
            wanted = self.recipe.student.lora
            return model if wanted is None else add_adapter(model, wanted, seed=0)

    @property
    def _student_config(self) -> PretrainedConfig:
        recipe, wanted = self.recipe, self.recipe.student
        if isinstance(recipe.teacher, RemoteTeacherConfig):
            return student_config(recipe)
        if isinstance(wanted, CheckpointConfig):
            return load_config(without_weights(wanted.model))
        teacher = load_config(without_weights(recipe.teacher.model))
        if isinstance(wanted, FromConfigConfig):
            return changed_config(load_config(wanted.config) if wanted.config else teacher, wanted.changes)
        assert isinstance(wanted, FromLayersConfig)
        depth = student_depth(recipe)
        if wanted.architecture == "distilbert":
            return distilbert_config(teacher, range(depth))
        return shallower(teacher, depth)

    @property
    def learning(self) -> int:
        """Parameters of the student that learn."""
        return sum(weight.numel() for weight in self.student.parameters() if weight.requires_grad)


def shallower(config: PretrainedConfig, depth: int) -> PretrainedConfig:
    """The same with fewer layers; what is listed layer by layer keeps the first."""
    shorter = copy.deepcopy(config)
    settings = text_config(shorter)
    total = settings.num_hidden_layers
    for name, value in list(vars(settings).items()):
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(settings, name, value[:depth])
    settings.num_hidden_layers = depth
    return shorter


def memory_of(recipe: Recipe, *, num_controls: int, program: int | None = None) -> Memory:
    """What each part of a run takes where models run. `program` is what Python and its libraries take by themselves."""
    models = Models(recipe)
    student, learning = parameter_count(models.student), models.learning
    teacher = 0 if models.teacher is None else parameter_count(models.teacher)
    weight = _student_weight(recipe.student.lora)
    rows, row_tokens = recipe.training.rows_per_micro_batch, recipe.data.sequence_tokens
    frozen = student - learning
    parts = {
        PROGRAM: program_bytes() if program is None else program,
        "teacher's weights": teacher * NUMBER,
        "student's weights": round(frozen * weight + learning * NUMBER),
        "gradients": learning * NUMBER,
        "optimizer": learning * MOMENTS,
        "activations": saved_bytes(
            models.student, rows=rows, row_tokens=row_tokens, recomputes=recipe.training.gradient_checkpointing
        ),
        "the loss": LOSS_ROOM if recipe.task in ("causal_lm", "masked_lm") else 0,
        "controls and start": (1 + num_controls) * (student - (learning if weight < NUMBER else 0)) * NUMBER,
    }
    hosted = _hosted_bytes(recipe, models)
    models_held = (PROGRAM, "teacher's weights", "student's weights", "controls and start")
    learning_too = tuple(name for name in parts if name != "controls and start")
    moments = {"training": learning_too, "measuring": models_held}
    if hosted:  # which ends before the student learns
        parts[HOSTED] = hosted
        moments[BEFOREHAND] = (PROGRAM, HOSTED)
    return Memory(parts, moments)


def _hosted_bytes(recipe: Recipe, models: Models) -> int:
    """Weights, keys and values where vLLM runs the teacher; on a GPU it fills its share of it."""
    teacher = recipe.teacher
    if not is_hosted(teacher) or models.teacher is None:
        return 0
    if torch.cuda.is_available():
        return round(torch.cuda.mem_get_info()[1] * TEACHER_SHARE)
    dtype = torch.bfloat16 if teacher.precision == "bfloat16" else torch.float32
    weights = parameter_count(models.teacher) * dtype.itemsize
    return weights + teacher_cache_bytes(models.teacher.config, dtype)


def _student_weight(lora: LoraConfig | None) -> float:
    """Bytes of a frozen weight."""
    return 0.5 if lora is not None and lora.quantize == "4bit" else float(NUMBER)


def disk_of(recipe: Recipe, *, num_controls: int, learnt_tokens: int, label_bytes: float | None) -> dict[str, int]:
    """Bytes of each part of the run folder, at its largest; `label_bytes` a token where they were measured."""
    models = Models(recipe)
    student, learning = parameter_count(models.student), models.learning
    found = {
        "student, start and controls": (2 + num_controls) * student * NUMBER,
        "checkpoints": CHECKPOINTS * learning * (NUMBER + MOMENTS),
    }
    if recipe.labels is not None:
        per_token = label_bytes if label_bytes is not None else bytes_per_token(recipe.labels, models)
        found["labels"] = round(per_token * learnt_tokens)
        if recipe.labels.signal in ("last_hidden", "hidden_states") and models.teacher is not None:
            settings = text_config(models.teacher)
            found["labels"] += int(settings.vocab_size) * int(settings.hidden_size) * NUMBER
    return found


def bytes_per_token(labels: LabelsConfig, models: Models) -> float:
    """Of stored labels, where none have been made yet."""
    if isinstance(labels, SparseConfig):
        return SPARSE_BYTES
    if isinstance(labels, SampledConfig):
        return SAMPLED_BYTES * labels.draws / 50
    width = text_config(models.teacher or models.student).hidden_size
    return float(width * labels.bits / 8)


def savings_of(recipe: Recipe) -> list[list[str]]:
    """What can be changed to need less memory, each kind from little to much."""
    kept = recipe.student.keep if isinstance(recipe.student, FromLayersConfig) else 0
    adapters = ["student.lora={rank: 16}"] if recipe.student.lora is None and recipe.task == "causal_lm" else []
    return [
        divided("training.rows_per_micro_batch", recipe.training.rows_per_micro_batch),
        adapters,
        halved("data.sequence_tokens", recipe.data.sequence_tokens, least=64),
        halved("student.keep", kept, least=1, times=2) if isinstance(kept, int) else [],
        ["evaluation.control=none"] if recipe.control != "none" else [],
    ]
