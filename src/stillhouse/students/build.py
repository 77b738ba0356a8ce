"""Make a student: a plain Hugging Face model, whatever it was made from."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import decoder_config, layers_prefix


def student_from_layers(teacher: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A model of the teacher's family with only the layers `kept`, every weight copied bit for bit.

    Raises:
        ModelError: if the family's layers depend on their number or share weights, so that leaving some out would change
            the others.
    """
    prefix = layers_prefix(teacher)
    student = AutoModelForCausalLM.from_config(_shortened(teacher, kept), dtype=teacher.dtype)
    weights = {
        new: value for name, value in teacher.state_dict().items() if (new := _renamed(name, prefix, kept)) is not None
    }
    student.load_state_dict(weights, strict=True)
    student.tie_weights()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()


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
            raise ModelError(
                f"this teacher's layers depend on each other ({name} is {getattr(config, name)}), so none can be left out. "
                "Use `student: {kind: checkpoint}` or `{kind: from_config}`."
            )


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
    """A model with random weights: the teacher's configuration with `changes`, or the configuration at `config`.

    Raises:
        ModelError: if the configuration cannot be read, does not know a name in `changes`, or does not fit together.
    """
    try:
        settings = AutoConfig.from_pretrained(config) if config else copy.deepcopy(teacher.config)
    except (OSError, ValueError) as error:
        raise ModelError(f"student.config {config!r} cannot be read: {str(error).splitlines()[0]}") from error
    _apply_changes(settings.get_text_config(decoder=True), changes or {})
    torch.manual_seed(seed)
    try:
        return AutoModelForCausalLM.from_config(settings, dtype=teacher.dtype).eval()
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(f"student.changes {changes} do not fit together: {str(error).splitlines()[0]}") from error


def _apply_changes(settings: PretrainedConfig, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if not hasattr(settings, name):
            raise ModelError(f"student.changes.{name} is no setting of {type(settings).__name__}.")
        setattr(settings, name, value)
    per_layer = [name for name, value in vars(settings).items() if isinstance(value, list) and "layer_types" in name]
    for name in per_layer:  # sliding and full attention alternate in a pattern that the first layers show
        setattr(settings, name, getattr(settings, name)[: settings.num_hidden_layers])


def randomised(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """The same architecture with fresh random weights."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=model.dtype).eval()
