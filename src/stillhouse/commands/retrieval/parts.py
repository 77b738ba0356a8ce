"""The parts of a retrieval recipe, each made when it is first asked for: documents, questions, teachers, students."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.commands.alarm_log import LogLine, telling
from stillhouse.commands.launch.config import Ranks
from stillhouse.commands.launch.launcher import place_of
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.retrieval.recipe import (
    AnswerConfig,
    BiEncoderConfig,
    CheckpointConfig,
    CrossEncoderConfig,
    EnsembleConfig,
    LayersConfig,
    OneTeacherConfig,
    RerankerConfig,
    RetrievalRecipe,
    StaticConfig,
)
from stillhouse.commands.stages.workshop import Launch
from stillhouse.core.cluster import Cluster
from stillhouse.core.errors import DataError
from stillhouse.core.files import atomic_path, fingerprint, fingerprint_files, write_atomic
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.data.split import split_held_out
from stillhouse.models.load import check_exists, display_name, seen_by_all
from stillhouse.retrieval.bm25 import Bm25
from stillhouse.retrieval.documents import Corpus, read_corpus, same_text
from stillhouse.retrieval.embed import Embedder, SentenceEmbedder, load_sentence_model, model_fingerprint
from stillhouse.retrieval.questions import Collection, Question, read_beir, read_questions
from stillhouse.retrieval.score_store import store_for
from stillhouse.retrieval.spread import SpreadEmbedder, SpreadTeacher, loading
from stillhouse.retrieval.students import cross_encoder_from_layers, from_layers, static_student
from stillhouse.retrieval.teachers import (
    AnswerTeacher,
    BiEncoderTeacher,
    CrossEncoderTeacher,
    Output,
    Pair,
    RankingTeacher,
    Scores,
    Spread,
    ensemble,
    spread_of,
)
from stillhouse.teachers.hands import RayActors
from stillhouse.training.rescue import Tell, tell_nobody

Crew = TypeVar("Crew", bound=RayActors)


class RetrievalParts:
    """What a retrieval recipe's stages work with."""

    def __init__(self, recipe: RetrievalRecipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.cluster: Cluster | None = None
        """Where the teacher scores and embeds, and a language model asks; None is in this process."""
        self._crews: list[RayActors] = []
        self.launch: Launch | None = None
        self.ranks = Ranks()
        """Of the processes that train together, which this is."""
        self.given: Mapping[str, Tensor] = {}
        """What the process that started them has found out."""

    # Where a student learns, and who tells of it.

    def trained_by_others(self, arm: str, launch: Launch, given: Mapping[str, Tensor]) -> dict[str, Any]:
        """What an arm took that processes train together, which are given what they would all have to find out."""
        file = place_of(self.run, arm).given
        file.parent.mkdir(parents=True, exist_ok=True)
        if given:
            save_file(dict(given), file)
        try:
            return launch(self, arm)
        finally:
            file.unlink(missing_ok=True)

    def tell_of(self, arm: str) -> Tell:
        """Who is told of an arm's odd steps: of several processes, the first alone tells."""
        return tell_nobody if self.ranks.rank else telling(self.run, self.progress, arm=arm)

    def log_of(self, arm: str, checkpoints: Path) -> LogLine | None:
        """Where an arm's numbers go."""
        return None if self.ranks.rank else MetricsLog(self.run).arm(arm, checkpoints)

    # Actors.

    def actors(self, loaders: Sequence[Callable[[], Any]]) -> RayActors:
        """Actors on the cluster that hold all of these, until the stage is done."""
        assert self.cluster is not None, "the recipe is at work on a cluster"
        return self.at_hand(RayActors(self.cluster, loading(loaders), does="score and embed", progress=self.progress))

    def at_hand(self, actors: Crew) -> Crew:
        """The same, who end with the stage."""
        self._crews.append(actors)
        return actors

    def let_go(self) -> None:
        """All actors end; where they are asked again, others begin."""
        for crew in self._crews:
            crew.close()

    # Documents and questions.

    @property
    def asked(self) -> Path:
        """Questions that a language model asked."""
        return self.run.data / "questions.jsonl"

    @cached_property
    def corpus(self) -> Corpus:
        """All passages."""
        data = self.recipe.data
        if data.documents is not None:
            return read_corpus(data.documents, words=data.passage_words)
        return self.collection.corpus

    @cached_property
    def collection(self) -> Collection:
        """Passages and questions."""
        data = self.recipe.data
        if data.path is not None:
            if not (data.path / "corpus.jsonl").exists():
                raise DataError(
                    f"data.path {str(data.path)!r} is no BEIR folder: it has no corpus.jsonl. Use data.documents."
                )
            return read_beir(data.path)
        return read_questions(data.questions or self.asked, self.corpus)

    @cached_property
    def train_and_held_out(self) -> tuple[list[Question], list[Question]]:
        """Questions to learn from, and those that nobody trains on; the same question is never on both sides."""
        data = self.recipe.data
        if data.held_out_split is not None:
            assert data.path is not None, "a split is of a BEIR folder"
            held_out = list(read_beir(data.path, split=data.held_out_split).questions)
            texts = {one.text for one in held_out}
            train = [one for one in self.collection.questions if one.text not in texts]
            if not train:
                raise DataError(
                    f"every question is in the split {data.held_out_split!r}, so none is left to learn from."
                )
        else:
            hint = " questions"
            train, held_out = split_held_out(self.collection.questions, share=data.held_out, hint=hint)
        step = max(1, len(held_out) // data.held_out_most)
        return train, held_out[::step][: data.held_out_most]

    @cached_property
    def texts(self) -> dict[str, str]:
        """What is read of each passage, by its id."""
        return {passage.id: passage.whole for passage in self.corpus.passages}

    @cached_property
    def copies(self) -> dict[str, list[str]]:
        """Passages that say the same words, by id."""
        return same_text(self.corpus.passages)

    @cached_property
    def bm25(self) -> Bm25:
        """The corpus by its words."""
        return Bm25.build(self.corpus.passages, language=self.recipe.data.query_language)

    @property
    def data_fingerprint(self) -> str:
        """Hash of the documents' and questions' files, and of how they are cut."""
        data = self.recipe.data
        paths = [path for path in (data.path, data.documents, data.questions) if path is not None]
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        read = fingerprint_files(file for file in files if file.is_file())
        # What has no file here is a data set of the hub, which may change there.
        fetched = [] if all(path.exists() for path in paths) else [[one.id, one.text] for one in self.corpus.passages]
        return fingerprint([data.model_dump(mode="json"), read, *fetched])

    # Teachers.

    @property
    def teacher_configs(self) -> tuple[OneTeacherConfig, ...]:
        """One, or those of an ensemble."""
        teacher = self.recipe.teacher
        return teacher.teachers if isinstance(teacher, EnsembleConfig) else (teacher,)

    @property
    def teacher_fingerprint(self) -> str:
        """Hash of all teachers' files and settings."""
        of_each = [model_fingerprint(one.model) for one in self.teacher_configs]
        return fingerprint([of_each, self.recipe.teacher.model_dump(mode="json")])

    @cached_property
    def teachers(self) -> list[RankingTeacher]:
        """Each teacher, loaded here, or by actors."""
        if self.cluster is None:
            return self.own_teachers
        actors = self.actors([partial(load_teacher, wanted, self._answers) for wanted in self._seen_configs])
        return [SpreadTeacher(actors, number) for number, _ in enumerate(self.teacher_configs)]

    @cached_property
    def own_teachers(self) -> list[RankingTeacher]:
        """Each teacher, loaded in this process."""
        return [self._load(wanted) for wanted in self.teacher_configs]

    @property
    def _seen_configs(self) -> list[OneTeacherConfig]:
        """As other processes find their models."""
        return [wanted.model_copy(update={"model": seen_by_all(wanted.model)}) for wanted in self.teacher_configs]

    @property
    def _answers(self) -> dict[str, str]:
        """What is known to answer a question, where a teacher is asked how likely it is."""
        if not any(isinstance(one, AnswerConfig) for one in self.teacher_configs):
            return {}
        return {one.text: one.answer for one in self.collection.questions if one.answer}

    def _load(self, wanted: OneTeacherConfig) -> RankingTeacher:
        self.progress.say(f"loading the teacher, {display_name(wanted.model)}")
        return load_teacher(wanted, self._answers)

    @property
    def teacher_embedder(self) -> Embedder:
        """The embedder of a bi-encoder teacher, here or on the cluster."""
        (teacher,) = self.teachers
        if isinstance(teacher, SpreadTeacher):
            return SpreadEmbedder(teacher.actors, teacher.number)
        assert isinstance(teacher, BiEncoderTeacher), "only a bi-encoder embeds"
        return teacher.embedder

    @property
    def output(self) -> Output:
        """In which unit the teacher scores; an ensemble in that of its first."""
        return self.teachers[0].output

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """What the teacher, or all of them together, say of each pair; each asked once, ever."""
        found = self._each(pairs)
        teacher = self.recipe.teacher
        if not isinstance(teacher, EnsembleConfig):
            return found[0]
        return ensemble(found, teacher.weights or (1.0,) * len(found), self._spreads(found))

    def _each(self, pairs: Sequence[Pair]) -> list[Scores]:
        stores = self.run.labels / "scores"
        return [store_for(one, stores).scores(one, pairs, progress=self.progress) for one in self.teachers]

    def _spreads(self, found: Sequence[Scores]) -> list[Spread]:
        """Each teacher's own, of the first pairs that all were asked for: the candidates to learn from."""
        file = self.run.labels / "spreads.json"
        if not file.exists():
            write_atomic(file, json.dumps([asdict(spread_of(scores)) for scores in found]))
        return [Spread(**values) for values in json.loads(file.read_text(encoding="utf-8"))]

    def check_answers(self) -> None:
        """Refuse questions without an answer where a teacher is asked how likely it is.

        Raises:
            DataError: naming the first.
        """
        if not any(isinstance(one, AnswerConfig) for one in self.teacher_configs):
            return
        without = [one for one in self.collection.questions if not one.answer]
        if without:
            raise DataError(
                f"{without[0].where} has no 'answer', and a teacher of kind answer reads one for every question. Add it."
            )

    # Students.

    @property
    def start(self) -> str:
        """The model that the student is made of."""
        found = self.recipe.start
        assert found is not None, "the recipe has been checked"
        return found

    @property
    def student_fingerprint(self) -> str:
        """Hash of what the student is made of, and how."""
        return fingerprint([model_fingerprint(self.start), self.recipe.student.model_dump(mode="json")])

    @property
    def beginning(self) -> Path:
        """The student as it begins to rank: after the imitation, where there is one."""
        return self.run.path / ("student_before" if self.recipe.imitation is None else "student_imitating")

    @property
    def beginning_fingerprint(self) -> str:
        """Hash of the student, and of what it has learnt before it ranks."""
        wanted = self.recipe.imitation
        if wanted is None:
            return self.student_fingerprint
        whom = model_fingerprint(wanted.model or self.start)
        return fingerprint([self.student_fingerprint, whom, wanted.model_dump(mode="json")])

    def check_models(self) -> None:
        """Find models that are not there before anything is loaded.

        Raises:
            ModelError: naming the first.
        """
        asks = [] if self.recipe.synthesis is None else [self.recipe.synthesis.model]
        imitation = self.recipe.imitation
        if imitation is not None and imitation.model is not None:
            asks.append(imitation.model)
        for source in [*(one.model for one in self.teacher_configs), self.start, *asks]:
            check_exists(source)

    def new_student(self) -> Any:
        """The student before training."""
        wanted = self.recipe.student
        if isinstance(wanted, RerankerConfig):
            return cross_encoder_from_layers(self.load_reranker(self.start), wanted.keep)
        model = load_sentence_model(self.start, max_tokens=wanted.max_tokens)
        match wanted:
            case LayersConfig():
                model = from_layers(model, wanted.keep)
            case StaticConfig():
                model = static_student(model, self.texts.values(), dimensions=wanted.dimensions)
            case CheckpointConfig():
                pass
        if wanted.similarity is not None:
            model.similarity_fn_name = wanted.similarity
        return model

    def load_reranker(self, source: str) -> Any:
        """A cross-encoder, as a student."""
        return CrossEncoderTeacher(source, max_tokens=self.recipe.student.max_tokens).model

    def load_student(self, name: str) -> Any:
        """A model that a stage saved."""
        source = str(self.run.path / name)
        return self.load_reranker(source) if self.recipe.reranks else load_sentence_model(source)

    def embedder(self, name: str, *, dimensions: int | None = None) -> SentenceEmbedder:
        """What embeds by a model that a stage saved."""
        return SentenceEmbedder(self.load_student(name), dimensions=dimensions)


def load_teacher(wanted: OneTeacherConfig, answers: Mapping[str, str]) -> RankingTeacher:
    """One that scores passages, by whichever process."""
    match wanted:
        case CrossEncoderConfig():
            return CrossEncoderTeacher(wanted.model, max_tokens=wanted.max_tokens, batch_size=wanted.batch_size)
        case BiEncoderConfig():
            return BiEncoderTeacher(
                wanted.model,
                similarity=wanted.similarity,
                max_tokens=wanted.max_tokens,
                batch_size=wanted.batch_size,
            )
        case AnswerConfig():
            return AnswerTeacher(wanted.model, answers, max_tokens=wanted.max_tokens, batch_size=wanted.batch_size)


def save_model(model: Any, folder: Path) -> None:
    """A sentence-transformers model, as a plain folder."""
    with atomic_path(folder) as part:
        model.save_pretrained(str(part), create_model_card=False)


def parameter_count(model: Any) -> int:
    """Numbers that a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_rows(rows: Sequence[Any]) -> str:
    """Training rows as JSON lines: the question, its passages, and the teacher's scores of them."""
    lines = [
        {
            "question": row.question.id,
            "passages": list(row.passages),
            "scores": [float(np.float32(x)) for x in row.scores],
        }
        for row in rows
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
