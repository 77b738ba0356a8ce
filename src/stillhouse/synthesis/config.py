"""What a recipe can say about text that the teacher writes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag, field_validator, model_validator
from transformers import PreTrainedTokenizerBase

from stillhouse.core.config import Config, Seed
from stillhouse.core.errors import DataError
from stillhouse.data.text import read_rows
from stillhouse.models.generate import Sampling
from stillhouse.synthesis.choosing import ChoiceConfig
from stillhouse.synthesis.filters.agreement import AgreementConfig as AgreementFilterConfig
from stillhouse.synthesis.filters.config import FilterConfig, default_filters
from stillhouse.synthesis.filters.length import UnfinishedConfig
from stillhouse.synthesis.filters.repetition import RepetitionConfig
from stillhouse.synthesis.flow import Further, User
from stillhouse.synthesis.grounded import Checks, Citing
from stillhouse.synthesis.prompts import check_templates, filled_templates
from stillhouse.synthesis.records import Ask, Record, Source
from stillhouse.synthesis.rounds import MOST_TIMES, Sizes
from stillhouse.synthesis.sources.continued import continued_texts
from stillhouse.synthesis.sources.documents import document_questions, passages_of
from stillhouse.synthesis.sources.evolve import WAYS, evolved_questions
from stillhouse.synthesis.sources.magpie import magpie_questions, user_opening
from stillhouse.synthesis.sources.personas import persona_questions
from stillhouse.synthesis.sources.questions import read_questions, template_questions
from stillhouse.synthesis.sources.self_instruct import self_instruct_questions
from stillhouse.synthesis.sources.topics import topic_questions
from stillhouse.synthesis.traces import MARKER, Answers, Learn, Trace
from stillhouse.teachers.remote_config import RemoteWriterConfig

SEEDS_APART = 1_000_003
"""Between the seeds of two rounds: nobody who counts seeds from 0 meets one."""

Slots = dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]


class PromptSynthesisConfig(Config):
    """The teacher answers prompts made from templates."""

    kind: Literal["prompts"] = "prompts"
    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    """Prompts with slots in braces, such as `Write a story about a {animal}.`"""
    slots: Slots = Field(default_factory=dict)
    """The words that may stand in each slot."""
    tokens: PositiveInt
    """Tokens to learn from, held-out ones included; a few more are written, to the end of a batch."""
    sampling: Sampling = Sampling()
    batch_size: PositiveInt = 64
    """Answers written at once."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _every_slot_is_known(self) -> "PromptSynthesisConfig":
        check_templates(self.templates, self.slots)
        return self


class AnswersConfig(Config):
    """How the teacher answers the questions."""

    sampling: Sampling = Sampling(temperature=0.7, max_new_tokens=512)
    samples: PositiveInt = 1
    """Answers to each question. Without `choose` all are kept."""
    system: str = ""
    """A system prompt that the teacher reads and the student does not."""
    trace: Trace = "none"
    """`explain` asks for explanations, under system prompts after Orca's; `think` for a chain of thought and the answer behind
    `marker`, and drops what does not have it."""
    learn: Learn = "all"
    """What the student sees of a chain of thought: `all` of it, or the `answer` alone."""
    marker: Annotated[str, Field(min_length=1)] = MARKER
    demonstrate: bool = False
    """Self-distillation: the teacher reads the data's own answer, where there is one, and gives one in its own words."""

    @model_validator(mode="after")
    def _its_keys_have_a_use(self) -> "AnswersConfig":
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"samples is {self.samples}, but at temperature 0 all of them are the same. Raise it.")
        if self.learn == "answer" and self.trace != "think":
            raise ValueError(
                f"learn is answer, but with trace {self.trace} nothing tells the answer apart. Use trace think."
            )
        return self


class UserConfig(Config):
    """Who asks in further turns."""

    kind: User = "opening"
    """The teacher, behind its template's `opening` of the user's turn, or told to play the user."""
    sampling: Sampling = Sampling(max_new_tokens=128)


class TeacherWriterConfig(Config):
    """The recipe's teacher writes."""

    kind: Literal["teacher"] = "teacher"


WriterConfig = Annotated[TeacherWriterConfig | RemoteWriterConfig, Field(discriminator="kind")]
"""Who writes the data."""


