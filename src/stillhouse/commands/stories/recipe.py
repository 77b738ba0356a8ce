"""A recipe that makes a small language model of one world from nothing but a teacher."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from stillhouse.commands.labels import label_faults
from stillhouse.core.config import Config, Seed
from stillhouse.evaluation.behaviour.config import JudgeConfig
from stillhouse.labelling.config import LabelsConfig
from stillhouse.models.generate import Sampling
from stillhouse.objectives import Objective, objective
from stillhouse.students.table import Size
from stillhouse.synthesis.filters.config import FilterConfig, world_filters
from stillhouse.synthesis.worlds.writing import Ends
from stillhouse.teachers import RemoteTeacherConfig, TeacherConfig
from stillhouse.teachers.hosted import is_hosted
from stillhouse.teachers.own import SelfTeacherConfig
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.trainer import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]


class StoryDataConfig(Config):
    """What the teacher writes."""

    kind: Literal["stories"]
    world: str = "stories"
    """`stories`, `beginnings` (for a weak teacher, who goes on with them), `support`, or a YAML file of your own: see
    docs/stories.md."""
    number: Annotated[int, Field(ge=2)]
    """Texts that are asked for in the first round. Filters leave fewer."""
    instruct: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the texts that are learnt behind an instruction: a summary, words, features, a sentence."""
    held_out: Share = 0.1
    """Share of the first round's texts that nobody trains on, and that all is judged by."""
    sequence_tokens: Annotated[int, Field(ge=32)] = 512
    """Tokens that the student reads at once; longer texts are cut into pieces."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=320)
    """How the teacher's texts are drawn."""
    ends: Ends = "whole"
    """What counts as finished: `whole`, the teacher's own end alone, or `sentence`, also a text that the limit cut off, up to
    its last whole sentence."""
    batch_size: PositiveInt = 32
    """Texts that a teacher of this process writes at once."""
    filters: tuple[FilterConfig, ...] | None = None
    """What drops texts, in this order; a list of its own takes the place of the usual one. See docs/filters.md."""
    seed: Seed = 0

    @property
    def used_filters(self) -> tuple[FilterConfig, ...]:
        """Those that are named, or the usual ones for this world."""
        return world_filters(self.world) if self.filters is None else self.filters


class TrainedTokenizerConfig(Config):
    """A tokenizer of the student's own, trained on the texts to learn from."""

    kind: Literal["trained"] = "trained"
    size: Annotated[int, Field(gt=256)] = 2048
    """Tokens, the 256 bytes and the end of a text among them."""


class TrimmedTokenizerConfig(Config):
    """The teacher's tokenizer with the tokens that the texts use: what the teacher's logits can be learnt in."""

    kind: Literal["trimmed"]


TokenizerConfig = Annotated[TrainedTokenizerConfig | TrimmedTokenizerConfig, Field(discriminator="kind")]


class TableStudentConfig(Config):
    """A model of Llama's architecture from the table of sizes."""

    size: Size
    """`1M`, `3M`, `8M`, `15M` or `28M` parameters, with 2,048 tokens."""
    embeddings: Literal["random", "teacher"] = "random"
    """What the student's begin as: drawn at random, or the principal components of the teacher's, for its own tokens."""


class RoundsConfig(Config):
    """After the first round: where more is asked for, and when that ends."""

    most: NonNegativeInt = 2
    """Rounds after the first, at most; 0 for none."""
    number: PositiveInt = 200
    """Texts that each asks for."""
    ask: Literal["weakest", "random"] = "weakest"
    """Where: in the weakest cells, or at random, which is what that has to be better than."""
    cells: PositiveInt = 8
    """Weak cells that a round asks in, at most."""
    least_gain: NonNegativeFloat = 0.0
    """Bits per byte that a round must win to be followed by another."""


class StoryEvaluationConfig(Config):
    """How completions are judged."""

    completions: Annotated[int, Field(ge=2)] = 20
    """Held-out texts whose beginnings, or instructions, the student goes on from, at most."""
    beginning_words: PositiveInt = 20
    """How much of a text it is shown."""
    sampling: Sampling = Sampling(temperature=0.7, max_new_tokens=220)
    grammar: Literal["teacher", "link_grammar"] = "teacher"
    """What tells whether a completion is grammatical: how likely the teacher finds it, which is not the same, or Link Grammar,
    a parser of English that is installed by itself."""
    grammar_words: PositiveInt = 40
    """Words that a completion must have to be called grammatical."""
    samples: NonNegativeInt = 5
    """Completions that the report prints."""
    judge: JudgeConfig | None = None
    """Who grades them, and compares them with the originals in both orders, if anyone does."""


