"""Where a model keeps its parts, whatever its family and head: its task, its layers, its parameters."""

from inspect import signature

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.core.task import Task

TASK_OF_CLASS: dict[str, Task] = {
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
}
"""What a model's class is called at the end, where that says what it is asked for."""


def task_of(model: PreTrainedModel) -> Task:
    """What this model answers, told by its class: a bare body gives embeddings, an unknown head predicts next tokens."""
    if model.base_model is model:
        return "sentence_embedding"
    tasks = [task for end, task in TASK_OF_CLASS.items() if type(model).__name__.endswith(end)]
    if tasks == ["sequence_classification"] and model.config.problem_type == "regression":
        return "regression"
    return tasks[0] if tasks else "causal_lm"


def text_config(owner: PreTrainedModel | PretrainedConfig) -> PretrainedConfig:
    """The configuration of the language model itself, also inside a multimodal one."""
    config = owner.config if isinstance(owner, PreTrainedModel) else owner
    return config.get_text_config(decoder=True)


def num_layers(owner: PreTrainedModel | PretrainedConfig) -> int:
    """Blocks that hidden states pass through: the number of the last layer, as layer 0 is the embeddings."""
    return int(text_config(owner).num_hidden_layers)


def num_heads(config: PretrainedConfig) -> int:
    """Attention heads of a layer."""
    return int(text_config(config).num_attention_heads)


def num_key_heads(config: PretrainedConfig) -> int:
    """Heads of keys and values: fewer where several queries share one."""
    return int(getattr(text_config(config), "num_key_value_heads", None) or num_heads(config))


def head_width(config: PretrainedConfig) -> int:
    """Numbers that one head has a token."""
    settings = text_config(config)
    return int(getattr(settings, "head_dim", None) or settings.hidden_size // num_heads(config))


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of blocks that hidden states pass through, one after another.

    Raises:
        ModelError: if no stack, or more than one, has as many blocks as the configuration says.
    """
    count = num_layers(model)
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
    """The layers' name in the state dict, such as `model.layers.` or `bert.encoder.layer.`."""
    layers = layers_of(model)
    return next(f"{name}." for name, module in model.named_modules() if module is layers)


def understood(model: PreTrainedModel, **arguments: object) -> dict[str, object]:
    """Those of the arguments that have a value and that this family's `forward` has a name for."""
    known = signature(model.forward).parameters
    return {name: value for name, value in arguments.items() if value is not None and name in known}


COUNT_FROM_PADDING = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet"),
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Families that number positions from the padding token's id on, and so read fewer tokens than they have positions."""


def most_tokens(owner: PreTrainedModel | PretrainedConfig) -> int | None:
    """The longest text that a model has positions for; None if there is no such bound."""
    config = text_config(owner)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or config.model_type not in COUNT_FROM_PADDING:
        return positions
    return int(positions) - config.pad_token_id - 1


def few_ids(model: PreTrainedModel) -> Int[Tensor, "1 seq"]:
    """Something to run a model on."""
    return torch.arange(8, device=model.device)[None] % text_config(model).vocab_size


def parameter_count(model: nn.Module, *, embeddings: bool = True) -> int:
    """Parameters, tied ones once; without `embeddings`, those of the token and position tables and the head left out."""
    if embeddings:
        return sum(parameter.numel() for parameter in model.parameters())
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    left_out = {id(p) for module in [*tables, *([head] if head is not None else [])] for p in module.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in left_out)


def multiplied_parameters(model: PreTrainedModel) -> int:
    """Parameters that every token is multiplied with: those outside the tables of tokens and positions, and the head's, even
    where it is one of these tables."""
    head = model.get_output_embeddings()
    inner = parameter_count(model, embeddings=False)
    return inner if head is None else inner + int(head.weight.numel())
