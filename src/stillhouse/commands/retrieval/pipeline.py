"""The stages of a retriever, each done once: from documents and questions to a student with its index and report."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from stillhouse.commands.alarm_log import given_up
from stillhouse.commands.launch.config import Ranks
from stillhouse.commands.launch.launcher import place_of
from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.plan.saved import planned_beside
from stillhouse.commands.retrieval.asking import ask_questions
from stillhouse.commands.retrieval.imitating import ARM as IMITATION
from stillhouse.commands.retrieval.imitating import imitate, learn_embeddings, texts_to_imitate
from stillhouse.commands.retrieval.measuring import measured
from stillhouse.commands.retrieval.parts import RetrievalParts, save_model, save_rows
from stillhouse.commands.retrieval.recipe import RetrievalRecipe
from stillhouse.commands.stages.workshop import Launch
from stillhouse.core.cluster import Cluster
from stillhouse.core.config import load_recipe, to_yaml
from stillhouse.core.errors import DataError
from stillhouse.core.files import fingerprint, read_lines, remove, write_atomic
from stillhouse.core.life import Kept
from stillhouse.core.progress import Progress, working
from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.core.run import RunFolder
from stillhouse.retrieval.embed import SentenceEmbedder, model_fingerprint
from stillhouse.retrieval.hits import Hit
from stillhouse.retrieval.index import build_index
from stillhouse.retrieval.mining import Candidates, TrainingRow, candidates_of, choose_negatives, positives_of
from stillhouse.retrieval.questions import Question
from stillhouse.retrieval.scales import check_scales, refuse_probabilities
from stillhouse.retrieval.teachers import BiEncoderTeacher, Output, raw_logits
from stillhouse.training.rankings import RankingTargets, RerankerLoss, RetrieverLoss, targets_of, train_ranker

ARM = "student"
SCALE_QUESTIONS = 200
"""Questions whose scores the check of scales looks at."""


class RetrievalPipeline:
    """One retrieval recipe at work in one run folder. Every stage first sees to the stages that it stands on."""

    def __init__(self, recipe: RetrievalRecipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.parts, self.metrics = RetrievalParts(recipe, run, progress), MetricsLog(run)

    def check(self) -> None:
        """Find what is wrong with models, documents or questions before a model is loaded or anything is written."""
        self.parts.check_models()
        corpus = self.parts.corpus
        for line in _said_of(corpus.empty, corpus.num_duplicates):
            self.progress.say(line)
        if self.recipe.synthesis is None:
            self.parts.check_answers()
            _ = self.parts.train_and_held_out

    def _stage(
        self,
        name: str,
        title: str,
        *,
        made_from: list[Any],
        work: Callable[[], dict[str, Any]],
        makes: Sequence[Path] = (),
    ) -> dict[str, Any]:
        def announced() -> dict[str, Any]:
            self.progress.stage(name, title)
            try:
                return work()
            finally:
                self.parts.let_go()

        plain = [part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in made_from]
        return self.run.stage(name, made_from=fingerprint(plain), work=announced, makes=makes)

    # Questions, and who is compared with whom.

    def synthesize(self) -> dict[str, Any]:
        """A language model asks about the passages, where the recipe wants it to."""
        wanted = self.recipe.synthesis
        if wanted is None:
            return {}
        made_from = [
            self.parts.data_fingerprint,
            wanted,
            model_fingerprint(wanted.model),
            self.parts.student_fingerprint,
        ]
        work = partial(ask_questions, self.parts, wanted)
        return self._stage(
            "synthesize", "questions are asked", made_from=made_from, work=work, makes=[self.parts.asked]
        )

    @property
    def _data(self) -> list[Any]:
        return [self.parts.data_fingerprint, self.recipe.synthesis]

    def make_student(self) -> dict[str, Any]:
        """The student before training, saved."""
        before = self.run.path / "student_before"

        def work() -> dict[str, Any]:
            save_model(self.parts.new_student(), before)
            return {}

        made_from = [self.parts.data_fingerprint, self.parts.student_fingerprint]
        return self._stage("student", "the student is made", made_from=made_from, work=work, makes=[before])

    def imitate(self) -> dict[str, Any]:
        """The student learns to embed as another model does, where the recipe wants it to."""
        self.make_student()
        wanted = self.recipe.imitation
        if wanted is None:
            return {}
        texts = sum(map(len, texts_to_imitate(self.parts)))

        def work() -> dict[str, Any]:
            imitate(self.parts)
            return {"texts": texts}

        return self._stage(
            "imitate",
            "the student imitates",
            made_from=[*self._data, self.parts.beginning_fingerprint],
            work=work,
            makes=[self.parts.beginning],
        )

    @property
    def _candidates(self) -> Path:
        return self.run.labels / "candidates.jsonl"

    @property
    def _rows(self) -> Path:
        return self.run.labels / "rows.jsonl"

    def mine(self) -> dict[str, Any]:
        """Candidates for negatives, of each question to learn from."""
        self.synthesize()
        self.imitate()

        def work() -> dict[str, Any]:
            train, _ = self.parts.train_and_held_out
            wanted = self.recipe.negatives
            found: dict[str, list[list[Hit]]] = {name: self._found_by(name, train) for name in wanted.sources}
            mined = candidates_of(train, found, same_text=self.parts.copies, depth=wanted.depth)
            lines = ({"question": one.question.id, "passages": list(one.passages)} for one in mined)
            write_atomic(self._candidates, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            return {"questions": len(train), "candidates": sum(len(one.passages) for one in mined)}

        made_from = [*self._data, self.parts.beginning_fingerprint, self.recipe.negatives, self._mined_by]
        return self._stage("mine", "negatives are found", made_from=made_from, work=work, makes=[self._candidates])

    @property
    def _mined_by(self) -> str | None:
        return self.parts.teacher_fingerprint if "teacher" in self.recipe.negatives.sources else None

    def _found_by(self, source: str, questions: Sequence[Question]) -> list[list[Hit]]:
        # Twice as many: those that answer, and those that another retriever has found before, fall out.
        texts, k = [one.text for one in questions], 2 * self.recipe.negatives.depth
        if source == "bm25":
            return self.parts.bm25.search(texts, k)
        embedder = (
            self.parts.teacher_embedder if source == "teacher" else self.parts.embedder(self.parts.beginning.name)
        )
        index = build_index(embedder, self.parts.corpus.passages, progress=self.progress)
        return index.search(texts, k)

    def label(self) -> dict[str, Any]:
        """The teacher's scores, the negatives that they leave, and a look at how far they spread."""
        self.mine()

        def work() -> dict[str, Any]:
            mined = self._mined()
            wanted = [
                (one.question, passage) for one in mined for passage in (*positives_of(one.question), *one.passages)
            ]
            known = self._scored(wanted)
            rows, account = self._chosen(mined, known)
            write_atomic(self._rows, save_rows(rows))
            return {"pairs": len(known), "output": self.parts.output, **asdict(account)}

        made_from = [
            *self._data,
            self.parts.beginning_fingerprint,
            self.recipe.negatives,
            self.parts.teacher_fingerprint,
        ]
        done = self._stage("label", "the teacher scores", made_from=made_from, work=work, makes=[self._rows])
        self.look_at_scales(done["output"])
        return done

    def _mined(self) -> list[Candidates]:
        by_id = {one.id: one for one in self.parts.collection.questions}
        return [Candidates(by_id[line["question"]], tuple(line["passages"])) for line in read_lines(self._candidates)]

    def _chosen(
        self, mined: Sequence[Candidates], known: Mapping[tuple[str, str], float]
    ) -> tuple[list[TrainingRow], Any]:
        wanted = self.recipe.negatives
        chosen, account = choose_negatives(
            mined,
            known,
            number=wanted.number,
            filters=wanted.filters,
            corpus=list(self.parts.texts),
            same_text=self.parts.copies,
            pick=wanted.pick,
            seed=self.recipe.training.seed,
        )
        if any(len(passages) < wanted.number + 1 for _, passages in chosen):
            raise DataError(
                f"negatives.number is {wanted.number}, but the corpus has too few passages that do not answer. Lower it."
            )
        # Passages that filled up were not scored yet: they are now, in the order of the questions.
        extra = [(q, p) for q, passages in chosen for p in passages if (q.id, p) not in known]
        scores = {**known, **self._scored(extra)}
        return [TrainingRow(q, passages, tuple(scores[q.id, p] for p in passages)) for q, passages in chosen], account

    def _scored(self, pairs: Sequence[tuple[Question, str]]) -> dict[tuple[str, str], float]:
        """The teacher's scores, by question and passage id."""
        if not pairs:
            return {}
        scores = self.parts.scores([(question.text, self.parts.texts[passage]) for question, passage in pairs])
        return {(one.id, passage): float(score) for (one, passage), score in zip(pairs, scores, strict=True)}

    def rows(self) -> list[TrainingRow]:
        """What is learnt: questions, passages, and the teacher's scores."""
        by_id = {one.id: one for one in self.parts.collection.questions}
        return [
            TrainingRow(by_id[line["question"]], tuple(line["passages"]), tuple(line["scores"]))
            for line in read_lines(self._rows)
        ]

    # Scales.

    @property
    def _scales(self) -> Path:
        return self.run.labels / "scales.json"

    def look_at_scales(self, output: Output) -> dict[str, Any]:
        """How far both sides' scores spread, with advice. Said before training, each time; refused where it cannot work.

        Raises:
            DataError: for probabilities where scores are matched as they are.
        """
        rows = self.rows()[:SCALE_QUESTIONS]
        teacher = np.array([row.scores for row in rows])
        names = [chosen.name for chosen in self.recipe.objectives]
        recipe = self.recipe
        refuse_probabilities(teacher, output=output, objectives=names)

        def work() -> dict[str, Any]:
            found = check_scales(
                teacher,
                self._student_scores(rows),
                output=output,
                teacher_temperature=recipe.parameter("teacher_temperature", 1.0),
                student_temperature=recipe.parameter("student_temperature", 1.0),
                scale=recipe.parameter("scale", 1.0) if set(names) & {"margin_mse", "score_mse"} else 1.0,
                objectives=names,
            )
            for line in found.advice:
                self.progress.say(line)
            write_atomic(self._scales, json.dumps(asdict(found), indent=1))
            return {"advice": list(found.advice)}

        made_from = [*self._data, self.parts.beginning_fingerprint, recipe.negatives, self.parts.teacher_fingerprint]
        made_from.append([chosen.model_dump(mode="json") for chosen in recipe.objectives])
        return self._stage("scales", "scales are looked at", made_from=made_from, work=work, makes=[self._scales])

    def _student_scores(self, rows: Sequence[TrainingRow]) -> NDArray[np.float64]:
        pairs = [(row.question.text, self.parts.texts[passage]) for row in rows for passage in row.passages]
        before = self.parts.load_student(self.parts.beginning.name)
        with working(self.progress, "the student scores", len(pairs), "pairs"):
            if self.recipe.reranks:
                found = raw_logits(before, pairs)
            else:
                embedder = SentenceEmbedder(before)
                found = BiEncoderTeacher(str(self.parts.beginning), embedder=embedder).scores(pairs)
            self.progress.advance(len(pairs))
        return found.reshape(len(rows), -1).astype(np.float64)

    # Training.

    def train(self) -> dict[str, Any]:
        """The student, trained by the recipe's objectives."""
        self.label()

        def work() -> dict[str, Any]:
            launch = self.parts.launch
            if launch is None:
                return self.learn()
            given = self._teacher_embeddings(self.rows()) if self.recipe.reads_embeddings else {}
            return self.parts.trained_by_others(ARM, launch, given)

        return self._stage(
            "train", "the student learns", made_from=self._trained_from, work=work, makes=[self.run.student]
        )

    def learn(self) -> dict[str, Any]:
        """The student learns in this process, or in this and others; what it took."""
        student, rows = self.parts.load_student(self.parts.beginning.name), self.rows()
        torch.manual_seed(self.recipe.training.seed)
        loss = self._loss(student, rows)
        checkpoints = self.run.path / "checkpoints" / ARM
        trained = train_ranker(
            student,
            rows,
            texts=self.parts.texts,
            loss=loss,
            schedule=self.recipe.training,
            checkpoints=checkpoints,
            log_line=self.parts.log_of(ARM, checkpoints),
            tell=self.parts.tell_of(ARM),
            progress=self.progress,
        )
        if self.parts.ranks.rank:
            return {}  # one of them keeps what all have made
        save_model(trained, self.run.student)
        beside = isinstance(loss, RetrieverLoss) and bool(loss.projections.maps)
        if isinstance(loss, RetrieverLoss) and beside:
            loss.projections.save(self.run.path)
        remove(checkpoints)
        return {"rows": len(rows), "projected": beside, **given_up(self.run, ARM)}

    @property
    def _trained_from(self) -> list[Any]:
        recipe = self.recipe
        objectives = [chosen.model_dump(mode="json") for chosen in recipe.objectives]
        settings = [recipe.negatives, objectives, list(recipe.matryoshka), recipe.training]
        return [*self._data, self.parts.beginning_fingerprint, self.parts.teacher_fingerprint, *settings]

    def _loss(self, student: Any, rows: Sequence[TrainingRow]) -> RetrieverLoss | RerankerLoss:
        terms = [chosen.build() for chosen in self.recipe.objectives]
        targets = self._targets(rows)
        if self.recipe.reranks:
            return RerankerLoss(student, terms, targets)
        embedder = SentenceEmbedder(student)
        seed, dimensions = self.recipe.training.seed, self.recipe.matryoshka
        return RetrieverLoss(student, terms, targets, similarity=embedder.similarity, dimensions=dimensions, seed=seed)

    def _targets(self, rows: Sequence[TrainingRow]) -> RankingTargets:
        if not self.recipe.reads_embeddings:
            return targets_of(rows, same_text=self.parts.copies)
        found = self.parts.given or self._teacher_embeddings(rows)
        by_id = dict(zip(self._named(rows), found["passages"], strict=True))
        return targets_of(rows, same_text=self.parts.copies, query_embeddings=found["queries"], embeddings_by_id=by_id)

    def _named(self, rows: Sequence[TrainingRow]) -> list[str]:
        """The first of those that say the same, of each passage."""
        return list(dict.fromkeys(self.parts.copies[passage][0] for row in rows for passage in row.passages))

    def _teacher_embeddings(self, rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
        embedder = self.parts.teacher_embedder
        passages = embedder.documents([self.parts.texts[name] for name in self._named(rows)])
        queries = embedder.queries([row.question.text for row in rows])
        self.parts.let_go()
        return {"passages": torch.from_numpy(passages), "queries": torch.from_numpy(queries)}

    # Index, evaluation, report.

    @property
    def index_folder(self) -> Path:
        """The passages, searchable, beside the student."""
        return self.run.path / "index"

    def index(self) -> dict[str, Any]:
        """The passages, embedded by the student, where it embeds, and by their words."""
        self.train()
        if self.recipe.reranks:
            return {}
        wanted = self.recipe.index

        def work() -> dict[str, Any]:
            embedder = self.parts.embedder("student")
            index = build_index(
                embedder,
                self.parts.corpus.passages,
                precision=wanted.precision,
                exact_up_to=wanted.exact_up_to,
                progress=self.progress,
            )
            made_by = model_fingerprint(str(self.run.student))
            index.save(self.index_folder, made_by=made_by, bm25=self.parts.bm25 if wanted.bm25 else None)
            if index.recall is not None:
                self.progress.say(f"approximate search: it finds {index.recall:.1%} of what the exact search finds")
            return {"passages": len(index.passages), "bytes": index.num_bytes, "recall": index.recall}

        return self._stage(
            "index",
            "the passages are indexed",
            made_from=[*self._trained_from, wanted],
            work=work,
            makes=[self.index_folder],
        )

    @property
    def _everything(self) -> list[Any]:
        return [*self._trained_from, self.recipe.index, self.recipe.evaluation]

    def evaluate(self) -> RetrievalResult:
        """All retrievers on the held-out questions."""
        self.index()
        file = self.run.path / "evaluation.json"

        def work() -> dict[str, Any]:
            result = measured(self.parts, self.index_folder)
            self._log(result)
            write_atomic(file, json.dumps(result.to_json(), indent=1))
            return {"questions": result.questions}

        self._stage(
            "evaluate", "held-out questions are searched for", made_from=self._everything, work=work, makes=[file]
        )
        return RetrievalResult.from_json(json.loads(file.read_text(encoding="utf-8")))

    def _log(self, result: RetrievalResult) -> None:
        for one in result.retrievers:
            for metric, interval in {**one.metrics, **one.agreement}.items():
                self.run.log(evaluated=one.name, metric=metric, **asdict(interval))

    def report(self) -> RetrievalResult:
        """`report.html` and the model card."""
        from stillhouse.reporting.retrieval import RetrievalAccount, write_retrieval_card, write_retrieval_report

        result, card = self.evaluate(), self.run.student / "README.md"

        def work() -> dict[str, Any]:
            stages, train = self.run.stages(), self.parts.train_and_held_out[0]
            account = RetrievalAccount(
                title=self.run.path.name,
                result=result,
                teacher=" + ".join(one.model for one in self.parts.teacher_configs),
                curves=self.metrics.curves(),
                scales=json.loads(self._scales.read_text(encoding="utf-8")),
                mining=stages["label"],
                recipe_yaml=to_yaml(self.recipe),
                stages=[{"name": name, "seconds": done["seconds"]} for name, done in stages.items()],
                plan=planned_beside(self.run, self.recipe),
                documents={
                    "documents": self.parts.corpus.num_documents,
                    "empty": len(self.parts.corpus.empty),
                    "duplicates": self.parts.corpus.num_duplicates,
                    "questions": len(train),
                },
            )
            write_retrieval_report(self.run.report, account)
            write_retrieval_card(card, account)
            return {}

        self._stage(
            "report", "the report is written", made_from=self._everything, work=work, makes=[self.run.report, card]
        )
        return result


def _said_of(empty: Sequence[str], num_duplicates: int) -> Iterator[str]:
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        yield f"without text, and left out: {', '.join(empty[:3])}{more}"
    if num_duplicates:
        yield f"{num_duplicates:,} passages say what another one says word for word, and are kept once"


def learn_arm(
    run: RunFolder, arm: str, progress: Progress, ranks: Ranks, *, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """A student learns in this process and others; what it took."""
    pipeline = RetrievalPipeline(load_recipe(RetrievalRecipe, run.recipe, changes), run, progress)
    pipeline.parts.ranks, given = ranks, place_of(run, arm).given
    pipeline.parts.given = load_file(given) if given.exists() else {}
    if arm != IMITATION:
        return pipeline.learn()
    learn_embeddings(pipeline.parts, pipeline.parts.given["wanted"])
    return {}


@contextmanager
def at_work(
    recipe: RetrievalRecipe, progress: Progress, *, launch: Launch | None = None, cluster: Cluster | None = None
) -> Iterator[RetrievalPipeline]:
    """A retrieval recipe in its run folder, where no other process works meanwhile. With a `launch`, students learn by it;
    with a `cluster`, the teacher scores and embeds there, and so does whoever asks questions.

    Raises:
        StillhouseError: for what the user can mend.
    """
    run = RunFolder(recipe.run)
    kept = Kept(progress, run.path)
    pipeline = RetrievalPipeline(recipe, run, kept)
    pipeline.parts.launch, pipeline.parts.cluster = launch, cluster
    pipeline.check()
    with run.open(recipe), kept:
        yield pipeline
