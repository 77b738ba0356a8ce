"""Who is measured beside a retriever's student: its teacher, itself before training, BM25, both together, and coarser forms."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from stillhouse.commands.retrieval.parts import RetrievalParts, parameter_count
from stillhouse.core.retrieval_results import RetrievalResult
from stillhouse.evaluation.retrieval import Entrant, evaluate_retrievers
from stillhouse.models.load import display_name
from stillhouse.retrieval.embed import SentenceEmbedder, Vectors, shortened
from stillhouse.retrieval.hits import Retriever
from stillhouse.retrieval.index import DenseIndex, Hybrid, Reranked, build_index, embedded, open_index
from stillhouse.retrieval.teachers import BiEncoderTeacher, raw_logits

TIMED_PASSAGES = 24
TIMED_SLOWLY = 2
"""Questions over which a teacher is timed that reads each passage with the question."""


def measured(parts: RetrievalParts, index: Path) -> RetrievalResult:
    """Every retriever on the held-out questions."""
    _, held_out = parts.train_and_held_out
    passages = parts.corpus.passages
    step = max(1, len(passages) // TIMED_PASSAGES)
    return evaluate_retrievers(
        list(_Entrants(parts, index)),
        held_out,
        num_passages=len(passages),
        ignores_same_id=parts.recipe.evaluation.ignore_same_id,
        timed_passages=[passage.whole for passage in passages[::step][:TIMED_PASSAGES]],
        progress=parts.progress,
    )


class _Entrants:
    """All of them, in the order of the table."""

    def __init__(self, parts: RetrievalParts, index: Path) -> None:
        self.parts, self.folder = parts, index

    def __iter__(self) -> Iterator[Entrant]:
        yield self._teacher()
        if self.parts.recipe.reranks:
            yield self._reranker("student", "student")
            yield self._reranker("student_before", "student before training")
        else:
            yield self._dense("student", "student", self._student)
            if self.parts.recipe.imitation is not None:
                yield self._dense("student_imitating", "student after imitation alone", self._imitating)
            yield self._dense("student_before", "student before training", self._before)
        yield Entrant("bm25", "BM25", "words alone, no model", self.parts.bm25)
        if not self.parts.recipe.reranks:
            yield Entrant("hybrid", "student and BM25", "reciprocal ranks", Hybrid((self._student, self.parts.bm25)))
            yield from self._coarser()

    @cached_property
    def _student(self) -> DenseIndex:
        return open_index(self.folder, self.parts.embedder("student"))

    @cached_property
    def _before(self) -> DenseIndex:
        return self._embedded(self.parts.embedder("student_before"))

    @cached_property
    def _imitating(self) -> DenseIndex:
        return self._embedded(self.parts.embedder("student_imitating"))

    def _embedded(self, embedder: SentenceEmbedder) -> DenseIndex:
        return build_index(embedder, self.parts.corpus.passages, progress=self.parts.progress)

    @cached_property
    def _pool(self) -> Retriever:
        """What a cross-encoder reads: found by words, and, where the student embeds, by the student before training."""
        if self.parts.recipe.reranks:
            return self.parts.bm25
        return Hybrid((self.parts.bm25, self._before))

    def _teacher(self) -> Entrant:
        teachers = self.parts.own_teachers
        name = " + ".join(display_name(one.model) for one in self.parts.teacher_configs)
        count = sum(parameter_count(one.model) for one in teachers if hasattr(one, "model"))
        if len(teachers) == 1 and isinstance(teachers[0], BiEncoderTeacher):
            embedder = teachers[0].embedder
            index = self._embedded(embedder)
            return Entrant("teacher", "teacher", name, index, index, parameter_count(embedder.model))
        depth = self.parts.recipe.evaluation.rerank_depth
        retriever = Reranked(self._pool, self._scored, self.parts.texts, depth)
        # What was scored before is only looked up: to be timed, the teacher reads again.
        reads = Reranked(self._pool, self._read, self.parts.texts, depth)
        detail = f"{name}, of {depth} candidates"
        return Entrant("teacher", "teacher", detail, retriever, None, count or None, True, reads, TIMED_SLOWLY)

    def _scored(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [float(score) for score in self.parts.scores(pairs)]

    def _read(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        found = [one.scores(pairs) for one in self.parts.own_teachers]
        return [float(sum(scores)) for scores in zip(*found, strict=True)]

    def _reranker(self, name: str, title: str) -> Entrant:
        model = self.parts.load_student(name)
        depth = self.parts.recipe.evaluation.rerank_depth
        retriever = Reranked(self._pool, lambda pairs: raw_logits(model, pairs), self.parts.texts, depth)
        return Entrant(name, title, f"of {depth} candidates", retriever, None, parameter_count(model), timed_queries=8)

    def _dense(self, name: str, title: str, index: DenseIndex) -> Entrant:
        embedder = index.embedder
        assert isinstance(embedder, SentenceEmbedder), "students are sentence-transformers models"
        detail = f"{index.vectors.width} numbers a passage"
        return Entrant(name, title, detail, index, index, parameter_count(embedder.model))

    def _coarser(self) -> Iterator[Entrant]:
        wanted = self.parts.recipe.evaluation
        model, passages = self.parts.load_student("student"), self.parts.corpus.passages
        whole: Vectors = embedded(SentenceEmbedder(model), passages, progress=self.parts.progress)
        for precision in wanted.precisions:
            index = build_index(SentenceEmbedder(model), passages, precision=precision, vectors=whole)
            yield Entrant(
                f"student {precision}", f"student, {precision}", "queries stay whole", index, index, times=False
            )
        for width in wanted.dimensions:
            embedder = SentenceEmbedder(model, dimensions=width)
            vectors = shortened(whole, width, similarity=embedder.similarity)
            index = build_index(embedder, passages, vectors=vectors)
            yield Entrant(
                f"student {width}", f"student, first {width}", "numbers of each embedding", index, index, times=False
            )
