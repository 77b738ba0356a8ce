"""Low-rank adapters inside a model: switched off, written down, read back, and merged into the weights that they change."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.core.files import atomic_path, size_on_disk

ADAPTER = "default"
"""What peft calls a model's only adapter."""

WEIGHTS = "adapter_model.safetensors"
"""The file that holds an adapter's weights, under the name that peft looks for."""

_PREFIX = "base_model.model."
"""What peft puts before the names of weights in its files."""

_Switched = BaseTunerLayer | AuxiliaryTrainingWrapper


def adapter_config(model: nn.Module) -> LoraConfig | None:
    """What peft knows of the adapter that this model carries; None if it carries none."""
    found: dict[str, LoraConfig] = getattr(model, "peft_config", {})
    return found.get(ADAPTER)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within the block, the model answers as if it had no adapter; no weight is copied or changed, and none stops learning."""
    switched = [module for module in model.modules() if isinstance(module, _Switched)]
    before = [module._disable_adapters for module in switched]
    for module in switched:  # peft's own switch, enable_adapters(), would also stop the adapter's gradient
        module._disable_adapters = True
    try:
        yield
    finally:
        for module, was in zip(switched, before, strict=True):
            module._disable_adapters = was


def weight_in_use(layer: nn.Module) -> Float[Tensor, "out in"]:
    """The weight that a linear layer multiplies by, its adapter added where it has one that is on. Gradients reach the adapter
    as they do when peft runs the layer: DoRA's norm gets none.
    """
    weight: Any = layer.weight
    if not isinstance(layer, LoraLayer) or layer.disable_adapters:
        return weight
    lora: Any = layer  # peft's kinds of layer have no type in common that knows these
    for name in lora.active_adapters:
        weight = weight + lora.get_delta_weight(name)
        if name in lora.lora_magnitude_vector:
            norms = torch.linalg.norm(weight, dim=1).detach()
            weight = (lora.lora_magnitude_vector[name].weight / norms)[:, None] * weight
    return weight


def trainable_count(model: nn.Module) -> int:
    """Parameters that learn, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapter's weights as the model holds them, by their names in a file."""
    own = model.state_dict(keep_vars=True)
    weights = get_peft_model_state_dict(model, state_dict=own, adapter_name=ADAPTER, save_embedding_layers=False)
    return {_PREFIX + name: weight for name, weight in weights.items()}


def save_adapter(
    model: PreTrainedModel, folder: Path, *, base: str | None = None, weights: Mapping[str, Tensor] | None = None
) -> int:
    """Write the adapter alone, as `PeftModel.from_pretrained(base_model, folder)` reads it, and return its bytes. `base` is
    what it was trained on: a hub id or a folder. Of a model that holds a part of its weights, all of the adapter's are given.
    """
    config = adapter_config(model)
    assert config is not None, f"{type(model).__name__} carries no adapter"
    config.base_model_name_or_path = base
    folder.mkdir(parents=True, exist_ok=True)
    kept = adapter_weights(model) if weights is None else weights
    with atomic_path(folder / WEIGHTS) as part:
        save_file({name: weight.detach().contiguous() for name, weight in kept.items()}, part, {"format": "pt"})
    config.save_pretrained(str(folder))
    return size_on_disk(folder / WEIGHTS)


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Give the adapter that the model carries the weights that `save_adapter` wrote."""
    weights = {name.removeprefix(_PREFIX): weight for name, weight in load_file(folder / WEIGHTS).items()}
    found: Any = set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)
    assert not found.unexpected_keys, f"{folder} holds another adapter: {found.unexpected_keys}"


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter to the weights that it changes and take it out: what is left is a plain model, the same one."""
    _untie(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[ADAPTER])
    del model.peft_config
    return model.requires_grad_(True)


def _untie(model: PreTrainedModel) -> None:
    """Let embeddings and head part where an adapter changes one of them: they are no longer the same numbers."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    if any(isinstance(layer, LoraLayer) for layer in (head, embeddings)):
        wrapped: Any = head
        inner = wrapped.get_base_layer() if isinstance(head, LoraLayer) else wrapped
        inner.weight = nn.Parameter(inner.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.config.get_text_config(decoder=True).tie_word_embeddings = False
