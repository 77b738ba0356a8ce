"""What a recipe can say about the data: one kind for each kind of answer that teacher and student give."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    PlainSerializer,
    PositiveInt,
    PrivateAttr,
    Tag,
    model_validator,
)

from stillhouse.core.config import Config, Seed
from stillhouse.core.objects import as_written, refuse_secrets
from stillhouse.core.task import Task
from stillhouse.data.grounded import Template

Source = Annotated[Path, AfterValidator(refuse_secrets), PlainSerializer(as_written, return_type=str, when_used="json")]
"""A file or a folder, here or at an address that fsspec knows, such as `s3://bucket/texts.jsonl`."""

HELD_OUT_SHARE = 0.1

_TASKS: dict[str, Task] = {
    "text": "causal_lm",
    "chat": "causal_lm",
    "rag": "causal_lm",
    "preferences": "causal_lm",
    "rewards": "reward",
    "masked_text": "masked_lm",
    "classification": "sequence_classification",
    "regression": "regression",
    "tags": "token_classification",
    "sentences": "sentence_embedding",
}


class _SplitConfig(Config):
    """Which rows are learnt from, and which nobody trains on."""

    kind: str
    path: Source | None
    sequence_tokens: Annotated[int, Field(ge=8)] = 256
    """Length of a row in tokens, special ones included; longer documents are cut."""
    held_out: Annotated[float, Field(gt=0, le=0.5)] = HELD_OUT_SHARE
    """Share of the documents that nobody trains on and everybody is judged by. Without effect beside `held_out_path`."""
    held_out_path: Source | None = None
    """A file or folder, read as `path` is, that decides in the place of `held_out`: all of it is held out, and what `path`
    has in common with it is not trained on."""

    _judges_all: bool = PrivateAttr(default=False)

    @property
    def judges_all(self) -> bool:
        """Whether nothing is trained on, so that all of `path` is there to judge by."""
        return self._judges_all

    @model_validator(mode="after")
    def _one_thing_decides(self) -> "_SplitConfig":
        if self.held_out_path is not None and self.held_out != HELD_OUT_SHARE:
            raise ValueError(
                f"held_out ({self.held_out}) and held_out_path ({str(self.held_out_path)!r}) are both given. Give one: "
                "a share of path, or a file of its own."
            )
        return self

    @property
    def task(self) -> Task:
        """What teacher and student are asked for."""
        return _TASKS[self.kind]

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        return tuple(path for path in (self.path, self.held_out_path) if path is not None)


AnyData = TypeVar("AnyData", bound=_SplitConfig)


def judging_all(config: AnyData) -> AnyData:
    """The same data, all of it held out: what no recipe can say, as it trains."""
    copy = config.model_copy()
    copy._judges_all = True
    return copy


class TextDataConfig(_SplitConfig):
    """Texts, each learnt whole or after a prompt, one token after the other."""

    kind: Literal["text"] = "text"
    path: Source | None = None
    """A `.jsonl` or `.txt` file, or a folder of them. May be left out where the recipe synthesises its text."""


class MessageConfig(Config):
    """One message of an example."""

    role: Literal["user", "assistant"]
    content: str


class StyleConfig(Config):
    """One way to tell the teacher what the student is to know without being told. With nothing in it, it tells nothing."""

    system: str = ""
    """A system prompt. Where a conversation has one of its own, this one comes before it."""
    system_path: Path | None = None
    """A text file with the system prompt, in the place of `system`."""
    examples: tuple[MessageConfig, ...] = ()
    """Turns that come before the conversation, as if they had been said in it."""
    examples_path: Path | None = None
    """A file of conversations in any form that `path` may have, in the place of `examples`: all, one after the other."""
    before_question: str = ""
    """A text at the beginning of the question that the first turn to be learnt answers."""
    column: str = ""
    """A column of `path`: what each row has there comes before its question, too, behind `before_question`."""

    @model_validator(mode="after")
    def _each_is_said_once(self) -> "StyleConfig":
        for name, said, path in (
            ("system", self.system, self.system_path),
            ("examples", self.examples, self.examples_path),
        ):
            if said and path is not None:
                raise ValueError(f"{name} and {name}_path are both given. Give one.")
        return self


class ReplayConfig(Config):
    """Conversations about other things, which teacher and student read alike, so that the student stays as it is there."""

    path: Source
    """A file or folder as `data.path`. A share of it, as large as `data.held_out`, is held out to measure drift by."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of all rows that are learnt from; 0 only measures."""


class TeacherContextConfig(Config):
    """What the teacher reads and the student does not."""

    styles: tuple[StyleConfig, ...] = Field(min_length=1)
    """One context, or several ways to say the same."""
    rows: Literal["one", "all"] = "one"
    """Whether a row is learnt under one of the styles, drawn by `seed`, or once under each."""
    seed: Seed = 0
    replay: ReplayConfig | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        named = [path for style in self.styles for path in (style.system_path, style.examples_path)]
        return tuple(path for path in [*named, self.replay.path if self.replay else None] if path is not None)


