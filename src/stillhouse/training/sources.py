"""What a recipe can say about who writes the answers that the student learns from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from stillhouse.core.config import Config
from stillhouse.models.generate import Sampling


class OfflineConfig(Config):
    """The data's own answers."""

    kind: Literal["offline"] = "offline"


class _WrittenConfig(Config):
    sampling: Sampling = Sampling()
    """How the student's next token is drawn. A temperature here is another than one of an objective."""
    batch_size: PositiveInt = 32
    """Answers written at once."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Who runs the student while it writes; vLLM needs a GPU and has to be installed."""


class OnPolicyConfig(_WrittenConfig):
    """The student's answers, written in the step that learns from them."""

    kind: Literal["student"] = "student"

    @property
    def student_share(self) -> float:
        """All of them."""
        return 1.0


class MixedConfig(_WrittenConfig):
    """The student's answers to some prompts, and the data's to the others: chosen anew in each step."""

    kind: Literal["mixed"] = "mixed"
    student_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the prompts that the student answers: GKD's lambda."""


SourceConfig = Annotated[OfflineConfig | OnPolicyConfig | MixedConfig, Field(discriminator="kind")]
"""A recipe's `source`."""
