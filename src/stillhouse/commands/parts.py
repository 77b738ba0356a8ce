"""The parts of one recipe, each made when it is first asked for: models, tokenizer, data, and what they are known by."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.commands.checks import student_depth, tokenizer_source
from stillhouse.commands.labels import recorder_of
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.sources import askable
from stillhouse.core.alignment import CommonOutcomes
from stillhouse.core.batch import Batch, as_batch
from stillhouse.core.config import Config
from stillhouse.core.errors import DataError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files
from stillhouse.core.progress import Progress
from stillhouse.core.results import Role
from stillhouse.core.run import RunFolder
from stillhouse.core.signals import Pooling
from stillhouse.data.asked import Asked, packed
from stillhouse.data.chat_forms import Conversation, read_conversations
from stillhouse.data.config import ChatDataConfig, TextDataConfig
from stillhouse.data.context import ContextRows, views_of
from stillhouse.data.examples import Example
from stillhouse.data.packing import PackedRows, to_batch
from stillhouse.data.paired import PairedRows
from stillhouse.data.prepare import Prepared, chat_sides, prepare
from stillhouse.data.replay import Replayed, read_replay
from stillhouse.data.rowset import PaddedRows, RowSet
from stillhouse.data.text import read_rows
from stillhouse.evaluation import Elsewhere
from stillhouse.evaluation.context import InContext
from stillhouse.kernels.terms import Term
from stillhouse.labelling import Recorder
from stillhouse.labelling.config import LabelsConfig
from stillhouse.models.adapters import load_adapter, save_adapter
from stillhouse.models.anatomy import num_layers, text_config
from stillhouse.models.generate import stop_ids_of
from stillhouse.models.labels import answers_of, check_labels, labels_of
from stillhouse.models.load import (
    LABELLED_TASKS,
    LoadedModel,
    display_name,
    load_config,
    load_in_4_bits,
    load_model,
    load_student,
    load_tokenizer,
    source_fingerprint,
    vocabulary_fingerprint,
)
from stillhouse.models.token_bytes import common_outcomes
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.students.build import student_from_config, student_from_layers
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig
from stillhouse.students.distilbert import distilbert_from_layers
from stillhouse.students.layer_choice import LayerChoice, choose_layers
from stillhouse.students.lora import add_adapter
from stillhouse.students.projections import Projections
from stillhouse.students.save import save_student
from stillhouse.synthesis import ANSWERS, SYNTHETIC, answered_by, read_answers
from stillhouse.synthesis.config import PromptSynthesisConfig
from stillhouse.training.dual_space import dual_space_widths
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.mixing import DocumentRows, MixedRows
from stillhouse.training.rollouts import AskedRows
from stillhouse.training.sources import OfflineConfig, answering_of
from stillhouse.training.terms import Scheduled


class Parts:
    """What a recipe's stages work with."""

    def __init__(self, recipe: Recipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress

    # Models

    @cached_property
    def teacher(self) -> LoadedModel:
        """The teacher, loaded; a classifier's answers are those of the data."""
        labels = self._labels
        self.progress.say(f"loading the teacher, {display_name(self.recipe.teacher.model)}")
        return load_model(self.recipe.teacher.model, self.recipe.task, labels=labels)

    @property
    def _labels(self) -> tuple[str, ...] | None:
        """What classes or tags are called, where there are any."""
        return self.data.labels if self._names_answers else None

    @property
    def _names_answers(self) -> bool:
        return self.recipe.task in ("sequence_classification", "token_classification")

    @cached_property
    def _teacher_config(self) -> PretrainedConfig:
        return load_config(self.recipe.teacher.model)

    @cached_property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return load_tokenizer(self.recipe.teacher.model)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's tokenizer: the teacher's, unless it is a checkpoint with one of its own."""
        return load_tokenizer(tokenizer_source(self.recipe))

    @property
    def crosses(self) -> bool:
        """Whether teacher and student read a text in other tokens, and so each in its own."""
        return tokenizer_source(self.recipe) != self.recipe.teacher.model

    @property
    def is_paired(self) -> bool:
        """Whether the data is cut for both tokenizers."""
        return self.crosses or any(chosen.compares_spans for chosen in self.recipe.objectives)

    @cached_property
    def common(self) -> CommonOutcomes | None:
        """What both vocabularies can begin, where the data is cut for both."""
        if not self.is_paired:
            return None
        ours, theirs = end_of_turn(self.tokenizer), end_of_turn(self.teacher_tokenizer)
        pairs: list[tuple[int, int]] = []
        if self.recipe.data.kind == "chat" and ours is not None and theirs is not None:
            pairs = [(ours, theirs)]
        return common_outcomes(self.tokenizer, self.teacher_tokenizer, pairs=pairs)

    @property
    def pooling(self) -> Pooling | None:
        """How embeddings are pooled; None where none are."""
        return self.teacher.pooling if self._embeds else None

    @property
    def _embeds(self) -> bool:
        return self.recipe.task == "sentence_embedding"

    @property
    def num_answers(self) -> int:
        """Rows of a head that mean something: the tokenizer's tokens, or the classes."""
        if self.recipe.task in ("causal_lm", "masked_lm", "sentence_embedding"):
            return len(self.tokenizer)
        return max(1, len(self.data.labels))

    def new_student(self) -> tuple[PreTrainedModel, LayerChoice | None]:
        """The student before training, and how its layers were chosen."""
        seed = self.recipe.training.seed
        match self.recipe.student:
            case FromLayersConfig() as wanted:
                teacher = self.teacher.model
                batch = self._calibration_batch(wanted.calibration_tokens)
                choice = choose_layers(teacher, batch, keep=wanted.keep, method=wanted.choose, progress=self.progress)
                make = distilbert_from_layers if wanted.architecture == "distilbert" else student_from_layers
                return make(teacher, choice.kept), choice
            case FromConfigConfig() as wanted:
                teacher = self.teacher.model
                return student_from_config(teacher, seed=seed, changes=wanted.changes, config=wanted.config), None
            case CheckpointConfig() as wanted:
                return load_student(wanted.model, self.recipe.task, seed=seed, labels=self._labels).model, None

    def _calibration_batch(self, num_tokens: int) -> Batch:
        """The first training documents that together have `num_tokens`: of causal text, that many to predict."""
        rows = self.data.train
        if isinstance(rows, PackedRows):
            counted = ((example, sum(example.weights)) for example in rows.examples)
            return to_batch([[example] for example in _until(counted, num_tokens)])
        documents = (rows[index] for index in range(len(rows)))
        counted = ((document, int(as_batch(rows.collate([document])).real.sum())) for document in documents)
        return as_batch(rows.collate(_until(counted, num_tokens)))

    def load(self, role: Role) -> PreTrainedModel:
        """A model that a stage saved."""
        return load_model(str(self.run.path / role), self.recipe.task).model

    def save(self, model: PreTrainedModel, role: Role) -> None:
        """Write a model down: whole, or not at all."""
        with atomic_path(self.run.path / role) as part:
            save_student(
                model,
                self.tokenizer,
                part,
                pooling=self.pooling,
                normalizes=self._embeds and self.teacher.normalizes,
                max_tokens=self.recipe.data.sequence_tokens,
            )

    def start(self) -> PreTrainedModel:
        """The student before training, with its adapter if the recipe gives it one."""
        wanted = self.recipe.student.lora
        if wanted is None:
            return self.load("student_before")
        in_4_bits = wanted.quantize == "4bit"
        student = load_in_4_bits(str(self.run.path / "student_before"), self.recipe.task) if in_4_bits else None
        return add_adapter(student or self.load("student_before"), wanted, seed=self.recipe.training.seed)

    def in_full(self, trained: PreTrainedModel) -> PreTrainedModel:
        """The same student on weights that nothing was taken from: of an adapter that learnt on 4 bits, on the start's own."""
        wanted = self.recipe.student.lora
        if wanted is None or wanted.quantize == "none":
            return trained
        whole = add_adapter(self.load("student_before"), wanted, seed=self.recipe.training.seed)
        with TemporaryDirectory() as folder:
            save_adapter(trained, Path(folder))
            load_adapter(whole, Path(folder))
        return whole.eval()

    @property
    def adapter_base(self) -> str:
        """What an adapter was trained on: a checkpoint of the hub if that is all of it, or the student before training."""
        student, is_whole = self.recipe.student, self.recipe.task not in LABELLED_TASKS
        on_hub = isinstance(student, CheckpointConfig) and not Path(student.model).expanduser().exists()
        if on_hub and is_whole:
            assert isinstance(student, CheckpointConfig)
            return student.model
        return str(self.run.path / "student_before")

    def terms(self, student: PreTrainedModel) -> list[Scheduled]:
        """What this student is asked to match, layer by layer."""
        depths = {"student_layers": num_layers(student), "teacher_layers": num_layers(self._teacher_config)}
        return [chosen.build(**depths) for chosen in self.recipe.objectives]

    def recorder(self, labels: LabelsConfig) -> Recorder:
        """What is to be kept of the teacher's answers: the student need not be made yet."""
        depths = {"student_layers": student_depth(self.recipe), "teacher_layers": num_layers(self._teacher_config)}
        terms = [chosen.build(**depths) for chosen in self.recipe.objectives]
        return recorder_of(labels, self.recipe.objectives, terms, vocab_size=self.num_answers)

    def projections(self, student: PreTrainedModel, terms: Sequence[Scheduled]) -> Projections:
        """Maps from the student's width to the teacher's, wherever the terms compare states that differ in it."""
        features = [term.term for term in terms if isinstance(term.term, FeatureTerm)]
        ours, theirs = text_config(student).hidden_size, text_config(self._teacher_config).hidden_size
        widths = projection_widths(features, student_width=ours, teacher_width=theirs)
        spaces = dual_space_widths(features, student_width=ours, teacher_width=theirs, is_paired=self.is_paired)
        return Projections({**widths, **spaces}, seed=self.recipe.training.seed, always=spaces)

    # Data

    @cached_property
    def data(self) -> Prepared:
        """Rows to train on, and rows held out."""
        source = self.recipe.source
        seed, answers = self.recipe.training.seed, answers_of(self._teacher_config) if self._names_answers else ()
        return prepare(
            self.recipe.data,
            self.tokenizer,
            path=self.data_path,
            seed=seed,
            answers=answers,
            teacher_tokenizer=self.teacher_tokenizer if self.is_paired else None,
            rewritten=self.rewritten if self.recipe.history is not None and self.rewritten.exists() else None,
            answer_tokens=0 if isinstance(source, OfflineConfig) else source.sampling.max_new_tokens,
        )

    @cached_property
    def replayed(self) -> Replayed | None:
        """Other data to mix in and to judge by, where the recipe asks for it."""
        return self._read_replay()

    def _read_replay(self) -> Replayed | None:
        wanted, data = self.recipe.replay, self.recipe.data
        if wanted is None:
            return None
        assert isinstance(data, TextDataConfig | ChatDataConfig)
        return read_replay(
            wanted,
            data,
            self.tokenizer,
            data_paths=[path for path in (self.data_path, data.held_out_path) if path is not None and path.exists()],
            teacher_tokenizer=self.teacher_tokenizer if self.is_paired else None,
        )

    def mixed(self, rows: RowSet) -> RowSet:
        """These rows with replayed ones among them, where the recipe asks for any."""
        wanted = self.recipe.replay
        if wanted is None or not wanted.share:
            return rows
        return MixedRows(rows, self._replay_like(rows), share=wanted.share, seed=wanted.seed)

    def _replay_like(self, rows: RowSet) -> RowSet:
        """All that can be replayed, in the form of the rows among which it is to stand."""
        found, row_tokens = self.replayed, self.recipe.data.sequence_tokens
        assert found is not None
        match rows:
            case AskedRows():
                return DocumentRows(found.asked, in_context=any(one.told for one in rows.asked))
            case PairedRows():
                return PairedRows(found.pairs, row_tokens=row_tokens)
            case ContextRows():
                return ContextRows(views_of(found.asked), row_tokens=row_tokens)
        return packed(found.asked, row_tokens=row_tokens)

    @property
    def replay_terms(self) -> list[Term]:
        """What is learnt of replayed rows in the place of the objectives."""
        wanted = self.recipe.replay
        apart = wanted is not None and wanted.share > 0 and wanted.learn == "next_token"
        return [Term("next_token", wanted.weight)] if wanted is not None and apart else []

    @property
    def elsewhere(self) -> Elsewhere | None:
        """What is held out of the replayed data."""
        found = self.replayed
        if found is None:
            return None
        told = found.held_out_told if self.crosses else None
        return Elsewhere(found.held_out, told, len(self.teacher_tokenizer))

    def read_anew(self) -> None:
        """Forget the data as it was read before the teacher answered in it."""
        for name in ("data", "asked"):
            self.__dict__.pop(name, None)

    @property
    def rewritten(self) -> Path:
        """Where the conversations are in which the teacher answers."""
        return self.run.data / "conversations.jsonl"

    @property
    def conversations(self) -> list[Conversation]:
        """Those to train on as the data has them."""
        assert isinstance(self.recipe.data, ChatDataConfig)
        found = chat_sides(self.recipe.data, self.data_path)[0]
        for one in found:
            if one.segments:
                raise DataError(
                    f"history: {one.where} is written out already, in segments, so nobody can answer in it. Leave history out, "
                    "or give turns as 'messages'."
                )
        return found

    def check_data(self) -> None:
        """Read the data now, so that what is wrong with it is said now, and hold its labels against the teacher's. Where the
        teacher has yet to write its text, only what is held out can be read.

        Raises:
            DataError: naming file and line.
            ModelError: if the teacher does not answer in the data's labels.
        """
        if self.recipe.data.path is None:
            found = self._read_replay()  # what it has in common with the text is known later
            for note in found.notes if found else ():
                self.progress.say(note)
            if self.recipe.data.held_out_path is not None:
                read = read_conversations if self.recipe.data.kind == "chat" else read_rows
                read(self.recipe.data.held_out_path, key="data.held_out_path")
            return
        if self.recipe.history is not None:
            _ = self.conversations
        if self._labels is not None:
            check_labels(labels_of(self._teacher_config), self._labels, source=self.recipe.teacher.model)
        notes = list(self.data.notes)
        if self.recipe.source.kind != "offline" and len(self.asked) < len(self.data.asked):
            too_long = len(self.data.asked) - len(self.asked)
            notes.append(f"left out: {too_long:,} with a prompt that fills data.sequence_tokens")
        with_tools = sum(one.calls_tools for one in self.data.asked) if self.recipe.source.kind != "offline" else 0
        if with_tools:
            notes.append(
                f"{with_tools:,} call tools: the student answers only their last turn, all before stays as it is"
            )
        notes += self.replayed.notes if self.replayed else ()
        for note in notes:
            self.progress.say(note)

    @property
    def documents(self) -> Path:
        """Where the teacher's own text is written, or its conversations."""
        wanted = self.recipe.synthesis
        by_prompts = wanted is None or isinstance(wanted, PromptSynthesisConfig)
        return self.run.data / ("documents.jsonl" if by_prompts else SYNTHETIC)

    @property
    def data_path(self) -> Path:
        """Where the training text comes from."""
        return self.recipe.data.path or self.documents

    @property
    def answers(self) -> Path:
        """Where the teacher's answers to the data's prompts are written."""
        return self.run.path / "answers" / ANSWERS

    @cached_property
    def answered(self) -> list[Asked]:
        """What is asked, with the answers to learn that the student does not write: the data's, or the teacher's."""
        if answering_of(self.recipe.source) is None:
            return self.asked
        found = self._taught
        if self.recipe.source.kind == "mixed":
            return [one if one.answered else asked for one, asked in zip(found, self.asked, strict=True)]
        kept = [one for one in found if one.answered]
        if not kept:
            raise DataError(
                f"none of the teacher's answers ({self.answers}) can be read in the student's tokens. Raise "
                "source.sampling.max_new_tokens, or choose a student with the teacher's tokenizer."
            )
        return kept

    @cached_property
    def _taught(self) -> list[Asked]:
        return answered_by(self.asked, read_answers(self.answers))

    @property
    def num_unread(self) -> int:
        """Prompts to which nothing that the teacher answered can be read in the student's tokens."""
        return sum(not one.answered for one in self._taught)

    @cached_property
    def learnt(self) -> RowSet:
        """What a student learns that writes nothing itself."""
        if self.recipe.source.kind != "teacher":
            return self.data.train
        row_tokens = self.recipe.data.sequence_tokens
        if self.is_paired:
            return PairedRows([pair for one in self.answered for pair in one.pairs], row_tokens=row_tokens)
        if any(one.told for one in self.answered):
            return ContextRows(views_of(self.answered), row_tokens=row_tokens)
        return packed(self.answered, row_tokens=row_tokens)

    @cached_property
    def learnt_fingerprint(self) -> str:
        """Hash of the data, and of what the teacher answered."""
        if answering_of(self.recipe.source) is None:
            return self.data_fingerprint
        return fingerprint([self.data_fingerprint, fingerprint_files([self.answers])])

    @property
    def train_examples(self) -> list[Example]:
        """Documents of causal text to train on."""
        return _examples(self.learnt)

    @property
    def label_examples(self) -> list[Example]:
        """The same as the teacher reads them."""
        rows, wanted = self.learnt, self.recipe.replay
        is_labelled = wanted is not None and wanted.share > 0 and wanted.learn == "objectives"
        sides = [rows, self._replay_like(rows)] if is_labelled else [rows]
        return [
            example
            for side in sides
            for example in (side.teacher_examples if isinstance(side, PairedRows | ContextRows) else _examples(side))
        ]

    @cached_property
    def asked(self) -> list[Asked]:
        """What student or teacher is asked, where the recipe lets it answer."""
        at_last = answering_of(self.recipe.source) is not None
        return askable(self.data.asked, max_tokens=self.recipe.data.sequence_tokens, at_last=at_last)

    def stop_ids(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> set[int]:
        """All tokens that end an answer: the model's own, and the one that the data ends with; in the tokens of this tokenizer,
        or of the student's."""
        speaks = tokenizer or self.tokenizer
        ends = end_of_turn(speaks) if self.recipe.data.kind == "chat" else speaks.eos_token_id
        return stop_ids_of(model) | ({ends} if isinstance(ends, int) else set())

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from in one epoch: of causal text those that are predicted, else all that are read."""
        rows = self.learnt
        if isinstance(rows, PackedRows):
            return round(sum(sum(example.weights) for example in rows.examples))
        assert isinstance(rows, PaddedRows)
        return sum(len(ids) for ids in rows.ids)

    @property
    def held_out_examples(self) -> list[Example]:
        """Documents of causal text held out."""
        return _examples(self.data.held_out)

    @property
    def in_context(self) -> InContext | None:
        """What is held out as the teacher reads it, where it reads more than the student."""
        rows, held_out = self.data.held_out, self.data.context
        if held_out is None:
            return None
        assert isinstance(rows, ContextRows)
        return InContext(rows.teacher_examples, held_out.views, held_out.styles, held_out.elsewhere)

    @property
    def held_out_as_the_teacher_reads(self) -> list[Example] | None:
        """The same in the teacher's tokens, where these are others."""
        rows = self.data.held_out
        return rows.teacher_examples if self.crosses and isinstance(rows, PairedRows) else None

    # What they are known by

    @cached_property
    def teacher_fingerprint(self) -> str:
        """Hash of the teacher's files."""
        return source_fingerprint(self.recipe.teacher.model)

    @cached_property
    def student_fingerprint(self) -> str:
        """Hash of the student's recipe, and of the files beside the teacher's that it is made from."""
        files = ""
        match self.recipe.student:
            case CheckpointConfig(model=source) | FromConfigConfig(config=str(source)):
                files = source_fingerprint(source)
        return fingerprint([plain(self.recipe.student), files])

    @cached_property
    def data_fingerprint(self) -> str:
        """Hash of the data and of everything that turns it into tokens."""
        replay = self.recipe.replay
        sources = dict.fromkeys((self.data_path, *self.recipe.data.sources, *([] if replay is None else [replay.path])))
        files = [file for path in sources for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        return fingerprint(
            [
                fingerprint_files(files),
                self.recipe.data.model_dump(mode="json"),
                self.teacher_fingerprint,
                *([] if self.recipe.history is None else [plain(self.recipe.history)]),
                *([] if replay is None else [plain(replay)]),
                *([vocabulary_fingerprint(self.tokenizer), self.tokenizer.chat_template] if self.is_paired else []),
            ]
        )


def plain(part: Any) -> Any:
    """A configuration as plain values, for hashing."""
    if isinstance(part, Config):
        return part.model_dump(mode="json")
    return [plain(member) for member in part] if isinstance(part, list | tuple) else part


def _examples(rows: object) -> list[Example]:
    assert isinstance(rows, PackedRows), "only causal text is packed"
    return list(rows.examples)


def _until(counted: Iterable[tuple[Any, float]], wanted: float) -> list[Any]:
    """The first members whose counts together are as many as wanted; all if there are fewer."""
    found, total = [], 0.0
    for member, count in counted:
        found.append(member)
        total += count
        if total >= wanted:
            break
    return found