class ChatDataConfig(_SplitConfig):
    """Conversations, written out by the teacher's chat template; what the assistant says in them is learnt."""

    kind: Literal["chat"] = "chat"
    path: Source | None = None
    """A `.jsonl`, `.json`, `.csv` or `.tsv` file, or a folder of them, in a form that docs/chat.md names. May be left out where
    the recipe synthesises its conversations."""
    sequence_tokens: Annotated[int, Field(ge=8)] = 1024
    """Length of a row in tokens, special ones included; a longer conversation is cut into pieces."""
    weight: Literal["assistant", "last"] = "assistant"
    """Which turns are learnt: all of the assistant's, or only its last. What the data says of a turn counts too."""
    thinking: bool = False
    """Whether an empty thinking block is learnt that the template puts before an answer; one in the data always is."""
    teacher_context: TeacherContextConfig | None = None
    """What the teacher alone reads, such as a system prompt; the student learns to act as if it had read it."""

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        return (*super().sources, *(self.teacher_context.sources if self.teacher_context else ()))


class MixtureConfig(Config):
    """Shares of the questions, by what they are answered over; they need not sum to one."""

    distractors: NonNegativeFloat = 0.5
    """The gold passage among hard distractors: passages that the retriever finds behind it, near-duplicates left out."""
    retrieved: NonNegativeFloat = 0.25
    """Whatever the retriever finds, in its order."""
    removed: NonNegativeFloat = 0.25
    """The same without all that tells the answer: an abstention is learnt."""
    contradiction: NonNegativeFloat = 0.0
    """The gold passage beside one that says another answer: it is learnt to name both."""
    none: NonNegativeFloat = 0.0
    """No passage at all: an abstention is learnt."""

    @model_validator(mode="after")
    def _something_is_asked(self) -> "MixtureConfig":
        if not any(self.model_dump().values()):
            raise ValueError("every share is 0. Give one a share.")
        return self


class RagDataConfig(ChatDataConfig):
    """Questions to be answered from documents: passages are retrieved, teacher and student read the same, and answers cite."""

    kind: Literal["rag"] = "rag"  # type: ignore[assignment]
    documents: Source
    """A folder of text, Markdown, HTML, PDF or JSON lines, or one such file: what is answered from."""
    path: Source | None = None
    """Questions: rows of `question`, and where they are known `answers` and `passages`, the names of those that tell. May be
    left out where the recipe synthesises them."""
    retriever: str = "bm25"
    """What finds the passages: `bm25`, or the run of a retriever, or any sentence-transformers model."""
    teacher_retriever: str | None = None
    """A second one, to judge by: both retrievers beside both generators."""
    passages: PositiveInt = 4
    """Shown with each question."""
    passage_words: PositiveInt = 100
    """In one passage, about: documents are cut where sentences end."""
    passage_characters: PositiveInt = 1200
    """Where a passage that is longer all the same is cut off when it is shown."""
    candidates: PositiveInt = 20
    """How far down the retriever's list distractors are looked for."""
    mixture: MixtureConfig = MixtureConfig()
    template: Template = Template()
    student_reads: Literal["passages", "question"] = "passages"
    """Whether the student reads what its teacher does, or the question alone: then the documents become weights."""
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _who_reads_what(cls, values: Any) -> Any:
        """A student that reads the question alone has a teacher with a context: the passages, which each row has beside it."""
        if not isinstance(values, dict):
            return values
        reads_question = values.get("student_reads") == "question"
        alone = TeacherContextConfig(styles=(StyleConfig(column=CONTEXT_COLUMN),)) if reads_question else None
        given = values.get("teacher_context")
        if given is not None and (alone is None or given != alone.model_dump(mode="json")):
            raise ValueError(
                "teacher_context is made of the passages where student_reads is question, and of nothing else with kind rag. "
                "Leave it out."
            )
        return values if given is not None or alone is None else {**values, "teacher_context": alone}

    @model_validator(mode="after")
    def _there_is_room(self) -> "RagDataConfig":
        if self.candidates < self.passages:
            raise ValueError(
                f"candidates is {self.candidates}, but {self.passages} passages are shown. Raise it to twice as many or more."
            )
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        return (*super().sources, self.documents)


CONTEXT_COLUMN = "context"
"""Of a row whose student reads the question alone: what its teacher reads before it."""


