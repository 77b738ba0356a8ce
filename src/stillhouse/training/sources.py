"""What a recipe can say about who writes the answers that the student learns from."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from stillhouse.core.config import Config
from stillhouse.models.generate import Sampling
from stillhouse.models.together import Interleaved, Mixture, Way


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
    teacher_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the teacher's distribution in the one that each token of an answer is drawn from: MiniLLM's alpha, there 0.2."""
    accept_top_k: NonNegativeInt | None = None
    """A token that the student proposes stays only if it is among so many of the teacher's likeliest; else the teacher draws
    one in its place. This is speculative KD, there with 25; 0 is the teacher's text."""

    @model_validator(mode="after")
    def _the_teacher_helps_in_one_way(self) -> "_WrittenConfig":
        if self.teacher_share and self.accept_top_k is not None:
            raise ValueError(
                f"teacher_share is {self.teacher_share} and accept_top_k is {self.accept_top_k}, but the teacher can help to "
                "write in one way only. Leave one out."
            )
        if self.engine == "vllm" and self.way is not None:
            raise ValueError("engine is vllm, which writes alone, but the teacher is to help. Leave engine out.")
        return self

    @property
    def way(self) -> Way | None:
        """How the teacher helps the student to write; None where it does not."""
        if self.accept_top_k is not None:
            return Interleaved(self.accept_top_k)
        return Mixture(self.teacher_share) if self.teacher_share else None


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
