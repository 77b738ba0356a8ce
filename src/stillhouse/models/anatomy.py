"""Where a causal language model keeps its parts: layers, head, and what its family does after the head."""

from inspect import signature

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError


def decoder_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration of the language model itself, also inside a multimodal one."""
    return model.config.get_text_config(decoder=True)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of blocks that hidden states pass through, one after another.

    Raises:
        ModelError: if no stack, or more than one, has as many blocks as the configuration says.
    """
    count = decoder_config(model).num_hidden_layers
    stacks = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(block) for block in module}) == 1
    ]
    outermost = [stack for stack in stacks if not any(stack is not other and _holds(other, stack) for other in stacks)]
    if len(outermost) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(outermost)} stacks of {count} equal blocks where one was expected, so its "
            "layers cannot be chosen. Use `student: {kind: checkpoint}` or `{kind: from_config}` for this family."
        )
    return outermost[0]


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())


def layers_prefix(model: PreTrainedModel) -> str:
    """The layers' name in the state dict, such as `model.layers.`."""
    layers = decoder_layers(model)
    return next(f"{name}." for name, module in model.named_modules() if module is layers)


def understood(model: PreTrainedModel, **arguments: object) -> dict[str, object]:
    """Those of the arguments that have a value and that this family's `forward` has a name for."""
    known = signature(model.forward).parameters
    return {name: value for name, value in arguments.items() if value is not None and name in known}


def parameter_count(model: nn.Module, *, embeddings: bool = True) -> int:
    """Parameters, tied ones once; without `embeddings`, those of the token and position tables and the head left out."""
    if embeddings:
        return sum(parameter.numel() for parameter in model.parameters())
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    left_out = {id(p) for module in [*tables, *([head] if head is not None else [])] for p in module.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in left_out)
