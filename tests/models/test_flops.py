"""FLOPs by formula are those that torch counts while it runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.models.flops import forward_flops


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_is_what_torch_counts(build_model, family, tied):
    """Torch counts every token as if it attended to all: each is then the last of them."""
    model, tokens = build_model(family, layers=3, tie_word_embeddings=tied), 24
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    assert tokens * forward_flops(model, context_tokens=tokens) == counter.get_total_flops()


def test_of_experts_nothing_is_said(build_model):
    assert forward_flops(build_model("gpt_oss"), context_tokens=8) is None


def test_fewer_layers_take_less(build_model):
    few, many = (forward_flops(build_model(layers=count), context_tokens=64) for count in (2, 4))
    assert few < many