class _SynthesisConfig(Config):
    """What all ways to make data from nothing have."""

    kind: str
    number: PositiveInt | None = None
    """Questions, or texts, that the source gives. Filters may leave fewer."""
    kept: PositiveInt | None = None
    """In the place of `number`: records that are to be left. The source is asked on, round by round, until so many are kept."""
    most: PositiveInt | None = None
    """With `kept`: questions that are asked at most; four times as many as are to be kept, if left out."""
    sampling: Sampling = Sampling(max_new_tokens=256)
    """How the questions are written."""
    batch_size: PositiveInt = 32
    """Texts written at once."""
    seed: Seed = 0
    writer: WriterConfig = TeacherWriterConfig()
    """Who writes: the recipe's `teacher`, or a `remote` model behind an API, see docs/remote_teachers.md."""
    filters: tuple[FilterConfig, ...] | None = None
    """What drops records, in this order; a list of its own takes the place of the usual one. See docs/filters.md."""
    spread_by: str | None = None
    """A sentence-transformers model, a hub id or a folder, by whose embeddings the data card says how far apart questions are.
    Without it they are compared by their runs of characters."""

    @model_validator(mode="after")
    def _one_says_how_many(self) -> "_SynthesisConfig":
        if self.number is not None and self.kept is not None:
            raise ValueError(
                f"number is {self.number} and kept is {self.kept}. Give one: number of questions, or of records that are kept."
            )
        if self.number is None and self.kept is None and self.counts_questions:
            raise ValueError("give number (of questions) or kept (of records that filters leave).")
        if self.most is not None and (self.kept is None or self.most < self.kept):
            raise ValueError(
                f"most is {self.most}: the most questions that are asked until `kept` records are, and no fewer than these. "
                + ("Leave it out." if self.kept is None else "Raise it.")
            )
        return self

    @property
    def counts_questions(self) -> bool:
        """Whether the source would go on for ever, and has to be told how far."""
        return True

    @property
    def asked_at_most(self) -> int:
        """Questions, as far as a recipe says."""
        if self.kept is not None:
            return self.most or MOST_TIMES * self.kept
        assert self.number is not None
        return self.number

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        path, filters = getattr(self, "path", None), self.filters or ()
        of_filters = [Path(file) for one in filters for file in getattr(one, "paths", ())]
        return (*(() if path is None else (path,)), *of_filters)

    @property
    def used_filters(self) -> tuple[FilterConfig, ...]:
        """Those that are named, or the usual ones."""
        is_chat = isinstance(self, ConversationSynthesisConfig)
        return default_filters("chat" if is_chat else "text") if self.filters is None else self.filters

    def source(self, tokenizer: PreTrainedTokenizerBase | None, *, number: int | None = None) -> Source:
        """What asks the questions; files are read now. A `number` takes the place of its own."""
        wanted = self.asked_at_most if number is None else number
        return partial(self._asks(tokenizer), number=wanted, sampling=self.sampling, seed=self.seed)

    def in_rounds(self, tokenizer: PreTrainedTokenizerBase | None, sizes: Sizes) -> Source:
        """The same asked several times, each time for so many and with a seed of its own: the first rounds ask the same,
        however many follow."""
        rounds = [
            self.model_copy(update={"seed": self.seed + place * SEEDS_APART}).source(tokenizer, number=size)
            for place, size in enumerate(sizes)
        ]
        return lambda ask: [record for one in rounds for record in one(ask)]

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        raise NotImplementedError


class ConversationSynthesisConfig(_SynthesisConfig):
    """What all ways to make conversations have."""

    answers: AnswersConfig = AnswersConfig()
    turns: NonNegativeInt = 0
    """Questions that the user asks beyond the first, in each conversation."""
    user: UserConfig = UserConfig()
    choose: ChoiceConfig | None = None
    """Which of several answers is learnt; without it all are. See docs/rewards.md."""

    @model_validator(mode="after")
    def _there_is_a_choice(self) -> "ConversationSynthesisConfig":
        kind = self.choose.kind if self.choose else ""
        if kind in ("best_of_n", "agreement", "pairs") and self.answers.samples == 1:
            raise ValueError(
                f"choose.kind {kind} takes one of several answers, but answers.samples is 1. Raise it, or leave choose out."
            )
        return self

    @model_validator(mode="after")
    def _filters_have_answers_to_compare(self) -> "ConversationSynthesisConfig":
        for number, one in enumerate(self.used_filters):
            if isinstance(one, AgreementFilterConfig) and one.samples > self.answers.samples:
                raise ValueError(
                    f"filters.{number} (agreement) compares {one.samples} answers or more, but answers.samples is "
                    f"{self.answers.samples}. Raise it, or leave the filter out."
                )
        return self

    def answering(self) -> Answers:
        """How answers are asked for."""
        values = {name: getattr(self.answers, name) for name in AnswersConfig.model_fields}
        return Answers(**values, seed=self.seed)

    def further(self) -> Further:
        """Turns after the first answer."""
        return Further(self.turns, self.user.kind, self.user.sampling, self.seed)


