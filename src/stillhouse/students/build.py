"""Make a student: a plain Hugging Face model, whatever it was made from."""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import decoder_config, decoder_layers, layers_prefix
from stillhouse.models.load import load_config
from stillhouse.students.skipping import only


def student_from_layers(teacher: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A model of the teacher's family with only the layers `kept`, every weight copied bit for bit.

    Raises:
        ModelError: if the family's layers depend on their number or on each other, so that the rest do not make a model
            that says what the teacher says without the others.
    """
    prefix = layers_prefix(teacher)
    student = AutoModelForCausalLM.from_config(_shortened(teacher, kept), dtype=teacher.dtype)
    weights = {
        new: value for name, value in teacher.state_dict().items() if (new := _renamed(name, prefix, kept)) is not None
    }
    try:
        student.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ModelError(_dependent(teacher, "their weights differ in kind")) from error
    student.generation_config = copy.deepcopy(teacher.generation_config)
    _check_like_teacher_without_the_others(student.eval(), teacher, kept)
    return student


@torch.no_grad()
def _check_like_teacher_without_the_others(
    student: PreTrainedModel, teacher: PreTrainedModel, kept: Sequence[int]
) -> None:
    """Whatever a family does with the number of a layer shows in a few tokens."""
    ids = _few_ids(teacher)
    try:
        with only(decoder_layers(teacher), kept):
            expected = teacher(input_ids=ids, use_cache=False).logits.float()
    except (TypeError, ValueError) as error:
        raise ModelError(_dependent(teacher, "they hand on more than hidden states")) from error
    found = student(input_ids=ids, use_cache=False).logits.float()
    tolerance = 1e-3 if teacher.dtype.itemsize >= 4 else 5e-2  # of the largest logit
    if (found - expected).abs().max() > tolerance * expected.abs().max():
        raise ModelError(_dependent(teacher, "moved to another place they act differently"))


def _few_ids(model: PreTrainedModel) -> Int[Tensor, "1 seq"]:
    """Something to run a model on."""
    return torch.arange(8, device=model.device)[None] % decoder_config(model).vocab_size


def _dependent(teacher: PreTrainedModel, how: str) -> str:
    return (
        f"the layers of {type(teacher).__name__} depend on their number or on each other ({how}), so none can be left out. "
        "Use `student: {kind: checkpoint}` or `{kind: from_config}`."
    )


def _shortened(teacher: PreTrainedModel, kept: Sequence[int]) -> PretrainedConfig:
    """The teacher's configuration for the layers kept; per-layer lists keep only those layers' entries."""
    _refuse_dependent_layers(teacher)
    config = copy.deepcopy(teacher.config)
    decoder, total = config.get_text_config(decoder=True), decoder_config(teacher).num_hidden_layers
    for name, value in list(vars(decoder).items()):
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(decoder, name, [value[layer] for layer in kept])
    decoder.num_hidden_layers = len(kept)
    return config


def _refuse_dependent_layers(teacher: PreTrainedModel) -> None:
    config = decoder_config(teacher)
    for name in ("num_kv_shared_layers", "scale_attn_by_inverse_layer_idx", "cross_layer_attention"):
        if getattr(config, name, None):
            raise ModelError(_dependent(teacher, f"{name} is {getattr(config, name)}"))


def _renamed(name: str, prefix: str, kept: Sequence[int]) -> str | None:
    """The name of this weight in the student; None if its layer is not kept."""
    match = re.match(re.escape(prefix) + r"(\d+)\.(.*)", name)
    if match is None:
        return name
    layer = int(match[1])
    return f"{prefix}{list(kept).index(layer)}.{match[2]}" if layer in kept else None


def student_from_config(
    teacher: PreTrainedModel, *, seed: int, changes: dict[str, Any] | None = None, config: str | None = None
) -> PreTrainedModel:
    """A model with random weights: the teacher's configuration, or the one at `config`, with `changes`.

    Raises:
        ModelError: if the configuration cannot be read, does not know a name in `changes`, or does not fit together.
    """
    settings = changed_config(load_config(config) if config else teacher.config, changes or {})
    torch.manual_seed(seed)
    try:
        student = _with_random_weights(settings, like=teacher)
        with torch.no_grad():
            student(input_ids=_few_ids(student), use_cache=False)  # some misfits only show when it runs
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"student.changes {changes} do not fit together: {str(error).splitlines()[0]}") from error
    return student


def changed_config(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig:
    """A copy of a configuration with some of its language model's settings changed.

    Raises:
        ModelError: for a setting that it does not have, or a value that it cannot have.
    """
    whole = copy.deepcopy(config)
    settings = whole.get_text_config(decoder=True)
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
    """A model that ends its texts with the same tokens as another, and has the same precision."""
    model = AutoModelForCausalLM.from_config(config, dtype=like.dtype).eval()
    model.generation_config = copy.deepcopy(like.generation_config)
    return model
