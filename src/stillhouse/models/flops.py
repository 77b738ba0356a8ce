"""What reading one token takes, by formula: nothing is run."""

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stillhouse.models.anatomy import head_width, num_heads, num_layers, text_config

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""How configurations name experts, of which a token passes some: the formula below would count all or none of them."""


def forward_flops(model: PreTrainedModel, *, context_tokens: int) -> int | None:
    """Floating point operations to read one token, itself the last of so many: 2 a weight of every matrix that it is multiplied
    by, the head too, and in every layer 4 a token that is attended to and number of the heads together. Looking up an
    embedding takes none, and norms, activations and rotations are left out. None for a model with experts.

    Source: Kaplan et al., 2020, arXiv:2001.08361, table 1, with the head counted.
    """
    config = text_config(model)
    if any(getattr(config, name, None) for name in EXPERTS):
        return None
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
    attended = num_layers(model) * context_tokens * num_heads(config) * head_width(config)
    return 2 * matrices + 4 * attended