class MagpieConfig(ConversationSynthesisConfig):
    """The teacher writes what users ask it, behind its template's opening of a user's turn: questions from nothing."""

    kind: Literal["magpie"]
    system: str = ""
    """A system prompt that says what the assistant is for, and so what it is asked. It stays out of the data."""

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        if tokenizer is None:
            raise DataError(
                "synthesis: kind magpie needs the tokenizer of whoever writes. Name it, or use kind topics."
            )
        user_opening(tokenizer, [{"role": "system", "content": self.system}] if self.system else [])
        return partial(magpie_questions, tokenizer=tokenizer, system=self.system)


class _ListedConfig(ConversationSynthesisConfig):
    at_once: PositiveInt = 5
    """Questions that are asked for in one list. A small teacher keeps better to 1."""


class TopicsConfig(_ListedConfig):
    """Questions about the leaves of a tree of topics."""

    kind: Literal["topics"]
    topics: tuple[str, ...] = ()
    """Where the tree begins."""
    root: str = ""
    """Or its root alone, from which the teacher grows it."""
    depth: NonNegativeInt | None = None
    """Levels that the teacher adds; if left out, none below `topics`, and two below a `root`."""
    width: PositiveInt = 6
    """Parts of a topic, at most."""

    @model_validator(mode="after")
    def _there_is_one_beginning(self) -> "TopicsConfig":
        if bool(self.topics) == bool(self.root.strip()):
            raise ValueError("give topics or a root: exactly one of them says where the tree of topics begins.")
        return self

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        depth = (0 if self.topics else 2) if self.depth is None else self.depth
        topics = self.topics or (self.root.strip(),)
        return partial(topic_questions, topics=topics, depth=depth, width=self.width, at_once=self.at_once)


class PersonasConfig(_ListedConfig):
    """Questions as different people would ask them."""

    kind: Literal["personas"]
    personas: tuple[str, ...] | PositiveInt = 20
    """People, each in a phrase; or how many the teacher is to think of."""
    about: str = ""
    """What they all have to do with, and ask about."""

    @field_validator("personas")
    @classmethod
    def _there_is_somebody(cls, value: tuple[str, ...] | int) -> tuple[str, ...] | int:
        if not value:
            raise ValueError("personas is empty. Name some, or give a number.")
        return value

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        return partial(persona_questions, personas=self.personas, about=self.about, at_once=self.at_once)


