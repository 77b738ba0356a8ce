"""The parts of one recipe, each made when it is first asked for: models, tokenizers, data, and what they are known by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.commands.checks import tokenizer_source
from stillhouse.commands.parts.identity import data_fingerprint, student_fingerprint
from stillhouse.commands.parts.learnt import rows_of, with_answers
from stillhouse.commands.parts.replay import read_replayed
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.sources import askable
from stillhouse.core.alignment import CommonOutcomes
from stillhouse.core.cluster import Cluster
from stillhouse.core.files import fingerprint, fingerprint_files
from stillhouse.core.objects import fetched
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.core.signals import Pooling
from stillhouse.data.asked import Asked
from stillhouse.data.config import ChatDataConfig, RagDataConfig
from stillhouse.data.prepare import Prepared, prepare
from stillhouse.data.replay import Replayed
from stillhouse.data.rowset import RowSet
from stillhouse.models.generate import stop_ids_of
from stillhouse.models.labels import answers_of
from stillhouse.models.load import (
    LoadedModel,
    display_name,
    load_config,
    load_model,
    load_tokenizer,
    source_fingerprint,
)
from stillhouse.models.sentence_folder import Embedding, read_embedding
from stillhouse.models.token_bytes import common_outcomes
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.models.vllm_engine import VllmModel
from stillhouse.synthesis import ANSWERS, SYNTHETIC, answered_by, each_answer
from stillhouse.synthesis.config import PromptSynthesisConfig
from stillhouse.teachers import RemoteTeacherConfig, RemoteWriter
from stillhouse.teachers.hands import Hands, OwnHands, RayHands, Spoken, Voice
from stillhouse.teachers.hosted import begin_vllm, by_vllm, is_hosted, voice_elsewhere
from stillhouse.training.sources import OfflineConfig, answering_of


class Parts:
    """What a recipe's stages work with."""

    def __init__(self, recipe: Recipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.cluster: Cluster | None = None
        """Where the teacher labels and writes; None is in this process."""
        self.looks_into_labels = False
        """Whether labels that lie elsewhere are all fetched, to see that they are what was written."""

    # The teacher, and how both read.

    @property
    def remote(self) -> RemoteTeacherConfig | None:
        """The teacher, where it is behind an API: then none is loaded, and it has no configuration."""
        teacher = self.recipe.teacher
        return teacher if isinstance(teacher, RemoteTeacherConfig) else None

    @cached_property
    def teacher(self) -> LoadedModel:
        """The teacher, loaded; a classifier's answers are those of the data."""
        labels = self.labels
        self.let_go_of_vllm()
        self.progress.say(f"loading the teacher, {display_name(self.recipe.teacher.model)}")
        return load_model(self.recipe.teacher.model, self.recipe.task, labels=labels)

    def let_go_of_the_teacher(self) -> None:
        """It is loaded anew when it is next asked for."""
        self.__dict__.pop("teacher", None)

    @cached_property
    def hosted(self) -> VllmModel:
        """The teacher, where vLLM runs it while it writes and labels."""
        assert is_hosted(self.recipe.teacher), "another engine runs it"
        self.progress.say(f"vLLM loads the teacher, {display_name(self.recipe.teacher.model)}")
        return begin_vllm(self.recipe.teacher)

    def let_go_of_vllm(self) -> None:
        """Others have its memory; it begins anew when it is next asked for."""
        found = self.__dict__.pop("hosted", None)
        if found is not None:
            found.close()

    @property
    def voice(self) -> Spoken:
        """Who writes as the teacher, in this process."""
        return Voice(self.hosted, self.teacher_tokenizer) if is_hosted(self.recipe.teacher) else self.teacher

    @property
    def embedding(self) -> Embedding:
        """How the teacher makes embeddings, without its weights."""
        return read_embedding(self.recipe.teacher.model)

    @contextmanager
    def hands(self) -> Iterator[Hands]:
        """Who writes as the teacher, which is loaded here, or by each of those on a cluster."""
        if self.cluster is None:
            yield OwnHands(self.voice.model, self.teacher_tokenizer)
            return
        load = voice_elsewhere(self.recipe.teacher)
        with RayHands(self.cluster, load, progress=self.progress) as hands:
            yield hands

    @cached_property
    def teacher_config(self) -> PretrainedConfig:
        """The teacher's shape, without its weights."""
        return load_config(self.recipe.teacher.model)

    @cached_property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer; of one behind an API the student's, in which alone its words are read here."""
        return self.tokenizer if self.remote else load_tokenizer(self.recipe.teacher.model)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's tokenizer: the teacher's, unless it is a checkpoint with one of its own."""
        return load_tokenizer(tokenizer_source(self.recipe))

    @property
    def crosses(self) -> bool:
        """Whether teacher and student read a text in other tokens, and so each in its own."""
        return self.remote is None and tokenizer_source(self.recipe) != self.recipe.teacher.model

    @property
    def is_paired(self) -> bool:
        """Whether the data is cut for both tokenizers."""
        return self.crosses or any(chosen.compares_spans for chosen in self.recipe.objectives)

    @property
    def other_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The teacher's tokenizer where the data is cut for both; None where one cut serves."""
        return self.teacher_tokenizer if self.is_paired else None

    @cached_property
    def common(self) -> CommonOutcomes | None:
        """What both vocabularies can begin, where the data is cut for both."""
        if not self.is_paired:
            return None
        ours, theirs = end_of_turn(self.tokenizer), end_of_turn(self.teacher_tokenizer)
        pairs: list[tuple[int, int]] = []
        if isinstance(self.recipe.data, ChatDataConfig) and ours is not None and theirs is not None:
            pairs = [(ours, theirs)]
        return common_outcomes(self.tokenizer, self.teacher_tokenizer, pairs=pairs)

    @property
    def pooling(self) -> Pooling | None:
        """How embeddings are pooled; None where none are."""
        return self.embedding.pooling if self.recipe.task == "sentence_embedding" else None

    @property
    def _names_answers(self) -> bool:
        return self.recipe.task in ("sequence_classification", "token_classification")

    @property
    def labels(self) -> tuple[str, ...] | None:
        """What classes or tags are called, where there are any."""
        return self.data.labels if self._names_answers else None

    @property
    def num_answers(self) -> int:
        """Rows of a head that mean something: the tokenizer's tokens, or the classes."""
        if self.recipe.task in ("causal_lm", "masked_lm", "sentence_embedding"):
            return len(self.tokenizer)
        return max(1, len(self.data.labels))

    def stop_ids(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> set[int]:
        """All tokens that end an answer: the model's own, and the one that the data ends with; in the tokens of this tokenizer,
        or of the student's."""
        return stop_ids_of(model) | self.ends(tokenizer or self.tokenizer)

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> set[int]:
        """What the data ends an answer with, in the tokens of this tokenizer."""
        found = end_of_turn(tokenizer) if isinstance(self.recipe.data, ChatDataConfig) else tokenizer.eos_token_id
        return {found} if isinstance(found, int) else set()

    # Where the data lies, and what is read of it.

    @property
    def documents(self) -> Path:
        """Where the teacher's own text is written, or its conversations."""
        wanted = self.recipe.synthesis
        by_prompts = not self.answers_first and (wanted is None or isinstance(wanted, PromptSynthesisConfig))
        return self.run.data / ("documents.jsonl" if by_prompts else SYNTHETIC)

    @property
    def data_path(self) -> Path:
        """Where the training text comes from."""
        given = self.recipe.data.path
        return self.documents if self.answers_first or given is None else fetched(given)

    @property
    def answers_first(self) -> bool:
        """Whether `data.path` holds questions that are answered over passages before anything can be learnt."""
        return isinstance(self.recipe.data, RagDataConfig)

    @property
    def rewritten(self) -> Path:
        """Where the conversations are in which the teacher answers."""
        return self.run.data / "conversations.jsonl"

    @property
    def answers(self) -> Path:
        """Where the teacher's answers to the data's prompts are written."""
        return self.run.path / "answers" / ANSWERS

    @cached_property
    def data(self) -> Prepared:
        """Rows to train on, and rows held out."""
        source = self.recipe.source
        seed, answers = self.recipe.training.seed, answers_of(self.teacher_config) if self._names_answers else ()
        return prepare(
            self.recipe.data,
            self.tokenizer,
            path=self.data_path,
            seed=seed,
            answers=answers,
            teacher_tokenizer=self.other_tokenizer,
            rewritten=self.rewritten if self.recipe.history is not None and self.rewritten.exists() else None,
            answer_tokens=0 if isinstance(source, OfflineConfig) else source.sampling.max_new_tokens,
        )

    def read_anew(self) -> None:
        """Forget the data as it was read before the teacher answered in it."""
        for name in ("data", "asked"):
            self.__dict__.pop(name, None)

    @cached_property
    def replayed(self) -> Replayed | None:
        """Other data to mix in and to judge by, where the recipe asks for it."""
        return read_replayed(self.recipe, self.data_path, self.tokenizer, teacher_tokenizer=self.other_tokenizer)

    # What is asked and answered.

    @cached_property
    def asked(self) -> Sequence[Asked]:
        """What student or teacher is asked, where the recipe lets it answer."""
        at_last = answering_of(self.recipe.source) is not None
        return askable(self.data.asked, max_tokens=self.recipe.data.sequence_tokens, at_last=at_last)

    @cached_property
    def taught(self) -> Sequence[Asked]:
        """What is asked with the teacher's answers, of which those are empty that cannot be read in the student's tokens."""
        return answered_by(self.asked, each_answer(self.answers))

    @cached_property
    def answered(self) -> Sequence[Asked]:
        """What is asked, with the answers to learn that the student does not write: the data's, or the teacher's."""
        if answering_of(self.recipe.source) is None:
            return self.asked
        return with_answers(self.asked, self.taught, keeps_all=self.recipe.source.kind == "mixed", file=self.answers)

    @cached_property
    def learnt(self) -> RowSet:
        """What a student learns that writes nothing itself."""
        if self.recipe.source.kind != "teacher":
            return self.data.train
        return rows_of(self.answered, is_paired=self.is_paired, row_tokens=self.recipe.data.sequence_tokens)

    # What they are known by.

    @cached_property
    def teacher_fingerprint(self) -> str:
        """Hash of the teacher's files, or of whom is asked in its place."""
        if self.remote is not None:
            return RemoteWriter(self.remote).fingerprint
        found = source_fingerprint(self.recipe.teacher.model)
        # In other sums texts go on otherwise, and labels end in other digits.
        return fingerprint([found, *by_vllm(self.recipe.teacher)]) if is_hosted(self.recipe.teacher) else found

    @cached_property
    def student_fingerprint(self) -> str:
        """Hash of the student's recipe, and of the files beside the teacher's that it is made from."""
        return student_fingerprint(self.recipe)

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of the data and of everything that turns it into tokens."""
        read_by = [self.tokenizer] if self.is_paired or self.remote else []
        return data_fingerprint(self.recipe, self.data_path, teacher=self.teacher_fingerprint, read_by=read_by)

    @cached_property
    def learnt_fingerprint(self) -> str:
        """Hash of the data, and of what the teacher answered."""
        if answering_of(self.recipe.source) is None:
            return self.data_fingerprint
        return fingerprint([self.data_fingerprint, fingerprint_files([self.answers])])