class StoryRecipe(Config):
    """A teacher, a world, a size: one small language model."""

    run: Path
    """The folder that this recipe fills."""
    teacher: TeacherConfig
    data: StoryDataConfig
    tokenizer: TokenizerConfig = TrainedTokenizerConfig()
    student: TableStudentConfig
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)] = (ObjectiveConfig(name="next_token"),)
    labels: LabelsConfig | None = None
    """Whether what the teacher says of the texts is stored once, or it runs in every step; where objectives read it."""
    training: Schedule = Schedule(learning_rate=1e-3)
    """Of each round: a later one goes on from the student before it, on all texts by then."""
    rounds: RoundsConfig = RoundsConfig()
    evaluation: StoryEvaluationConfig = StoryEvaluationConfig()

    @model_validator(mode="after")
    def _its_parts_fit(self) -> "StoryRecipe":
        faults = [*self._teacher_faults(), *self._objective_faults(), *self._label_faults()]
        if self.evaluation.sampling.max_new_tokens >= self.data.sequence_tokens:
            faults.append(
                f"evaluation.sampling.max_new_tokens is {self.evaluation.sampling.max_new_tokens}, but the student reads "
                f"{self.data.sequence_tokens} tokens at once (data.sequence_tokens). Lower the one or raise the other."
            )
        if faults:
            raise ValueError(" ".join(faults))
        return self

    def _teacher_faults(self) -> Iterator[str]:
        if isinstance(self.teacher, SelfTeacherConfig):
            yield "teacher.kind is self, but a student of random weights has nothing to teach itself. Use local or remote."
        if is_hosted(self.teacher) and self.reads_teacher:
            yield (
                "teacher.engine is vllm, which tells the likeliest tokens alone, and objectives compare with what the teacher "
                "says of the student's. Learn its texts (next_token), or leave teacher.engine out."
            )
        if isinstance(self.teacher, RemoteTeacherConfig) and self.tokenizer.kind == "trimmed":
            yield (
                "tokenizer.kind is trimmed, which cuts down the teacher's, and a teacher behind an API is not here. Use "
                "tokenizer: {kind: trained}."
            )
        if self.student.embeddings == "teacher" and self.tokenizer.kind != "trimmed":
            yield (
                f"student.embeddings is teacher, but tokenizer.kind is {self.tokenizer.kind}: the teacher has no embeddings of "
                "such tokens. Use tokenizer: {kind: trimmed}, or leave embeddings out."
            )

    def _label_faults(self) -> Iterator[str]:
        if self.labels is None:
            return
        if not self.reads_teacher:
            yield "labels keep what the teacher says of each token, but no objective reads it. Leave labels out."
        if self.labels.store is not None:
            yield "labels.store is an address, but a recipe of kind stories keeps labels in its run folder. Leave store out."
        yield from label_faults(self.labels, self.objectives)

    def _objective_faults(self) -> Iterator[str]:
        names = [chosen.name for chosen in self.objectives]
        if len(set(names)) < len(names):
            yield f"objectives names {max(names, key=names.count)!r} twice. Name each once, with one weight."
        if not any(chosen.has_weight for chosen in self.objectives):
            yield "every weight in objectives is 0, so there is nothing to learn. Give one a weight."
        for chosen in self.objectives:
            entry = objective(chosen.name)
            if not isinstance(entry, Objective):
                yield f"{chosen.name} is no objective on logits token by token. Use next_token, or one such as forward_kl."
            elif entry.reads_teacher and self.tokenizer.kind != "trimmed":
                yield (
                    f"{chosen.name} compares with the teacher's logits, but tokenizer.kind is {self.tokenizer.kind}: the two "
                    "read other tokens. Use tokenizer: {kind: trimmed}, or next_token alone."
                )

    @property
    def reads_teacher(self) -> bool:
        """Whether an objective compares with the teacher's logits."""
        return any(getattr(objective(chosen.name), "reads_teacher", False) for chosen in self.objectives)