class SelfInstructConfig(ConversationSynthesisConfig):
    """A few tasks that people wrote grow into many."""

    kind: Literal["self_instruct"]
    path: Path
    """The seeds: Self-Instruct's own `seed_tasks.jsonl`, or any file of questions."""
    seed_examples: PositiveInt = 6
    """Seeds that a request shows."""
    own_examples: NonNegativeInt = 2
    """Of the teacher's own tasks that a request shows."""
    at_once: PositiveInt = 8
    """Tasks that are asked for in one list."""
    novelty: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A task as like another as this, in ROUGE-L over words, is left out."""

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        seeds = list(dict.fromkeys(record.question for record in read_questions(self.path)))
        return partial(
            self_instruct_questions,
            seeds=seeds,
            seed_examples=self.seed_examples,
            own_examples=self.own_examples,
            at_once=self.at_once,
            requests_per_round=self.batch_size,
            below=self.novelty,
            tokenizer=tokenizer if self.writer.kind == "teacher" else None,  # few servers go on with an answer
        )

    def in_rounds(self, tokenizer: PreTrainedTokenizerBase | None, sizes: Sizes) -> Source:
        """Each round goes on with the list of those before it."""
        asks = self._asks(tokenizer)

        def asked(ask: Ask) -> list[Record]:
            found: list[Record] = []
            for place, size in enumerate(sizes):
                before, seed = [record.question for record in found], self.seed + place * SEEDS_APART
                found += asks(ask, number=size, sampling=self.sampling, before=before, seed=seed)
            return found

        return asked


class DocumentsConfig(_ListedConfig):
    """Questions that passages of your documents answer. The teacher reads the passage when it answers."""

    kind: Literal["documents"]
    path: Path
    """A `.txt` or `.jsonl` file as for data of kind text, or a folder of them."""
    passage_words: PositiveInt = 200
    at_once: PositiveInt = 1
    """Questions to one passage that are asked for in one list."""
    student_reads: bool = False
    """Whether the passage stands before the question in what the student learns, too."""

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        texts = [f"{row.prompt}{row.text}" for row in read_rows(self.path, key="synthesis.path")]
        passages = list(passages_of(texts, words=self.passage_words))
        return partial(document_questions, passages=passages, at_once=self.at_once, student_reads=self.student_reads)


class QuestionsConfig(ConversationSynthesisConfig):
    """Questions that you have, in a file or as templates with slots."""

    kind: Literal["questions"]
    number: PositiveInt | None = None
    """At most so many; all if left out."""
    path: Path | None = None
    """A file of questions, with or without answers."""
    templates: tuple[str, ...] = ()
    """Or prompts with slots in braces, such as `Write a story about a {animal}.`"""
    slots: Slots = Field(default_factory=dict)
    """The words that may stand in each slot."""
    columns: tuple[str, ...] = ()
    """Columns of `path` that are kept in the lineage by their names, as what a checker needs."""

    @model_validator(mode="after")
    def _there_is_one_source(self) -> "QuestionsConfig":
        if (self.path is None) == (not self.templates):
            raise ValueError("give path or templates: exactly one of them says where the questions are.")
        check_templates(self.templates, self.slots)
        return self

    @property
    def counts_questions(self) -> bool:
        """A file has an end."""
        return False

    def in_rounds(self, tokenizer: PreTrainedTokenizerBase | None, sizes: Sizes) -> Source:
        """So many more of them in each round."""
        return self.source(tokenizer, number=sum(sizes))

    def source(self, tokenizer: PreTrainedTokenizerBase | None, *, number: int | None = None) -> Source:
        """The first of them; nobody is asked."""
        if self.path is not None:
            found: Sequence[Record] = read_questions(self.path, columns=self.columns)
        else:
            found = template_questions(self.templates, self.slots, seed=self.seed)
        records = list(found[: self.number if number is None else number])

        def known(_ask: Ask) -> list[Record]:
            return records

        return known


class GroundedConfig(_SynthesisConfig):
    """The teacher answers questions over retrieved passages, and asks them where there are none; for data of kind rag."""

    kind: Literal["grounded"]
    number: PositiveInt | None = None
    """Questions that are written about passages, where `data.path` names none."""
    sampling: Sampling = Sampling(temperature=0.8, max_new_tokens=64)
    """How questions are written, where they are."""
    answers: AnswersConfig = AnswersConfig(sampling=Sampling(temperature=0.0, max_new_tokens=64))
    """How they are answered: at temperature 0, once. With more `samples` those must agree."""
    citing: Citing = "added"
    """`asked`: an answer without a citation is dropped. `added`: it gets one by its words. `none`: as it is."""
    precision: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of an answer's words that must stand in the passages."""
    recall: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a right answer's words that it must have, where one is known. 0 learns wrong answers too."""
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Mean ROUGE-L that it must have with the other samples."""

    @property
    def counts_questions(self) -> bool:
        """Those of `data.path` are as many as there are."""
        return False

    @property
    def used_filters(self) -> tuple[FilterConfig, ...]:
        """Those that are named, behind the checks that every answer must stand up to; or the usual ones."""
        return (UnfinishedConfig(), RepetitionConfig()) if self.filters is None else self.filters

    def answering(self) -> Answers:
        """How answers are asked for."""
        return Answers(sampling=self.answers.sampling, samples=self.answers.samples, seed=self.seed)

    @property
    def checks(self) -> Checks:
        """What an answer must stand up to."""
        return Checks(self.citing, self.precision, self.recall, self.agreement)

    @model_validator(mode="after")
    def _questions_are_counted_once(self) -> "GroundedConfig":
        if self.kept is not None or self.most is not None:
            raise ValueError("kind grounded asks its questions once. Give number in the place of kept and most.")
        if self.spread_by is not None:
            raise ValueError(
                "spread_by is about questions that are written from nothing. Leave it out of kind grounded."
            )
        return self

    @model_validator(mode="after")
    def _only_some_ways_to_answer(self) -> "GroundedConfig":
        usual = AnswersConfig(sampling=self.answers.sampling, samples=self.answers.samples)
        if self.answers != usual:
            raise ValueError(
                "answers of kind grounded know sampling and samples alone: what is read stands in data.template. Leave the "
                "others out."
            )
        return self


StartConfig = Annotated[
    MagpieConfig | TopicsConfig | PersonasConfig | SelfInstructConfig | DocumentsConfig | QuestionsConfig,
    Field(discriminator="kind"),
]
"""Who asks the questions that are evolved."""

ONLY_WHOLE = ("answers", "turns", "user", "choose", "filters", "writer", "kept", "most", "spread_by")
"""Keys that are about whole records, and so mean nothing where only questions are asked."""


class EvolveConfig(ConversationSynthesisConfig):
    """Questions are written anew, harder or about something else, some rounds one after the other."""

    kind: Literal["evolve"]
    path: Path | None = None
    """A file of questions to start from."""
    start: StartConfig | None = None
    """Or another kind that asks them, such as `{kind: topics, topics: [...], number: 50}`, with what says how it asks alone."""
    rounds: PositiveInt = 2
    ways: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(WAYS)
    """Which way each goes is drawn from these."""

    @field_validator("ways")
    @classmethod
    def _ways_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [way for way in value if way not in WAYS]
        if unknown:
            raise ValueError(f"ways has {unknown[0]!r}. Known: {', '.join(WAYS)}.")
        return value

    @model_validator(mode="after")
    def _there_is_one_start(self) -> "EvolveConfig":
        if (self.path is None) == (self.start is None):
            raise ValueError("give path or start: exactly one of them says which questions are evolved.")
        if self.start is None:
            return self
        fields = type(self.start).model_fields
        idle = [name for name in ONLY_WHOLE if name in fields and getattr(self.start, name) != fields[name].default]
        if idle:
            raise ValueError(
                f"start.{idle[0]} is given, but what starts only asks questions: they are rewritten, and these are answered. "
                f"Say synthesis.{idle[0]}."
            )
        return self

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file or folder that is read."""
        return (*super().sources, *(self.start.sources if self.start else ()))

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        evolved = partial(evolved_questions, rounds=self.rounds, ways=self.ways)
        if self.start is None:
            assert self.path is not None
            return partial(evolved, start=read_questions(self.path))
        first = self.start.model_copy(update={"writer": self.writer}).source(tokenizer)

        def asked(ask: Ask, **settings: Any) -> list[Record]:
            found = [record for record in first(ask) if not record.dropped]
            return evolved(ask, start=found, **settings)

        return partial(asked)