class PreferencesDataConfig(_SplitConfig):
    """Pairs of answers to the same prompt, of which one was chosen over the other."""

    kind: Literal["preferences"] = "preferences"
    path: Source
    """A `.jsonl`, `.json`, `.csv` or `.tsv` file, or a folder of them, in a form that docs/preferences.md names."""
    sequence_tokens: Annotated[int, Field(ge=8)] = 1024
    """Most tokens of a prompt with one of its answers. Nothing is cut: a pair with a longer one is left out."""
    reads: Literal["chat", "text"] = "chat"
    """Whether the chat template writes prompt and answers out, or they are read as they stand, one behind the other."""
    against: Literal["random", "worst"] = "random"
    """Of several answers with scores, the best is chosen over which other: one drawn by `seed`, or the worst."""
    seed: Seed = 0


class RewardsDataConfig(PreferencesDataConfig):
    """The same pairs for reward models, which read each answer whole and give it one number."""

    kind: Literal["rewards"] = "rewards"  # type: ignore[assignment]
    form: Literal["chat", "plain"] | None = None
    """Whether the chat template writes prompt and answer out, or they are two texts; if left out, `chat` where the teacher has
    a template."""


class MaskedTextDataConfig(_SplitConfig):
    """Texts of which some tokens are hidden, to be guessed from both sides; longer ones are cut into pieces."""

    kind: Literal["masked_text"] = "masked_text"
    path: Source
    """A `.jsonl`, `.csv` or `.tsv` file with a column of texts, a `.txt` file as for kind text, or a folder of them."""
    text: str = "text"
    """Column of the text; a `.txt` file has none."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a text's tokens to be guessed: 8 in 10 of them are hidden, 1 is replaced by any token, 1 is left as it is."""
    rarity_smoothing: NonNegativeFloat = 0.7
    """How much more often a rare token is hidden: in proportion to count ** -rarity_smoothing. 0 treats all alike."""


class _AnsweredConfig(_SplitConfig):
    """Texts, or pairs of texts, each with one answer."""

    path: Source
    """A `.jsonl`, `.csv` or `.tsv` file, or a folder of them."""
    text: str = "text"
    """Column of the text, or of a pair's first."""
    pair: str | None = None
    """Column of a pair's second text."""


class ClassificationDataConfig(_AnsweredConfig):
    """Texts, or pairs of texts, each with its class."""

    kind: Literal["classification"] = "classification"
    label: str = "label"
    """Column of the class: text or a whole number."""


class RegressionDataConfig(_AnsweredConfig):
    """Texts, or pairs of texts, each with a number."""

    kind: Literal["regression"] = "regression"
    label: str = "label"
    """Column of the number."""


LabelledDataConfig = ClassificationDataConfig | RegressionDataConfig
"""Data with one answer a text or pair."""


class TagsDataConfig(_SplitConfig):
    """Texts as lists of words, each word with its tag."""

    kind: Literal["tags"] = "tags"
    path: Source
    """A `.jsonl` file, or a folder of them."""
    words: str = "words"
    """Column of the words, a list."""
    tags: str = "tags"
    """Column of the tags, as many as there are words: text or whole numbers."""


class SentencesDataConfig(_SplitConfig):
    """Sentences to embed. The teacher's embedding is all that is learnt, so they need no labels."""

    kind: Literal["sentences"] = "sentences"
    path: Source
    """A `.jsonl`, `.csv` or `.tsv` file with a column of sentences, a `.txt` file with one a line, or a folder of them."""
    text: str = "text"
    """Column of the sentence; a `.txt` file has none."""
    pairs_path: Source | None = None
    """Pairs with their similarity as people see it, to judge by: a `.jsonl`, `.csv` or `.tsv` file, or a folder of them, each
    a set of its own. What `path` has in common with them is not trained on."""
    first: str = "first"
    """Column of a pair's first sentence."""
    second: str = "second"
    """Column of a pair's second sentence."""
    score: str = "score"
    """Column of a pair's similarity, in any unit: only the order of the scores counts."""

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        return (*super().sources, *([] if self.pairs_path is None else [self.pairs_path]))


def _kind(values: Any) -> str:
    """The kind that is said, or else text."""
    found = values.get("kind", "text") if isinstance(values, dict) else getattr(values, "kind", "text")
    return str(found)


DataConfig = Annotated[
    Annotated[TextDataConfig, Tag("text")]
    | Annotated[ChatDataConfig, Tag("chat")]
    | Annotated[RagDataConfig, Tag("rag")]
    | Annotated[PreferencesDataConfig, Tag("preferences")]
    | Annotated[RewardsDataConfig, Tag("rewards")]
    | Annotated[MaskedTextDataConfig, Tag("masked_text")]
    | Annotated[ClassificationDataConfig, Tag("classification")]
    | Annotated[RegressionDataConfig, Tag("regression")]
    | Annotated[TagsDataConfig, Tag("tags")]
    | Annotated[SentencesDataConfig, Tag("sentences")],
    Discriminator(_kind),
]
"""A recipe's `data`; without a `kind` it is text."""
