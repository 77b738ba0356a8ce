"""Memory and disk of a recipe's parts, by the shapes of its models: no weight is read."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.commands.checks import student_config, student_depth
from stillhouse.commands.recipe import Recipe
from stillhouse.core.config import parse_recipe, with_overrides
from stillhouse.core.errors import StillhouseError
from stillhouse.core.room import peak_bytes
from stillhouse.labelling.config import LabelsConfig, SampledConfig, SparseConfig
from stillhouse.models.anatomy import parameter_count, text_config
from stillhouse.models.footprint import saved_bytes
from stillhouse.models.load import load_config, untrained, without_weights
from stillhouse.students.build import changed_config
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig, LoraConfig
from stillhouse.students.distilbert import distilbert_config
from stillhouse.students.lora import add_adapter
from stillhouse.teachers import RemoteTeacherConfig, SelfTeacherConfig

NUMBER, MOMENTS = 4, 8
"""Bytes of a parameter in float32, as everything is loaded, and of the two that AdamW keeps of each that learns."""

LOSS_ROOM = 64 * 2**20
"""What the kernels of the losses stay under: `kernels/chunked.py`."""

SPARSE_BYTES, SAMPLED_BYTES = 80.0, 30.0
"""A token of text, as `benchmarks/labels.py` measured at the defaults: docs/memory-and-speed.md."""

CHECKPOINTS = 3
"""Two are kept, and a third is written before the oldest goes."""


@dataclass(frozen=True)
class Memory:
    """Bytes of each part, and which of them are there at once."""

    parts: Mapping[str, int]

    @property
    def training(self) -> int:
        """While the student learns: all but what only measuring holds."""
        return sum(size for name, size in self.parts.items() if name not in ("controls and start",))

    @property
    def measuring(self) -> int:
        """While everyone is measured: all models, and nothing that learns."""
        held = ("program and data", "teacher's weights", "student's weights", "controls and start")
        return sum(self.parts.get(name, 0) for name in held)

    @property
    def most(self) -> int:
        """Of the two, the larger."""
        return max(self.training, self.measuring)


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
        return _shallower(teacher, depth)

    @property
    def learning(self) -> int:
        """Parameters of the student that learn."""
        return sum(weight.numel() for weight in self.student.parameters() if weight.requires_grad)


def _shallower(config: PretrainedConfig, depth: int) -> PretrainedConfig:
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
        "program and data": _program_bytes() if program is None else program,
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
    return Memory(parts)


def _student_weight(lora: LoraConfig | None) -> float:
    """Bytes of a frozen weight."""
    return 0.5 if lora is not None and lora.quantize == "4bit" else float(NUMBER)


def _program_bytes() -> int:
    """What this process holds now: Python and its libraries, and no model. Nothing of it is on a GPU."""
    return 0 if torch.cuda.is_available() else peak_bytes()


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


@dataclass(frozen=True)
class Change:
    """Keys of a recipe with other values, and the memory that it then takes."""

    overrides: tuple[str, ...]
    memory: int


Needs = Callable[[Recipe], int]
"""Bytes that a recipe takes at most at once."""


def changes_that_fit(recipe: Recipe, *, room: int, needs: Needs, most: int = 3) -> list[Change]:
    """Up to three changes with which a recipe needs no more than there is room for: each by itself, or, where none is enough,
    all that help, together."""
    found = [Change((text,), needs(changed)) for text, changed in _candidates(recipe, room=room, needs=needs)]
    alone = [change for change in found if change.memory <= room]
    if alone:
        return alone[:most]
    together, overrides = recipe, list[str]()
    before = needs(recipe)
    for text, _ in _candidates(recipe, room=room, needs=needs):
        changed = with_override(together, text)
        if (after := needs(changed)) < before:
            together, before = changed, after
            overrides.append(text)
        if before <= room or len(overrides) == most:
            break
    return [Change(tuple(overrides), before)] if overrides else []


def _candidates(recipe: Recipe, *, room: int, needs: Needs) -> Iterator[tuple[str, Recipe]]:
    """Each change of its kind, as far as it must go to fit, or as it can."""
    rows, row_tokens = recipe.training.rows_per_micro_batch, recipe.data.sequence_tokens
    fewer = [f"training.rows_per_micro_batch={n}" for n in range(rows - 1, 0, -1) if rows % n == 0]
    shorter = [f"data.sequence_tokens={row_tokens // 2**power}" for power in (1, 2, 3) if row_tokens // 2**power >= 64]
    kept = recipe.student.keep if isinstance(recipe.student, FromLayersConfig) else 0
    depth = kept if isinstance(kept, int) else 0
    shallower = [f"student.keep={depth // 2**power}" for power in (1, 2) if depth // 2**power >= 1]
    adapters = ["student.lora={rank: 16}"] if recipe.student.lora is None and recipe.task == "causal_lm" else []
    controls = ["evaluation.control=none"] if recipe.control != "none" else []
    for kind in (fewer, adapters, shorter, shallower, controls):
        tried = [(text, changed) for text in kind if (changed := _possible(recipe, text)) is not None]
        fits = [one for one in tried if needs(one[1]) <= room]
        yield from fits[:1] or tried[-1:]


def _possible(recipe: Recipe, override: str) -> Recipe | None:
    try:
        return with_override(recipe, override)
    except StillhouseError:
        return None


def with_override(recipe: Recipe, override: str) -> Recipe:
    """The same recipe with one key changed, as on the command line."""
    return parse_recipe(Recipe, with_overrides(recipe.model_dump(mode="json"), [override]))
