"""What a recipe can say about how behaviour is measured."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from stillhouse.core.config import Config, Seed
from stillhouse.core.results import Role
from stillhouse.models.generate import Sampling
from stillhouse.teachers.judging import COMPARISON, SLOTS
from stillhouse.teachers.remote_config import RemoteWriterConfig

DEFAULT_SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=128)


class LocalJudgeConfig(Config):
    """A language model of this process."""

    kind: Literal["local"] = "local"
    model: str
    """A hub id, a folder, or a GGUF file."""


class JudgeConfig(Config):
    """Who compares a model's answers with the teacher's, each pair in both orders, so that its place in the prompt does not
    decide."""

    by: Annotated[LocalJudgeConfig | RemoteWriterConfig, Field(discriminator="kind")]
    """`{kind: local, model: ...}`, or `{kind: remote, base_url: ..., model: ...}` as a remote writer has it."""
    prompt: str = COMPARISON
    """What it is asked, with `{conversation}`, `{first}` and `{second}` where these go; it must call for a last line such as
    `Better: A`."""
    max_new_tokens: PositiveInt = 256

    @model_validator(mode="after")
    def _the_prompt_holds_what_is_judged(self) -> "JudgeConfig":
        missing = [slot for slot in SLOTS if slot not in self.prompt]
        if missing:
            raise ValueError(f"prompt has no {' and no '.join(missing)}. Add what is missing, or leave prompt out.")
        return self


class BehaviourConfig(Config):
    """What models are asked, how they answer, and who looks at it."""

    prompts: Path | None = None
    """A `.jsonl`, `.csv` or `.tsv` file with a column `prompt`; where it has them, `label` (safe, unsafe, answerable or
    unanswerable), `context` (what an answer is to rest on) and `answer` (a right one). If left out: the held-out prompts."""
    most_prompts: Annotated[int, Field(ge=1)] = 100
    """Of more, so many are drawn."""
    models: tuple[Role, ...] = ()
    """Who answers, beside teacher and student, who always do: `student_before`, or a control. If left out: everyone."""
    sampling: Sampling = DEFAULT_SAMPLING
    """How answers are drawn. At temperature 0 the teacher says the same when it is asked again, so that nothing tells how far
    two answers of one model lie apart."""
    seed: Seed = 0
    labelled: Path | None = None
    """A file with the columns `answer` and `refused` (yes or no), as people see it: it says what the matching of refusals is
    worth, and corrects its rates. Twenty of each kind are few."""
    abstention: str = ""
    """What the models were taught to say where the context does not tell, if that is a sentence of its own."""
    judge: JudgeConfig | None = None
    """Who compares the answers, if anyone does."""
