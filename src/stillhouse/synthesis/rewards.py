"""What a recipe can say about how good an answer is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from stillhouse.core.config import Config, Seed
from stillhouse.core.errors import DataError, ModelError
from stillhouse.core.files import fingerprint
from stillhouse.core.plugins import check_function_name, load_function
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.rouge import rouge_l_of_texts
from stillhouse.models.generate import Sampling
from stillhouse.models.load import (
    check_serves,
    check_weights,
    load_causal_lm,
    load_config,
    load_model,
    source_fingerprint,
)
from stillhouse.synthesis.judge import PROMPTS, JudgeBy, PairJudge, RatingJudge, YesJudge
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.reward_models import ImplicitReward, ModelReward, TextForm, remembered
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter, Writer


@runtime_checkable
class Scoring(Protocol):
    """A reward that has a name, and can say what happened to it."""

    @property
    def name(self) -> str:
        """Under which scores are kept in a record."""

    @property
    def counts(self) -> dict[str, float]:
        """What the report says beside the scores, such as how many judgements were `unparsable`."""

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number an answer, NaN where there is none. Only differences mean anything."""


@dataclass(frozen=True)
class Tools:
    """What rewards and checkers work with beside the records."""

    ask: Ask | None = None
    """`Ledger.ask` of whoever judges where the recipe names no judge of its own."""
    writer: Writer | None = None
    """The writer behind it."""
    folder: Path | None = None
    """Where scores are kept as they come, so that a kill costs little; None keeps none."""
    progress: Progress = SILENT


NO_TOOLS = Tools()


@dataclass(frozen=True)
class Plain:
    """A reward of one answer at a time that needs no model."""

    name: str
    score: Callable[[Record], float]

    @property
    def counts(self) -> dict[str, float]:
        """Nothing beside the scores."""
        return {}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """One number an answer."""
        return [self.score(record) for record in records]


class ModelRewardConfig(Config):
    """A reward model: a sequence classifier with one output."""

    kind: Literal["model"] = "model"
    model: str
    """A hub id or a folder."""
    form: TextForm | None = None
    """`chat` reads the conversation in the model's chat template, `plain` what was said before and the answer as two texts. If
    left out: `chat` where the model has a template."""
    batch_size: PositiveInt = 16

    @property
    def sources(self) -> tuple[str, ...]:
        """The models that it reads."""
        return (self.model,)

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward, its model loaded.

        Raises:
            ModelError: if the model is not there, or has another number of outputs than one.
        """
        reward = ModelReward(load_model(self.model, "regression"), form=self.form, batch_size=self.batch_size)
        found = remembered(reward, folder=tools.folder, made_from=made_from(self), progress=tools.progress)
        assert isinstance(found, Scoring)
        return found


class JudgeRewardConfig(Config):
    """A language model that is asked how good an answer is."""

    kind: Literal["judge"] = "judge"
    by: JudgeBy = "rating"
    """`rating` reads a number from what it says of each answer; `pairs` lets it compare the answers to a question two by two,
    each pair in both orders; `yes` takes the odds that it would say yes, without letting it speak."""
    model: str | None = None
    """Who judges: a hub id, a folder, or a GGUF file. If left out, whoever writes."""
    prompt: str | None = None
    """What it is asked, with `{conversation}` and `{answer}` (of pairs `{first}` and `{second}`) where these go; for `rating`
    it must call for a last line such as `Rating: 7`, for `pairs` for one such as `Better: A`. If left out: our own."""
    lowest: float = 1.0
    highest: float = 10.0
    """A rating outside these does not count."""
    sampling: Sampling = Sampling(temperature=0.0)
    batch_size: PositiveInt = 16
    seed: Seed = 0

    @model_validator(mode="after")
    def _the_prompt_holds_what_is_judged(self) -> "JudgeRewardConfig":
        _, slots = PROMPTS[self.by]
        missing = [slot for slot in slots if self.prompt is not None and slot not in self.prompt]
        if missing:
            raise ValueError(
                f"prompt is {_shortened(self.prompt or '')!r}, but by: {self.by} needs {' and '.join(missing)} in it. Add what "
                "is missing, or leave prompt out."
            )
        if self.lowest >= self.highest:
            raise ValueError(
                f"lowest is {self.lowest:g} and highest is {self.highest:g}, so no rating counts. Say a lower lowest."
            )
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The models that it reads, beside whoever writes."""
        return () if self.model is None else (self.model,)

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward; a judge of its own keeps its replies in `tools.folder`.

        Raises:
            ModelError: if nobody can be asked.
        """
        ask, writer = self._judge(tools)
        prompt = self.prompt or PROMPTS[self.by][0]
        match self.by:
            case "rating":
                bounds = {"lowest": self.lowest, "highest": self.highest}
                return RatingJudge(ask, prompt=prompt, sampling=self.sampling, seed=self.seed, **bounds)
            case "pairs":
                return PairJudge(ask, prompt=prompt, sampling=self.sampling, seed=self.seed)
            case "yes":
                return YesJudge(ask, writer, prompt=prompt, seed=self.seed)

    def _judge(self, tools: Tools) -> tuple[Ask, Writer]:
        if self.model is not None and tools.folder is not None:
            loaded = load_causal_lm(self.model)
            known = source_fingerprint(self.model)
            writer = LocalWriter(loaded, name=self.model, fingerprint=known, batch_size=self.batch_size)
            tools.folder.mkdir(parents=True, exist_ok=True)
            return Ledger(tools.folder / "judge.jsonl", writer, progress=tools.progress).ask, writer
        if self.model is not None or tools.ask is None or tools.writer is None:
            raise ModelError("there is nobody to judge. Name a judge (reward.model), and give its replies a folder.")
        return tools.ask, tools.writer


class ImplicitRewardConfig(Config):
    """What a tuned model prefers, beside the model that it was tuned from: `beta * (log pi_tuned - log pi_reference)`."""

    kind: Literal["implicit"] = "implicit"
    model: str
    """The RLHF-trained one: a hub id, a folder, or a GGUF file. Often the teacher."""
    reference: str
    """What it was trained from, with the same tokenizer."""
    beta: PositiveFloat = 0.1
    """As in its training where that is known. It only scales the reward."""
    batch_size: PositiveInt = 8

    @model_validator(mode="after")
    def _there_are_two_models(self) -> "ImplicitRewardConfig":
        if self.model == self.reference:
            raise ValueError(
                f"model and reference are both {self.model!r}, so every reward is 0. Name as reference what "
                "it was trained from."
            )
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The models that it reads."""
        return self.model, self.reference

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward, its models loaded.

        Raises:
            ModelError: if a model is not there, or the tokenizers differ.
        """
        tuned, reference = load_causal_lm(self.model), load_causal_lm(self.reference)
        reward = ImplicitReward(tuned, reference, beta=self.beta, batch_size=self.batch_size)
        found = remembered(reward, folder=tools.folder, made_from=made_from(self), progress=tools.progress)
        assert isinstance(found, Scoring)
        return found


class LengthRewardConfig(Config):
    """How long an answer is: no judge at all, and the one that every other has to beat."""

    kind: Literal["length"] = "length"
    better: Literal["longer", "shorter"] = "shorter"
    unit: Literal["characters", "words"] = "characters"

    @property
    def sources(self) -> tuple[str, ...]:
        """None."""
        return ()

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward."""
        sign = 1.0 if self.better == "longer" else -1.0

        def score(record: Record) -> float:
            return sign * len(record.answer if self.unit == "characters" else record.answer.split())

        return Plain("length", score)


