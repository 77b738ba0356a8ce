"""The student of a recipe: made, saved, loaded, and as it starts to learn."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from stillhouse.commands.parts.parts import Parts
from stillhouse.core.batch import Batch, as_batch
from stillhouse.core.files import atomic_path
from stillhouse.core.results import Role
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.models.adapters import load_adapter, save_adapter
from stillhouse.models.load import LABELLED_TASKS, load_in_4_bits, load_model, load_student
from stillhouse.students.build import student_alone, student_from_config, student_from_layers
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig
from stillhouse.students.distilbert import distilbert_from_layers
from stillhouse.students.layer_choice import LayerChoice, choose_layers
from stillhouse.students.lora import add_adapter
from stillhouse.students.save import save_student


def new_student(parts: Parts) -> tuple[PreTrainedModel, LayerChoice | None]:
    """The student before training, and how its layers were chosen."""
    seed = parts.recipe.training.seed
    match parts.recipe.student:
        case FromLayersConfig() as wanted:
            teacher = parts.teacher.model
            batch = calibration_batch(parts, wanted.calibration_tokens)
            choice = choose_layers(teacher, batch, keep=wanted.keep, method=wanted.choose, progress=parts.progress)
            make = distilbert_from_layers if wanted.architecture == "distilbert" else student_from_layers
            return make(teacher, choice.kept), choice
        case FromConfigConfig(config=str(config)) as wanted if parts.remote is not None:
            return student_alone(config, tokenizer=parts.tokenizer, seed=seed, changes=wanted.changes), None
        case FromConfigConfig() as wanted:
            teacher = parts.teacher.model
            return student_from_config(teacher, seed=seed, changes=wanted.changes, config=wanted.config), None
        case CheckpointConfig() as wanted:
            return load_student(wanted.model, parts.recipe.task, seed=seed, labels=parts.labels).model, None


def calibration_batch(parts: Parts, num_tokens: int) -> Batch:
    """The first training documents that together have `num_tokens`: of causal text, that many to predict."""
    rows = parts.data.train
    if isinstance(rows, PackedRows):
        counted = ((example, sum(example.weights)) for example in rows.examples)
        return to_batch([[example] for example in _until(counted, num_tokens)])
    documents = (rows[index] for index in range(len(rows)))
    counted = ((document, int(as_batch(rows.collate([document])).real.sum())) for document in documents)
    return as_batch(rows.collate(_until(counted, num_tokens)))


def _until(counted: Iterable[tuple[Any, float]], wanted: float) -> list[Any]:
    """The first members whose counts together are as many as wanted; all if there are fewer."""
    found, total = [], 0.0
    for member, count in counted:
        found.append(member)
        total += count
        if total >= wanted:
            break
    return found


def saved(parts: Parts, role: Role) -> PreTrainedModel:
    """A model that a stage saved."""
    return load_model(str(parts.run.path / role), parts.recipe.task).model


def save(parts: Parts, model: PreTrainedModel, role: Role) -> None:
    """Write a model down: whole, or not at all."""
    with atomic_path(parts.run.path / role) as part:
        save_student(
            model,
            parts.tokenizer,
            part,
            pooling=parts.pooling,
            normalizes=parts.recipe.task == "sentence_embedding" and parts.embedding.normalizes,
            max_tokens=parts.recipe.data.sequence_tokens,
        )


def start(parts: Parts) -> PreTrainedModel:
    """The student before training, with its adapter if the recipe gives it one."""
    wanted = parts.recipe.student.lora
    if wanted is None:
        return saved(parts, "student_before")
    in_4_bits = wanted.quantize == "4bit"
    student = load_in_4_bits(str(parts.run.path / "student_before"), parts.recipe.task) if in_4_bits else None
    return add_adapter(student or saved(parts, "student_before"), wanted, seed=parts.recipe.training.seed)


def in_full(parts: Parts, trained: PreTrainedModel) -> PreTrainedModel:
    """The same student on weights that nothing was taken from: of an adapter that learnt on 4 bits, on the start's own."""
    wanted = parts.recipe.student.lora
    if wanted is None or wanted.quantize == "none":
        return trained
    whole = add_adapter(saved(parts, "student_before"), wanted, seed=parts.recipe.training.seed)
    with TemporaryDirectory() as folder:
        save_adapter(trained, Path(folder))
        load_adapter(whole, Path(folder))
    return whole.eval()


def adapter_base(parts: Parts) -> str:
    """What an adapter was trained on: a checkpoint of the hub if that is all of it, or the student before training."""
    student, is_whole = parts.recipe.student, parts.recipe.task not in LABELLED_TASKS
    on_hub = isinstance(student, CheckpointConfig) and not Path(student.model).expanduser().exists()
    if on_hub and is_whole:
        assert isinstance(student, CheckpointConfig)
        return student.model
    return str(parts.run.path / "student_before")
