"""A recipe that makes a retriever: documents and questions, who scores passages, who learns it, and by which objectives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from stillhouse.core.config import Config
from stillhouse.core.faults import nearest
from stillhouse.models.generate import Sampling
from stillhouse.objectives import RANKINGS, FeatureObjective, objective
from stillhouse.retrieval.documents import Language
from stillhouse.retrieval.embed import Similarity
from stillhouse.retrieval.mining import FalseNegatives
from stillhouse.retrieval.storage import Precision
from stillhouse.training.config import ObjectiveConfig
from stillhouse.training.ranking_terms import RankingTerm
from stillhouse.training.trainer import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]
Source = Literal["bm25", "student", "teacher"]

IMITATING = Schedule(epochs=2, learning_rate=5e-4, rows_per_step=32, rows_per_micro_batch=32)
"""Of imitation, where a recipe says nothing else: a row is a text."""


def _has_no_savings(schedule: Schedule) -> Schedule:
    if schedule.precision != "float32":
        raise ValueError(f"precision is {schedule.precision}, but retrievers learn in float32. Leave it out.")
    if schedule.compile:
        raise ValueError("compile is true, which retrievers do not know. Leave it out.")
    if schedule.gradient_checkpointing:
        raise ValueError(
            "gradient_checkpointing is true, which retrievers do not know. Leave it out, and lower rows_per_micro_batch."
        )
    return schedule


OwnSchedule = Annotated[Schedule, AfterValidator(_has_no_savings)]
"""Of a training by sentence-transformers' trainer."""


class RetrievalDataConfig(Config):
    """Documents, and questions with the passages that answer them."""

    kind: Literal["retrieval"]
    path: Path | None = None
    """A folder in BEIR's form: corpus.jsonl, queries.jsonl and qrels/*.tsv. Its passages stay as they are."""
    documents: Path | None = None
    """A file or folder of text, Markdown, HTML, PDF or JSON lines, to be cut into passages; or a `datasets` data set with a
    column `text`: a folder that `save_to_disk` wrote, or an id on the hub, with its split behind an @ (`owner/name@test`)."""
    questions: Path | None = None
    """JSON lines of `question` and `passages`: ids, or names of documents or files; beside `documents`."""
    passage_words: PositiveInt = 150
    """About how many words a passage of a document has."""
    held_out: Share = 0.2
    """Share of the questions that nobody trains on, and that all are judged by."""
    held_out_split: str | None = None
    """Of a BEIR folder: the qrels, such as `test`, whose questions are held out in the place of a share."""
    held_out_most: PositiveInt = 1000
    """Of more held-out questions, so many are judged by, evenly spread."""
    query_language: Language = "english"
    """How BM25 cuts words off their endings."""

    @model_validator(mode="after")
    def _there_are_documents(self) -> "RetrievalDataConfig":
        if (self.path is None) == (self.documents is None):
            raise ValueError("give data.path (a BEIR folder), or data.documents: exactly one of them.")
        if self.path is not None and self.questions is not None:
            raise ValueError("a BEIR folder has questions of its own. Leave data.questions out, or use data.documents.")
        if self.held_out_split is not None and self.path is None:
            raise ValueError("held_out_split names qrels of a BEIR folder, and there is none. Use held_out.")
        return self


class QuestionSynthesisConfig(Config):
    """Questions that a language model asks about the passages, where there are none."""

    kind: Literal["documents"] = "documents"
    model: str
    """The language model that asks, with a chat template: a hub id, a folder, or a GGUF file."""
    number: PositiveInt
    """Questions that are asked for; those that do not lead back to their passage are left out."""
    round_trip: PositiveInt = 10
    """A question is kept if its own passage is among so many that BM25 or the student before training finds for it."""
    sampling: Sampling = Sampling(max_new_tokens=64, temperature=0.8)
    batch_size: PositiveInt = 16
    seed: NonNegativeInt = 0


class CrossEncoderConfig(Config):
    """A model that reads question and passage together. Its raw logits are taken, never their sigmoid."""

    kind: Literal["cross_encoder"]
    model: str
    max_tokens: PositiveInt = 256
    """Of question and passage together."""
    batch_size: PositiveInt = 32


