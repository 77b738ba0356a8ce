"""Students by size: small models of Llama's architecture, from a table, with random weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.errors import ModelError

Size = Literal["1M", "3M", "8M", "15M", "28M"]

REFERENCE_VOCABULARY = 2048
"""Tokens with which the sizes have their names."""


@dataclass(frozen=True)
class Shape:
    """What a size is made of. Embedding and head are one matrix."""

    layers: int
    hidden: int
    intermediate: int
    heads: int

    def parameters(self, vocabulary: int = REFERENCE_VOCABULARY) -> int:
        """How many numbers such a model has, exactly."""
        attention, feed_forward, norms = 4 * self.hidden**2, 3 * self.hidden * self.intermediate, 2 * self.hidden
        return vocabulary * self.hidden + self.layers * (attention + feed_forward + norms) + self.hidden


SIZES: Mapping[Size, Shape] = {
    "1M": Shape(layers=4, hidden=128, intermediate=344, heads=4),
    "3M": Shape(layers=6, hidden=192, intermediate=512, heads=6),
    "8M": Shape(layers=6, hidden=320, intermediate=832, heads=5),
    "15M": Shape(layers=8, hidden=384, intermediate=1024, heads=6),
    "28M": Shape(layers=8, hidden=512, intermediate=1536, heads=8),
}
"""With the vocabulary of reference: 1,053,824, 3,049,920, 7,909,440, 14,948,736 and 28,320,256 parameters."""


def student_of_size(
    size: Size,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int = 512,
    seed: int = 0,
    embeddings: Float[Tensor, "vocab width"] | None = None,
) -> PreTrainedModel:
    """A model of that size for this tokenizer, with random weights. With a teacher's `embeddings` of the same tokens, its own
    begin as their principal components."""
    config = config_of_size(size, vocabulary=len(tokenizer), max_tokens=max_tokens)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    torch.manual_seed(seed)
    student = LlamaForCausalLM(config).eval()
    if embeddings is not None:
        narrow = narrowed(embeddings.float(), config.hidden_size) * config.initializer_range
        student.get_input_embeddings().weight.data.copy_(narrow)
    return student


def config_of_size(size: Size, *, vocabulary: int, max_tokens: int) -> LlamaConfig:
    """What a model of that size is made of."""
    shape = SIZES[size]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        pad_token_id=None,  # a row that pads learns nothing as an input, and here it would be the one that begins texts
    )


@torch.no_grad()
def narrowed(rows: Float[Tensor, "vocab wide"], width: int) -> Float[Tensor, "vocab narrow"]:
    """The `width` principal components of rows, with a standard deviation of 1, turned at random so that no column holds more
    than another: scalar products between rows are kept as well as that width can, up to one factor.

    Raises:
        ModelError: if rows have fewer numbers than that.
    """
    if rows.shape[1] < width:
        raise ModelError(
            f"student.embeddings is teacher, but the teacher's have {rows.shape[1]} numbers a token, and the student's are to "
            f"have {width}. Choose a smaller student.size, or leave embeddings out."
        )
    left, strength, _ = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    turn, _ = torch.linalg.qr(torch.randn(width, width, dtype=rows.dtype, device=rows.device))
    narrow = left[:, :width] * strength[:width] @ turn
    return narrow / narrow.std()
