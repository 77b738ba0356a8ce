"""What a recipe can say about the student."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from stillhouse.core.config import Config
from stillhouse.students.layer_choice import LayerMethod


class FromLayersConfig(Config):
    """Some of the teacher's own layers, with its embeddings and head."""

    kind: Literal["from_layers"] = "from_layers"
    keep: PositiveInt | tuple[NonNegativeInt, ...]
    """How many layers, or which: the first is 0."""
    choose: LayerMethod = "greedy"
    """How to choose them where `keep` is a number."""
    architecture: Literal["teacher", "distilbert"] = "teacher"
    """The teacher's, or DistilBERT's for a BERT: without token types and pooler."""
    freeze_position_embeddings: bool = False
    """Leave the positions as the teacher learnt them, as DistilBERT did."""
    calibration_tokens: PositiveInt = 256
    """Tokens of the training text on which choices are measured. More is slower and seldom changes the choice."""


class FromConfigConfig(Config):
    """Random weights: the teacher's architecture with changes, or another one that shares its tokenizer."""

    kind: Literal["from_config"] = "from_config"
    config: str | None = None
    """A hub id or folder with a config.json; without one, the teacher's."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings to change, such as `{num_hidden_layers: 6, hidden_size: 256}`."""


class CheckpointConfig(Config):
    """Any model that has the teacher's tokenizer, or for objectives across tokenizers its own; for classification, its head may
    be missing."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: str
    """A hub id, a folder, or a GGUF file."""


StudentConfig = Annotated[FromLayersConfig | FromConfigConfig | CheckpointConfig, Field(discriminator="kind")]