class BiEncoderConfig(Config):
    """A stronger embedding model."""

    kind: Literal["bi_encoder"]
    model: str
    similarity: Similarity | None = None
    """The model's own, if left out."""
    max_tokens: PositiveInt = 256
    batch_size: PositiveInt = 32


class AnswerConfig(Config):
    """A language model: how likely it finds the answer, which the questions must then have, once it has read the passage."""

    kind: Literal["answer"]
    model: str
    max_tokens: PositiveInt = 512
    batch_size: PositiveInt = 8


OneTeacherConfig = Annotated[CrossEncoderConfig | BiEncoderConfig | AnswerConfig, Field(discriminator="kind")]


class EnsembleConfig(Config):
    """Several teachers, each brought to a unit of its own first."""

    kind: Literal["ensemble"]
    teachers: Annotated[tuple[OneTeacherConfig, ...], Field(min_length=2)]
    weights: tuple[NonNegativeFloat, ...] | None = None
    """One each; all alike, if left out."""

    @model_validator(mode="after")
    def _each_has_a_weight(self) -> "EnsembleConfig":
        if self.weights is not None and (len(self.weights) != len(self.teachers) or not sum(self.weights)):
            raise ValueError(
                f"there are {len(self.teachers)} teachers and the weights are {list(self.weights)}. Give each one weight."
            )
        return self


TeacherConfig = Annotated[
    CrossEncoderConfig | BiEncoderConfig | AnswerConfig | EnsembleConfig, Field(discriminator="kind")
]


class _StudentConfig(Config):
    similarity: Similarity | None = None
    """How its embeddings are compared; the model's own, if left out."""
    max_tokens: PositiveInt = 256
    """Of a question or a passage; what is longer is cut."""


class LayersConfig(_StudentConfig):
    """Some layers of an embedding model."""

    kind: Literal["from_layers"]
    model: str | None = None
    """An embedding model; a bi-encoder teacher's own, if left out."""
    keep: PositiveInt | tuple[NonNegativeInt, ...]
    """How many layers, evenly spread, or which: the first is 0."""


class CheckpointConfig(_StudentConfig):
    """Any embedding model, also one with separate encoders for questions and passages."""

    kind: Literal["checkpoint"]
    model: str


class StaticConfig(_StudentConfig):
    """A vector a token and nothing else: hundreds of times as fast."""

    kind: Literal["static"]
    model: str | None = None
    """The embedding model that its vectors are made by; a bi-encoder teacher's own, if left out."""
    dimensions: PositiveInt = 256


class RerankerConfig(_StudentConfig):
    """Some layers of the teacher, a cross-encoder: a smaller cross-encoder, which orders what BM25 finds."""

    kind: Literal["cross_encoder"]
    keep: PositiveInt | tuple[NonNegativeInt, ...]


StudentConfig = Annotated[LayersConfig | CheckpointConfig | StaticConfig | RerankerConfig, Field(discriminator="kind")]


class EmbeddingImitationConfig(Config):
    """The student is trained to embed passages and questions as another model does, before it ranks any. That model embeds each
    text once."""

    kind: Literal["embeddings"]
    model: str | None = None
    """Any embedding model, whatever its tokens and width; if left out, the one that the student is made of."""
    training: OwnSchedule = IMITATING


class StatesImitationConfig(Config):
    """The same by what is inside the layers of a model that reads the same tokens, such as MiniLM's relations. That model runs
    in every step."""

    kind: Literal["states"]
    model: str | None = None
    """An embedding model; if left out, the one that the student is made of."""
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)]
    """Whatever data of kind `sentences` can be learnt by: hidden states, attention, relations, and embeddings beside them."""
    training: Schedule = IMITATING


class FittedImitationConfig(Config):
    """The vectors of a static student by which its embeddings of passages and questions come nearest to an embedding model's:
    they solve one system of linear equations, and nothing has to be trained."""

    kind: Literal["least_squares"]
    model: str | None = None
    """Any embedding model; if left out, the one that the student's vectors are made by."""
    ridge: PositiveFloat = 0.003
    """How strongly a token's vector is held to what it was: of few texts more, of many less."""


ImitationConfig = Annotated[
    EmbeddingImitationConfig | StatesImitationConfig | FittedImitationConfig, Field(discriminator="kind")
]


