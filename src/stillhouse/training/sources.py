"""What a recipe can say about who writes the answers that the student learns from."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from stillhouse.core.config import Config
from stillhouse.models.generate import Sampling
from stillhouse.models.together import Interleaved, Mixture, Way
from stillhouse.objectives import AdaptiveRamp, Ramp
from stillhouse.teachers.answering import Answering
from stillhouse.training.config import RampConfig

Share = Annotated[float, Field(ge=0, le=1)]


class OfflineConfig(Config):
    """The data's own answers."""

    kind: Literal["offline"] = "offline"


class TeacherSourceConfig(Answering):
    """The teacher's answers, written before training begins."""

    kind: Literal["teacher"] = "teacher"


class _WrittenConfig(Config):
    sampling: Sampling = Sampling()
    """How the student's next token is drawn. A temperature here is another than one of an objective."""
    batch_size: PositiveInt = 32
    """Answers written at once."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Who runs the student while it writes; vLLM has to be installed."""
    teacher_share: Share = 0.0
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
    def share(self) -> float:
        """All of them."""
        return 1.0


class MixedConfig(_WrittenConfig):
    """The student's answers to some prompts, and the data's or the teacher's to the others: chosen anew in each step."""

    kind: Literal["mixed"] = "mixed"
    student_share: Share | RampConfig = 0.5
    """Share of the prompts that the student answers: GKD's lambda. A number, or a ramp such as `{start: 0, end: 1}`."""
    otherwise: Literal["data", "teacher"] = "data"
    """Who answers the others. What the teacher answers, it writes before training begins."""
    teacher: Answering | None = None
    """How the teacher answers them."""

    @model_validator(mode="before")
    @classmethod
    def _the_teacher_answers_somehow(cls, values: Any) -> Any:
        """A resolved recipe says how."""
        if not isinstance(values, dict) or values.get("otherwise") != "teacher":
            return values
        return {"teacher": {}, **values}

    @model_validator(mode="after")
    def _shares_are_shares(self) -> "MixedConfig":
        if self.otherwise == "data" and self.teacher is not None:
            raise ValueError(
                "teacher says how the teacher answers, but otherwise is data. Say otherwise: teacher, or leave teacher out."
            )
        check_share("student_share", self.student_share)
        return self

    @property
    def share(self) -> float | Ramp:
        """What the student answers, as the rows follow it."""
        return share_of(self.student_share)


class ReplayConfig(_WrittenConfig):
    """The student's answers to a share of the prompts that grows as it is needed, most of them drawn from what it said before;
    and the data's to the others: DistiLLM's adaptive off-policy."""

    kind: Literal["replay"] = "replay"
    student_share: Share = 0.0
    """Share of the prompts that the student answers at first."""
    share_step: Share = 0.1
    """By how much that share grows where the held-out loss has risen; 0 leaves it as it is."""
    tolerance_nats: NonNegativeFloat = 0.1
    """By how much the held-out loss must have risen, in nats a token, since the share last grew."""
    check_every_steps: PositiveInt = 50
    """How often that is looked at."""
    capacity: NonNegativeInt = 1000
    """Answers of the student that are kept, the oldest forgotten first. None is drawn before there are as many; 0 keeps none,
    and each is written anew."""
    fresh_share: Share | RampConfig = RampConfig(start=1.0, end=0.0)
    """Of the student's answers, the share that is written anew once the others can be drawn: a number or a ramp."""

    @model_validator(mode="after")
    def _the_student_answers_at_some_time(self) -> "ReplayConfig":
        if not self.student_share and not self.share_step:
            raise ValueError(
                "student_share and share_step are both 0, so the student never answers. Raise one, or leave source out."
            )
        check_share("fresh_share", self.fresh_share)
        return self

    @property
    def share(self) -> float:
        """What the student answers at first."""
        return self.student_share


def check_share(name: str, share: float | RampConfig) -> None:
    """Raises: ValueError unless a ramp stays between 0 and 1, and goes by progress alone."""
    if not isinstance(share, RampConfig):
        return
    if share.shape == "adaptive":
        raise ValueError(
            f"{name} follows no term's value, so it cannot be an adaptive ramp. Choose linear, cosine or step."
        )
    if not (0 <= share.start <= 1 and 0 <= share.end <= 1):
        raise ValueError(f"{name} goes from {share.start} to {share.end}, but a share lies between 0 and 1.")


def share_of(share: float | RampConfig) -> float | Ramp:
    """A share as rows follow it."""
    if not isinstance(share, RampConfig):
        return share
    ramp = share.build()
    assert not isinstance(ramp, AdaptiveRamp)
    return ramp


SourceConfig = Annotated[
    OfflineConfig | TeacherSourceConfig | OnPolicyConfig | MixedConfig | ReplayConfig, Field(discriminator="kind")
]
"""A recipe's `source`."""


def answering_of(source: Config) -> Answering | None:
    """How the teacher answers before training; None where it does not."""
    if isinstance(source, TeacherSourceConfig):
        return source
    return source.teacher if isinstance(source, MixedConfig) else None