class ContinueConfig(_SynthesisConfig):
    """A model that holds no conversations writes texts: from nothing, or from how they begin."""

    kind: Literal["continue"]
    prefixes: Annotated[tuple[str, ...], Field(min_length=1)] = ("",)
    """How texts begin, in turn, with or without slots in braces; an empty one is nothing."""
    slots: Slots = Field(default_factory=dict)
    """The words that may stand in each slot."""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _every_slot_is_known(self) -> "ContinueConfig":
        check_templates(self.prefixes, self.slots)
        return self

    def _asks(self, tokenizer: PreTrainedTokenizerBase | None) -> "partial[list[Record]]":
        prefixes = filled_templates(self.prefixes, self.slots, seed=self.seed)
        return partial(continued_texts, prefixes=prefixes, beginning=_beginning(tokenizer))


def _beginning(tokenizer: PreTrainedTokenizerBase | None) -> str:
    """What a tokenizer puts before every text, written out."""
    if tokenizer is None or tokenizer.bos_token is None:
        return ""
    puts = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if puts else ""


def _kind(values: Any) -> str:
    """The kind that is said, or else prompts."""
    found = values.get("kind", "prompts") if isinstance(values, dict) else getattr(values, "kind", "prompts")
    return str(found)


SynthesisConfig = Annotated[
    Annotated[PromptSynthesisConfig, Tag("prompts")]
    | Annotated[MagpieConfig, Tag("magpie")]
    | Annotated[TopicsConfig, Tag("topics")]
    | Annotated[PersonasConfig, Tag("personas")]
    | Annotated[SelfInstructConfig, Tag("self_instruct")]
    | Annotated[EvolveConfig, Tag("evolve")]
    | Annotated[DocumentsConfig, Tag("documents")]
    | Annotated[QuestionsConfig, Tag("questions")]
    | Annotated[GroundedConfig, Tag("grounded")]
    | Annotated[ContinueConfig, Tag("continue")],
    Discriminator(_kind),
]
"""A recipe's `synthesis`; without a `kind` it is prompts."""


class HistoryConfig(Config):
    """The teacher answers in the data's conversations: every turn of the assistant anew, behind its own former ones."""

    sampling: Sampling = Sampling()
    """How it answers. `max_new_tokens` is that of one turn."""
    batch_size: PositiveInt = 32
    """Conversations answered at once."""
    seed: Seed = 0
