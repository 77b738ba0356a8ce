"""Make a student: a plain Hugging Face model, whatever it was made from."""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import few_ids, layers_prefix, num_layers, task_of, text_config, understood
from stillhouse.models.labels import labels_of, name_labels
from stillhouse.models.load import LABELLED_TASKS, load_config, untrained
from stillhouse.students.skipping import only


def student_from_layers(teacher: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A model of the teacher's family and task with only the layers `kept`, every weight copied bit for bit: embeddings
    and head too. A pooler is copied where the head reads it, and left out of a model that gives embeddings.

    Raises:
        ModelError: if the family's layers depend on their number or on each other, so that the rest do not make a model
            that says what the teacher says without the others.
    """
    prefix = layers_prefix(teacher)
    student = untrained(_shortened(teacher, kept), task_of(teacher), dtype=teacher.dtype)
    named = ((renamed(name, prefix, kept), value) for name, value in teacher.state_dict().items())
    weights = {name: value for name, value in named if name is not None}
    try:
        student.load_state_dict(_without_unused_pooler(weights, student), strict=True)
    except RuntimeError as error:
        raise ModelError(_dependent(teacher, "their weights differ in kind")) from error
    _end_texts_like(student, teacher)
    check_like_teacher_without_the_others(student, teacher, kept)
    return student


def _without_unused_pooler(weights: dict[str, Tensor], student: PreTrainedModel) -> dict[str, Tensor]:
    has_pooler = any(name.startswith("pooler.") for name in student.state_dict())
    return {name: value for name, value in weights.items() if has_pooler or not name.startswith("pooler.")}


@torch.no_grad()
def check_like_teacher_without_the_others(
    student: PreTrainedModel, teacher: PreTrainedModel, kept: Sequence[int]
) -> None:
    """Refuse a student that does not say what its teacher says with these layers alone. Whatever a family does with the
    number of a layer shows in a few tokens.

    Raises:
        ModelError: if their answers differ.
    """
    try:
        with only(teacher, kept):
            expected = _answer(teacher)
    except (TypeError, ValueError, IndexError) as error:
        raise ModelError(_dependent(teacher, "they hand on more than hidden states")) from error
    tolerance = 1e-3 if teacher.dtype.itemsize >= 4 else 5e-2  # of the largest number
    if (_answer(student) - expected).abs().max() > tolerance * expected.abs().max():
        raise ModelError(_dependent(teacher, "moved to another place they act differently"))


def _answer(model: PreTrainedModel) -> Float[Tensor, "..."]:
    """The logits for a few tokens, or the hidden states of a model that has no head."""
    output = model(input_ids=few_ids(model), **understood(model, use_cache=False))
    answer: Tensor = output.last_hidden_state if task_of(model) == "sentence_embedding" else output.logits
    return answer.float().cpu()


def _dependent(teacher: PreTrainedModel, how: str) -> str:
    return (
        f"the layers of {type(teacher).__name__} depend on their number or on each other ({how}), so none can be left out. "
        "Use `student: {kind: checkpoint}` or `{kind: from_config}`."
    )


def _shortened(teacher: PreTrainedModel, kept: Sequence[int]) -> PretrainedConfig:
    """The teacher's configuration for the layers kept; per-layer lists keep only those layers' entries."""
    _refuse_dependent_layers(teacher)
    config = copy.deepcopy(teacher.config)
    settings, total = text_config(config), num_layers(teacher)
    for name, value in list(vars(settings).items()):
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(settings, name, [value[layer] for layer in kept])
    settings.num_hidden_layers = len(kept)
    return config


def _refuse_dependent_layers(teacher: PreTrainedModel) -> None:
    config = text_config(teacher)
    for name in ("num_kv_shared_layers", "scale_attn_by_inverse_layer_idx", "cross_layer_attention"):
        if getattr(config, name, None):
            raise ModelError(_dependent(teacher, f"{name} is {getattr(config, name)}"))


def renamed(name: str, prefix: str, kept: Sequence[int]) -> str | None:
    """The name of this weight in the student; None if its layer is not kept."""
    match = re.match(re.escape(prefix) + r"(\d+)\.(.*)", name)
    if match is None:
        return name
    layer = int(match[1])
    return f"{prefix}{list(kept).index(layer)}.{match[2]}" if layer in kept else None


def student_from_config(
    teacher: PreTrainedModel, *, seed: int, changes: dict[str, Any] | None = None, config: str | None = None
) -> PreTrainedModel:
    """A model with random weights for the teacher's task: the teacher's configuration, or the one at `config`, with
    `changes`. What a classifier calls its answers is the teacher's in any case.

    Raises:
        ModelError: if the configuration cannot be read, does not know a name in `changes`, or does not fit together.
    """
    settings = changed_config(load_config(config) if config else teacher.config, changes or {})
    if task_of(teacher) in LABELLED_TASKS:
        _answer_like(settings, teacher.config)
    torch.manual_seed(seed)
    try:
        student = _with_random_weights(settings, like=teacher)
        with torch.no_grad():
            _answer(student)  # some misfits only show when it runs
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"student.changes {changes} do not fit together: {str(error).splitlines()[0]}") from error
    return student


def student_alone(
    config: str, *, tokenizer: PreTrainedTokenizerBase, seed: int, changes: dict[str, Any] | None = None
) -> PreTrainedModel:
    """A causal language model with random weights that has no teacher here to be like: the configuration at `config`, with
    `changes`, for this tokenizer.

    Raises:
        ModelError: as `student_from_config`.
    """
    settings = changed_config(load_config(config), changes or {})
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text_config(settings), name, getattr(tokenizer, name))
    torch.manual_seed(seed)
    try:
        student = untrained(settings, "causal_lm", dtype=torch.float32)
        with torch.no_grad():
            _answer(student)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"student.changes {changes} do not fit together: {str(error).splitlines()[0]}") from error
    return student


def _answer_like(settings: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Let a configuration give as many answers as the teacher's, by the same names, to texts that end at the same token."""
    name_labels(settings, labels_of(teacher))
    settings.problem_type = teacher.problem_type
    text_config(settings).pad_token_id = text_config(teacher).pad_token_id


def changed_config(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig:
    """A copy of a configuration with some of its language model's settings changed.

    Raises:
        ModelError: for a setting that it does not have, or a value that it cannot have.
    """
    whole = copy.deepcopy(config)
    settings = text_config(whole)
    try:
        _apply(changes, settings)
        settings.validate()
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"student.changes {dict(changes)} do not fit together: {reason}") from error
    return whole


def _is_setting(name: str, settings: PretrainedConfig) -> bool:
    known = hasattr(settings, name) and not callable(getattr(settings, name))
    return known and name != "model_type" and not name.startswith("_")


def _apply(changes: Mapping[str, Any], settings: PretrainedConfig) -> None:
    for name, value in changes.items():
        if not _is_setting(name, settings):
            raise ModelError(f"student.changes.{name} is no setting of {type(settings).__name__}.")
        setattr(settings, name, value)
    for name in ("num_hidden_layers", "hidden_size"):
        if getattr(settings, name) < 1:
            raise ModelError(f"student.changes.{name} is {getattr(settings, name)}. Give it at least 1.")
    per_layer = [name for name, value in vars(settings).items() if isinstance(value, list) and "layer_types" in name]
    for name in per_layer:  # sliding and full attention alternate in a pattern that the layers before show
        if name not in changes:
            pattern = itertools.cycle(getattr(settings, name))
            setattr(settings, name, list(itertools.islice(pattern, settings.num_hidden_layers)))


def randomised(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """The same architecture with fresh random weights."""
    torch.manual_seed(seed)
    return _with_random_weights(copy.deepcopy(model.config), like=model)


def _with_random_weights(config: PretrainedConfig, *, like: PreTrainedModel) -> PreTrainedModel:
    """A model that has another's task and precision, and ends its texts with the same tokens."""
    model = untrained(config, task_of(like), dtype=like.dtype)
    _end_texts_like(model, like)
    return model


def _end_texts_like(model: PreTrainedModel, other: PreTrainedModel) -> None:
    if other.can_generate():
        model.generation_config = copy.deepcopy(other.generation_config)
