"""What a recipe can say about stored labels."""

from typing import Literal

from pydantic import PositiveInt

from stillhouse.core.config import Config


class LabelsConfig(Config):
    """Run the teacher over the training text once and keep what it said."""

    signal: Literal["last_hidden"] = "last_hidden"
    """Last hidden states in float16, from which logits are rebuilt at any temperature."""
    shard_tokens: PositiveInt = 16_384
    """A kill costs at most this many tokens of labelling."""
