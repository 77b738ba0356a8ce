"""What a recipe can say about text that the teacher writes."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from stillhouse.core.config import Config, Seed
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.prompts import filled_templates


class PromptSynthesisConfig(Config):
    """The teacher answers prompts made from templates."""

    kind: Literal["prompts"] = "prompts"
    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    """Prompts with slots in braces, such as `Write a story about a {animal}.`"""
    slots: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """The words that may stand in each slot."""
    tokens: PositiveInt
    """Tokens to learn from, held-out ones included; a few more are written, to the end of a batch."""
    sampling: Sampling = Sampling()
    batch_size: PositiveInt = 64
    """Answers written at once."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _every_slot_is_known(self) -> "PromptSynthesisConfig":
        filled_templates(self.templates, {name: words[:1] for name, words in self.slots.items()}, seed=0)
        return self


class HistoryConfig(Config):
    """The teacher answers in the data's conversations: every turn of the assistant anew, behind its own former ones."""

    sampling: Sampling = Sampling()
    """How it answers. `max_new_tokens` is that of one turn."""
    batch_size: PositiveInt = 32
    """Conversations answered at once."""
    seed: Seed = 0
