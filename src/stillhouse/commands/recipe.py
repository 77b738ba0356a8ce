"""A whole recipe, and what must be true of its parts together."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stillhouse.core.config import Config
from stillhouse.data.config import TextDataConfig
from stillhouse.labelling.config import LabelsConfig
from stillhouse.students.config import StudentConfig
from stillhouse.synthesis.config import PromptSynthesisConfig
from stillhouse.teachers import LocalTeacherConfig
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.trainer import Schedule

Control = Literal["hard_labels", "from_scratch", "both", "none"]


class EvaluationConfig(Config):
    """What the student is judged beside."""

    control: Control = "hard_labels"
    """The same architecture on the same budget without teacher signals: from the same start (`hard_labels`), from random
    weights (`from_scratch`), `both`, or `none`."""
    samples: int = Field(default=3, ge=0)
    """Held-out beginnings that every model continues, for reading."""


class Recipe(Config):
    """Teacher, student, data, objectives: one distillation."""

    run: Path
    """The folder that this recipe fills."""
    teacher: LocalTeacherConfig
    student: StudentConfig
    synthesis: PromptSynthesisConfig | None = None
    """Where it is given, the teacher writes the training text."""
    data: TextDataConfig = TextDataConfig()
    labels: LabelsConfig | None = None
    """Where it is given, the teacher runs once over the data and training reads what it said; else it runs in every step."""
    objectives: tuple[ObjectiveConfig, ...] = Field(min_length=1)
    training: Schedule = Schedule()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _there_is_text(self) -> "Recipe":
        if (self.synthesis is None) == (self.data.path is None):
            raise ValueError("give data.path or synthesis: exactly one of them says where the text comes from.")
        return self

    @model_validator(mode="after")
    def _objectives_can_teach(self) -> "Recipe":
        names = [chosen.name for chosen in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError(
                f"objectives names {max(names, key=names.count)!r} twice. Name each once, with one weight."
            )
        if not any(chosen.weight for chosen in self.objectives):
            raise ValueError("every weight in objectives is 0, so there is nothing to learn. Give one a weight.")
        return self