class NegativesConfig(Config):
    """Which passages a question's own is compared with."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = ("bm25", "student")
    """Who finds them, in turn: `bm25`, the `student` before training, a bi-encoder `teacher`."""
    number: PositiveInt = 7
    """Negatives a question."""
    depth: PositiveInt = 20
    """Candidates a question that the teacher scores."""
    pick: Literal["hardest", "random"] = "hardest"
    margin: NonNegativeFloat | None = None
    """Left out if the teacher scores one above the positive less this."""
    relative_margin: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Left out above the positive less this share of it: 0.05 keeps what is below 95 %."""
    max_score: float | None = None
    """Left out above this score."""
    percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    """Left out above this percentile of all positives' scores."""

    @model_validator(mode="after")
    def _there_are_enough(self) -> "NegativesConfig":
        if self.depth < self.number:
            raise ValueError(
                f"depth is {self.depth}, fewer than the {self.number} negatives that are wanted. Raise it."
            )
        return self

    @property
    def filters(self) -> FalseNegatives:
        """What is left out."""
        return FalseNegatives(self.margin, self.relative_margin, self.max_score, self.percentile)


class RankingObjectiveConfig(Config):
    """One objective by name, with its weight and its own parameters beside them (such as `scale`)."""

    model_config = ConfigDict(extra="allow")  # the objective itself says which parameters it has
    __pydantic_extra__: dict[str, float]

    name: str
    weight: NonNegativeFloat = 1.0
    """Its share of the total, as it is: weights need not add up to 1."""

    @model_validator(mode="after")
    def _is_of_rankings(self) -> "RankingObjectiveConfig":
        known = ["name", "weight", *objective(self.name).parameters]
        unknown = [key for key in self.model_extra or {} if key not in known]
        if unknown:
            raise ValueError(f"{self.name} has no key {unknown[0]!r}.{nearest(unknown[0], known)}")
        _ = self.build()
        return self

    def build(self) -> RankingTerm:
        """The term that the trainer sums."""
        return RankingTerm(self.name, self.weight, self.model_extra or {})


class IndexConfig(Config):
    """How the passages are kept beside the student."""

    precision: Precision = "float32"
    """Of the stored embeddings: `float32`, or `int8` or `binary`, which take a quarter and a thirty-second of the room."""
    exact_up_to: PositiveInt = 100_000
    """Passages above which the search is approximate."""
    bm25: bool = True
    """Whether a BM25 index is kept beside it, for searching by both."""


class RetrievalEvaluationConfig(Config):
    """What is judged beside the student."""

    ignore_same_id: bool = False
    """Take a passage out of what is found if its id is the question's own, as BEIR's evaluation does."""
    rerank_depth: PositiveInt = 30
    """Candidates that a cross-encoder reads, teacher or student: of BM25 and of the student before training, fused."""
    precisions: tuple[Precision, ...] = ("int8", "binary")
    """Coarser embeddings of the student, a row each."""
    dimensions: tuple[PositiveInt, ...] = ()
    """Shorter embeddings of the student, a row each."""