class RougeRewardConfig(Config):
    """ROUGE-L to a reference answer, over words: from 0 to 1."""

    kind: Literal["rouge"] = "rouge"
    reference: str = "reference"
    """Under which key of a record's lineage the reference stands."""

    @property
    def sources(self) -> tuple[str, ...]:
        """None."""
        return ()

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward. It raises a DataError at a record without a reference."""

        def score(record: Record) -> float:
            return rouge_l_of_texts(record.answer, reference_of(record, self.reference, needs="reward of kind rouge"))

        return Plain("rouge", score)


class FunctionRewardConfig(Config):
    """A function of the user's own: from a record (`question`, `answer`, `messages`, `lineage`) to a number."""

    kind: Literal["function"] = "function"
    function: str
    """As `module:function`. It only runs with `--allow-plugins`."""

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        return check_function_name(value, key="function")

    @property
    def sources(self) -> tuple[str, ...]:
        """None."""
        return ()

    def build(self, tools: Tools = NO_TOOLS) -> Scoring:
        """The reward.

        Raises:
            StillhouseError: if code may not run, or there is no such function.
        """
        function = load_function(self.function, key="reward.function")
        return Plain(self.function.rpartition(":")[2], lambda record: _number_of(function, record, self.function))


RewardConfig = Annotated[
    ModelRewardConfig
    | JudgeRewardConfig
    | ImplicitRewardConfig
    | LengthRewardConfig
    | RougeRewardConfig
    | FunctionRewardConfig,
    Field(discriminator="kind"),
]
"""A recipe's reward."""


class RewardWatchConfig(Config):
    """Lets the student answer held-out prompts now and then, and shows the reward of its answers beside its agreement with the
    teacher."""

    reward: RewardConfig
    """Often the one by which its training data was chosen."""
    prompts: PositiveInt = 16
    """Held-out prompts that are answered each time."""
    every_steps: PositiveInt | None = None
    """How often; if left out, ten times over the training. The start and the end are always looked at."""
    max_new_tokens: PositiveInt = 64
    """Of an answer. The likeliest token is taken each time, so that nothing is left to chance."""


def check_reward(config: Any, *, key: str) -> None:
    """Find what is wrong with a reward before any model is loaded.

    Raises:
        StillhouseError: if a model is not there or is no reward model, or a function may not run.
    """
    for source in config.sources:
        check_weights(source)
    if isinstance(config, ModelRewardConfig):
        check_serves(load_config(config.model), "regression", source=config.model)
    if isinstance(config, FunctionRewardConfig):
        load_function(config.function, key=f"{key}.function")


def made_from(config: Any) -> list[Any]:
    """All that scores depend on beside the records: the configuration, and the files of its models."""
    return [config.model_dump(mode="json"), *(source_fingerprint(source) for source in config.sources)]


def reward_fingerprint(config: Any) -> str:
    """Hash of all that scores depend on beside the records."""
    return fingerprint(made_from(config))


def reference_of(record: Record, key: str, *, needs: str) -> str:
    """The reference answer that came with a question.

    Raises:
        DataError: naming the key.
    """
    found = record.lineage.get(key)
    if found is None or not str(found).strip():
        raise DataError(
            f"the {needs} compares with a reference answer, but the question {_shortened(record.question)!r} has none under "
            f"{key!r}. Give every question one, name another key, or choose without references."
        )
    return str(found)


def _number_of(function: Callable[..., Any], record: Record, name: str) -> float:
    value = function(record)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise ModelError(f"{name} gave {value!r} for an answer. It should give a finite number for every record.")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
