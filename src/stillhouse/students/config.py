"""What a recipe can say about the student."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from stillhouse.core.config import Config
from stillhouse.students.layer_choice import LayerMethod

ALL_LINEAR: Literal["all-linear"] = "all-linear"
"""Every linear layer but the head."""


class LoraConfig(Config):
    """A low-rank adapter: the only part of the student that learns."""

    rank: PositiveInt = 16
    """How many directions each layer's change has: twice as many take twice the room."""
    alpha: PositiveFloat = 32.0
    """The change is multiplied by `alpha / rank`, or by `alpha / sqrt(rank)` with `rslora`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that are left out in training."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = ALL_LINEAR
    """Which layers get one: `all-linear` is every one but the head; or names of layers, such as `[q_proj, v_proj]`."""
    dora: bool = False
    """Learn each layer's direction and length apart: better at low ranks, and slower."""
    rslora: bool = False
    """Scale by the root of the rank, so that high ranks learn as fast as low ones."""
    quantize: Literal["none", "4bit"] = "none"
    """Keep the frozen weights in 4 bits while the adapter learns (QLoRA); needs bitsandbytes."""


class _Adaptable(Config):
    lora: LoraConfig | None = None
    """Where it is given, only a low-rank adapter learns."""


class FromLayersConfig(_Adaptable):
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


class FromConfigConfig(_Adaptable):
    """Random weights: the teacher's architecture with changes, or another one that shares its tokenizer."""

    kind: Literal["from_config"] = "from_config"
    config: str | None = None
    """A hub id or folder with a config.json; without one, the teacher's."""
    tokenizer: str | None = None
    """Of a teacher that is not loaded here, behind an API: where the student's tokenizer is, if not beside its `config`."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings to change, such as `{num_hidden_layers: 6, hidden_size: 256}`."""


class CheckpointConfig(_Adaptable):
    """Any model that has the teacher's tokenizer, or for objectives across tokenizers its own; for classification, its head may
    be missing."""

    kind: Literal["checkpoint"] = "checkpoint"
    model: str
    """A hub id, a folder, or a GGUF file."""


StudentConfig = Annotated[FromLayersConfig | FromConfigConfig | CheckpointConfig, Field(discriminator="kind")]