class RetrievalRecipe(Config):
    """Documents, questions, a teacher, a student: one retriever."""

    run: Path
    """The folder that this recipe fills."""
    teacher: TeacherConfig
    student: StudentConfig
    data: RetrievalDataConfig
    synthesis: QuestionSynthesisConfig | None = None
    """Where it is given, a language model asks the questions."""
    imitation: ImitationConfig | None = None
    """Where it is given, the student first learns the embeddings of all passages and questions, which takes no negatives."""
    negatives: NegativesConfig = NegativesConfig()
    objectives: tuple[RankingObjectiveConfig, ...] = Field(min_length=1)
    matryoshka: tuple[PositiveInt, ...] = ()
    """Shorter embeddings that are trained beside the whole one: each objective is averaged over all widths."""
    training: OwnSchedule = Schedule()
    index: IndexConfig = IndexConfig()
    evaluation: RetrievalEvaluationConfig = RetrievalEvaluationConfig()

    @model_validator(mode="after")
    def _there_are_questions(self) -> "RetrievalRecipe":
        if self.data.documents is not None and (self.data.questions is None) == (self.synthesis is None):
            raise ValueError(
                "give data.questions or synthesis: exactly one of them says what is asked of data.documents."
            )
        if self.data.path is not None and self.synthesis is not None:
            raise ValueError("a BEIR folder has questions of its own. Leave synthesis out, or use data.documents.")
        return self

    @model_validator(mode="after")
    def _the_student_is_made_of_something(self) -> "RetrievalRecipe":
        student = self.student
        if isinstance(student, RerankerConfig) and not isinstance(self.teacher, CrossEncoderConfig):
            raise ValueError(
                f"student.kind cross_encoder is made of the teacher's layers, but the teacher is of kind {self.teacher.kind}. "
                "Name a cross_encoder, or another student."
            )
        if isinstance(student, LayersConfig | StaticConfig) and self.start is None:
            raise ValueError(
                f"student.model must be given: a teacher of kind {self.teacher.kind} has no embeddings to make it of."
            )
        return self

    @model_validator(mode="after")
    def _the_student_can_imitate(self) -> "RetrievalRecipe":
        imitation, student = self.imitation, self.student
        if imitation is None:
            return self
        if self.reranks:
            raise ValueError("a cross_encoder student has no embeddings to imitate with. Leave imitation out.")
        is_static = isinstance(student, StaticConfig)
        if is_static != isinstance(imitation, FittedImitationConfig):
            fits = "least_squares" if is_static else "embeddings or states"
            raise ValueError(
                f"imitation.kind is {imitation.kind}, but a student of kind {student.kind} imitates by {fits}. Say that, or "
                "leave imitation out."
            )
        if isinstance(imitation, StatesImitationConfig):
            for name in (chosen.name for chosen in imitation.objectives):
                found = objective(name)
                if not isinstance(found, FeatureObjective) or found.is_dual:
                    raise ValueError(
                        f"imitation.objectives names {name}, but sentences alone can teach embeddings and what is inside the "
                        "layers, such as embedding_cosine, hidden_mse or multi_head_relation_kl."
                    )
        return self

    @property
    def start(self) -> str | None:
        """The model that the student is made of."""
        named = getattr(self.student, "model", None)
        if named or isinstance(self.teacher, AnswerConfig | EnsembleConfig):
            return named
        return self.teacher.model if isinstance(self.teacher, CrossEncoderConfig) == self.reranks else None

    @property
    def reranks(self) -> bool:
        """Whether the student is a cross-encoder."""
        return isinstance(self.student, RerankerConfig)

    @property
    def reads_embeddings(self) -> bool:
        """Whether an objective compares embeddings themselves."""
        return any(chosen.build().reads == "embeddings" for chosen in self.objectives)

    @model_validator(mode="after")
    def _objectives_can_teach(self) -> "RetrievalRecipe":
        faults = []
        names = [chosen.name for chosen in self.objectives]
        if len(set(names)) < len(names):
            faults.append(f"objectives names {max(names, key=names.count)!r} twice. Name each once, with one weight.")
        if not any(chosen.weight for chosen in self.objectives):
            faults.append("every weight in objectives is 0, so there is nothing to learn. Give one a weight.")
        if self.reads_embeddings and not isinstance(self.teacher, BiEncoderConfig):
            faults.append(
                f"embeddings are compared with a bi_encoder's, but the teacher is of kind {self.teacher.kind}. Use one of "
                f"{', '.join(RANKINGS)}."
            )
        if self.reranks and any(objective(name).reads != "scores" for name in names):
            faults.append(
                "a cross_encoder student has neither embeddings nor a batch to find passages in. Use margin_mse."
            )
        if self.reranks and (self.matryoshka or self.evaluation.dimensions):
            faults.append("a cross_encoder student has no embeddings to shorten. Leave matryoshka and dimensions out.")
        if "teacher" in self.negatives.sources and not isinstance(self.teacher, BiEncoderConfig):
            faults.append("negatives.sources names the teacher, but only a bi_encoder finds passages. Leave it out.")
        if self.reranks and "student" in self.negatives.sources:
            faults.append("negatives.sources names the student, but a cross-encoder finds no passages. Use [bm25].")
        if faults:
            raise ValueError(" ".join(faults))
        return self

    def parameter(self, name: str, default: float) -> float:
        """What an objective says of this parameter, the first that has it."""
        said: list[Mapping[str, Any]] = [chosen.model_extra or {} for chosen in self.objectives]
        return float(next((values[name] for values in said if name in values), default))
