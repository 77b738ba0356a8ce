"""Questions that a language model asks about the passages; those that do not lead back to their passage are left out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from stillhouse.commands.retrieval.parts import RetrievalParts
from stillhouse.commands.retrieval.recipe import QuestionSynthesisConfig
from stillhouse.core.cluster import Cluster
from stillhouse.core.files import write_atomic
from stillhouse.models.load import display_name, load_causal_lm, load_tokenizer, seen_by_all, source_fingerprint
from stillhouse.retrieval.documents import id_of
from stillhouse.retrieval.hits import Hit
from stillhouse.retrieval.index import build_index
from stillhouse.retrieval.questions import Question, questions_lines
from stillhouse.synthesis import write_synthetic
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.sources.documents import document_questions
from stillhouse.teachers.hands import RayHands
from stillhouse.teachers.writer import LocalWriter, SpreadWriter

ASTRAY = "another passage is found for it"


def ask_questions(parts: RetrievalParts, wanted: QuestionSynthesisConfig) -> dict[str, Any]:
    """Write questions with their passages, and what became of all that were asked."""
    writer = asker(parts, wanted) if parts.cluster is None else spread_asker(parts, wanted, parts.cluster)
    made = write_synthetic(
        partial(questions_of, parts=parts, wanted=wanted),
        writer,
        folder=parts.run.data,
        about={"written_by": {"model": writer.name, "fingerprint": writer.fingerprint}},
        progress=parts.progress,
    )
    kept = [record for record in made.records if not record.dropped]
    by_text = {id_of(passage.text): passage.id for passage in parts.corpus.passages}
    questions = [
        Question(str(number), record.question, {by_text[id_of(str(record.lineage["passage"]))]: 1})
        for number, record in enumerate(kept)
    ]
    write_atomic(parts.asked, questions_lines(questions))
    parts.progress.say(f"{len(kept):,} of {len(made.records):,} questions lead back to their passage")
    return {"questions": len(kept), "dropped": dict(made.dropped)}


def asker(parts: RetrievalParts, wanted: QuestionSynthesisConfig) -> LocalWriter:
    """The language model that asks, loaded."""
    parts.progress.say(f"loading {display_name(wanted.model)}, which asks")
    return LocalWriter(load_causal_lm(wanted.model), **_about(wanted))


def spread_asker(parts: RetrievalParts, wanted: QuestionSynthesisConfig, cluster: Cluster) -> SpreadWriter:
    """The same by actors on a cluster."""
    load = partial(load_causal_lm, seen_by_all(wanted.model))
    hands = parts.at_hand(RayHands(cluster, load, progress=parts.progress))
    return SpreadWriter(hands, load_tokenizer(wanted.model), **_about(wanted))


def _about(wanted: QuestionSynthesisConfig) -> dict[str, Any]:
    return {
        "name": display_name(wanted.model),
        "fingerprint": source_fingerprint(wanted.model),
        "batch_size": wanted.batch_size,
    }


def questions_of(ask: Ask, *, parts: RetrievalParts, wanted: QuestionSynthesisConfig) -> list[Record]:
    """The questions about the passages, those marked that lead astray."""
    texts = [passage.text for passage in parts.corpus.passages]
    records = document_questions(ask, passages=texts, number=wanted.number, sampling=wanted.sampling, seed=wanted.seed)
    return round_trip(records, _found(parts, records, k=wanted.round_trip))


def _found(parts: RetrievalParts, records: Sequence[Record], *, k: int) -> list[set[str]]:
    """What BM25 and the student before training find for each question: hashes of the passages' words."""
    texts = [record.question for record in records]
    retrievers = [parts.bm25]
    lists: list[list[list[Hit]]] = [retriever.search(texts, k) for retriever in retrievers if texts]
    if texts and not parts.recipe.reranks:
        from stillhouse.retrieval.embed import SentenceEmbedder

        index = build_index(SentenceEmbedder(parts.new_student()), parts.corpus.passages, progress=parts.progress)
        lists.append(index.search(texts, k))
    by_id = parts.corpus.by_id
    return [{id_of(by_id[hit.id].text) for hits in found for hit in hits} for found in zip(*lists, strict=True)]


def round_trip(records: Sequence[Record], found: Sequence[set[str]]) -> list[Record]:
    """The records, those dropped whose own passage is not among what was found for their question."""
    return [
        record if id_of(str(record.lineage["passage"])) in hashes else replace(record, dropped=ASTRAY)
        for record, hashes in zip(records, found, strict=True)
    ]
