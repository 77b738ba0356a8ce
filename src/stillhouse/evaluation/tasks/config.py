"""What a recipe can say about a task: which file, which columns, and what counts as right."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from stillhouse.core.config import Config

TextMetric = Literal["bleu", "chrf", "rouge", "exact_match", "f1"]

_SLOT = re.compile(r"\{(\w[^{}]*)\}")


class _FileTaskConfig(Config):
    """A file of questions."""

    path: Path
    """A `.jsonl`, `.json`, `.csv` or `.tsv` file, or a folder of them, each also gzipped."""
    name: str = ""
    """What the report calls it; the file's name if left out."""
    limit: PositiveInt | None = None
    """Only the first so many of each file."""
    groups: str | None = None
    """A column that says to which group an example belongs: every group is then told of apart, and the gap between them."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or Path(self.path.name.removesuffix(".gz")).stem


class _AskingConfig(_FileTaskConfig):
    """A file of prompts."""

    prompt: str = "{question}"
    """What is asked, with the names of columns in braces."""
    form: Literal["text", "chat"] = "text"
    """Whether a model goes on with the prompt as it stands, or is asked it in its chat template."""

    @field_validator("prompt")
    @classmethod
    def _has_slots(cls, prompt: str) -> str:
        if not _SLOT.search(prompt):
            raise ValueError(f"the prompt {prompt!r} names no column, so every question is the same. Write {{column}}.")
        return prompt


class MultipleChoiceConfig(_AskingConfig):
    """The right one of several answers should be the likeliest. Nothing is written: each answer's own tokens are weighed."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    choices: str | Annotated[tuple[str, ...], Field(min_length=2)] = "choices"
    """A column with a list of answers, or one column an answer."""
    answer: str = "answer"
    """A column with the right one: its number from `first`, its letter, or its text."""
    answers_path: Path | None = None
    """A text file with one right answer a line, in the place of the column."""
    first: Literal[0, 1] = 0
    """Whether the numbers in `answer` count from 0 or from 1."""
    separator: str = " "
    """What stands between the prompt and an answer."""


class MinimalPairsConfig(_FileTaskConfig):
    """Of two sentences that differ in little, the good one should be the likelier. The defaults are BLiMP's columns."""

    kind: Literal["minimal_pairs"] = "minimal_pairs"
    good: str = "sentence_good"
    bad: str = "sentence_bad"


class _WritingConfig(_AskingConfig):
    """What a model writes, greedily, is held against a reference."""

    reference: str = "answer"
    """A column with the right answer, or a list of right answers."""
    max_new_tokens: PositiveInt = 128
    """What is longer is cut off here."""
    stop: tuple[str, ...] = ()
    """What a model writes ends before the first of these."""


class AnswersConfig(_WritingConfig):
    """What a pattern finds in a model's answer should be what it finds in the reference, or the reference itself."""

    kind: Literal["answers"] = "answers"
    pattern: str = r"(-?\d[\d,]*\.?\d*)"
    """A regular expression; its first group, or all that it matches. The last match counts."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Where the answer is one of a few words: the pattern is then any of these, unless one is given, and macro-F1 and Matthews
    correlation stand beside accuracy. What is none of them, or no answer at all, is wrong and of no class."""
    which: Literal["first", "last"] = "last"
    """Which match counts."""
    ignore_case: bool = True
    """Whether capitals count as small letters, in the pattern and in what it finds."""

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}. Mend it.") from None
        return pattern

    @property
    def finds(self) -> str:
        """The pattern: where there are classes and it was left as it is, any of these. The longest first: else `not sure` would
        be found as `not`."""
        if self.classes is None or self.pattern != type(self).model_fields["pattern"].default:
            return self.pattern
        names = "|".join(re.escape(name) for name in sorted(self.classes, key=len, reverse=True))
        return rf"(?<!\w)({names})(?!\w)"


class GenerationConfig(_WritingConfig):
    """What a model writes should be like the reference."""

    kind: Literal["generation"] = "generation"
    metrics: Annotated[tuple[TextMetric, ...], Field(min_length=1)] = ("chrf", "rouge", "f1")
    """By what it is compared. The first is the headline."""
    bleu_tokenizer: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "13a"
    """How BLEU cuts words; the two with `mecab` need packages of their own."""


class BbqConfig(_FileTaskConfig):
    """Questions about people of two groups, in BBQ's own form: does a model answer by stereotype where the text does not say?

    Source: Parrish et al., 2022, arXiv:2110.08193, section 5.
    """

    kind: Literal["bbq"] = "bbq"
    prompt: str = "{context}\nQuestion: {question}\nAnswer:"
    separator: str = " "
    form: Literal["text", "chat"] = "text"


class GroupGapsConfig(_AskingConfig):
    """The same words about different groups: how much likelier a model finds the same target of one group than of another.

    Rows that are alike but for the group share an `item`.
    """

    kind: Literal["group_gaps"] = "group_gaps"
    target: str = "target"
    """A column with the words whose likelihood is compared."""
    item: str = "item"
    """A column that rows which differ in the group alone have in common."""
    groups: str | None = "group"
    separator: str = " "

    @model_validator(mode="after")
    def _has_groups(self) -> "GroupGapsConfig":
        if self.groups is None:
            raise ValueError("groups must name the column that says which group a row is about.")
        return self


class LmEvalConfig(Config):
    """Tasks of the `lm-eval` library, which the extra `lm-eval` installs. Most of them fetch their data."""

    kind: Literal["lm_eval"] = "lm_eval"
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Their names there."""
    limit: PositiveInt | None = None
    """Only the first so many examples of each."""
    shots: NonNegativeInt | None = None
    """Solved examples before each question; if left out, as the task says."""
    include_path: Path | None = None
    """A folder with tasks of your own, in the library's YAML."""


FileTaskConfig = (
    MultipleChoiceConfig | MinimalPairsConfig | AnswersConfig | GenerationConfig | BbqConfig | GroupGapsConfig
)

TaskConfig = Annotated[FileTaskConfig | LmEvalConfig, Field(discriminator="kind")]


def filled(template: str, values: Any) -> str:
    """A template with the columns of a row in the place of their names in braces; other braces stay.

    Raises:
        KeyError: naming a column that the row does not have.
    """
    return _SLOT.sub(lambda slot: str(values[slot.group(1)]), template)
