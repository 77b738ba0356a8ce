"""Two stages of data of kind rag: passages are found for every question, and the questions are answered over them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.identity import plain
from stillhouse.commands.parts.replay import read_replayed
from stillhouse.commands.remote import QUESTIONS
from stillhouse.commands.retrieving import Finder, check_retriever, finder_of, retriever_fingerprint
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.commands.synthesis import about, by_whom, said_of, writing, written_by
from stillhouse.core.errors import DataError
from stillhouse.core.files import fingerprint_files, json_line, read_lines, write_atomic
from stillhouse.core.objects import files_of
from stillhouse.core.progress import Progress
from stillhouse.data.config import CONTEXT_COLUMN, RagDataConfig
from stillhouse.data.grounded import (
    MIXES,
    Context,
    Mix,
    prompt_of,
    read_contexts,
    refuse_other_contexts,
    write_contexts,
    written_context,
    written_question,
)
from stillhouse.data.mixture import Mixture, counts, mix
from stillhouse.data.prepare import HELD_OUT_ANSWERS
from stillhouse.data.rag_questions import RagQuestion, read_rag_questions, two_sides, with_gold
from stillhouse.retrieval import Corpus, read_corpus
from stillhouse.synthesis.config import GroundedConfig
from stillhouse.synthesis.filters import account_of, build_filters, run_filters
from stillhouse.synthesis.flow import SYNTHETIC, row_of, write_records
from stillhouse.synthesis.grounded import (
    answer_grounded,
    grounded_filters,
    grounded_records,
    over_refusals,
)
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.run import said_of_reasons, write_synthetic
from stillhouse.synthesis.sources.documents import document_questions
from stillhouse.teachers.ledger import Ledger

CONTEXTS = "contexts.jsonl"
INDEX, TEACHER_INDEX = "index", "index_teacher"


class Grounding:
    """Documents, questions and contexts of one recipe."""

    def __init__(self, parts: Parts) -> None:
        data, wanted = parts.recipe.data, parts.recipe.synthesis
        assert isinstance(data, RagDataConfig)
        assert wanted is None or isinstance(wanted, GroundedConfig)
        self.parts, self.data = parts, data
        self.wanted = None if wanted is None else by_whom(parts.recipe, wanted)

    @cached_property
    def corpus(self) -> Corpus:
        """All passages."""
        return read_corpus(self.data.documents, words=self.data.passage_words)

    @property
    def texts(self) -> dict[str, str]:
        """What each passage says."""
        return {passage.id: passage.whole for passage in self.corpus.passages}

    @property
    def names(self) -> dict[str, list[str]]:
        """Passages by what a user may call them: their own id, their document's, or its file."""
        found: dict[str, list[str]] = {}
        for passage in self.corpus.passages:
            for name in dict.fromkeys((passage.id, passage.id.partition("#")[0], passage.source)):
                found.setdefault(name, []).append(passage.id)
        return found

    def questions(self, path: Path, *, key: str) -> list[RagQuestion]:
        """Those of a file, each with the passage that tells."""
        return with_gold(read_rag_questions(path, key=key), self.names, self.texts, key=key)

    @property
    def mixture(self) -> Mixture:
        """How contexts are made."""
        data = self.data
        shares: dict[Mix, float] = {kind: getattr(data.mixture, kind) for kind in MIXES}
        found_by = retriever_fingerprint(data.retriever)
        return Mixture(shares, data.passages, data.passage_characters, data.seed, found_by)

    @property
    def contexts_file(self) -> Path:
        """Where the contexts are kept."""
        return self.parts.run.data / CONTEXTS


def is_rag(shop: Workshop) -> bool:
    """Whether this recipe answers from documents."""
    return isinstance(shop.recipe.data, RagDataConfig)


def check_grounding(parts: Parts) -> None:
    """Say what is to be said of documents and questions, before a model is loaded.

    Raises:
        StillhouseError: for what is wrong with them.
    """
    for note in _notes(parts):
        parts.progress.say(note)


def _notes(parts: Parts) -> Iterator[str]:
    # Not `parts.replayed`: what it has in common with the answers is known later.
    replayed = read_replayed(parts.recipe, parts.data_path, parts.tokenizer, teacher_tokenizer=parts.other_tokenizer)
    yield from replayed.notes if replayed else ()
    grounding = Grounding(parts)
    data, wanted, corpus = grounding.data, grounding.wanted, grounding.corpus
    for key, source in (("data.retriever", data.retriever), ("data.teacher_retriever", data.teacher_retriever)):
        if source is not None:
            check_retriever(source, key=key)
    if wanted is not None:
        build_filters(wanted.used_filters, tokenizer=parts.tokenizer)
    yield f"{len(corpus.passages):,} passages of {corpus.num_documents:,} documents"
    if corpus.empty:
        yield f"left out: {len(corpus.empty):,} documents without any text, such as {corpus.empty[0]}"
    if corpus.num_duplicates:
        yield f"left out: {corpus.num_duplicates:,} passages that another one says word for word"
    if data.path is None:
        return
    questions = grounding.questions(data.path, key="data.path")
    held_out = data.held_out_path
    judged = None if held_out is None else grounding.questions(held_out, key="data.held_out_path")
    both = two_sides(questions, share=data.held_out, held_out=judged)
    yield f"{sum(not one.held_out for one in both):,} questions to learn, {sum(one.held_out for one in both):,} held out"
    unanswered = sum(not one.answers for one in both)
    if wanted is None and unanswered:
        raise DataError(
            f"{unanswered:,} of {len(both):,} questions of data.path have no 'answers'. Give some to each, or let the teacher "
            "answer: synthesis: {kind: grounded}."
        )


# The first stage: contexts.


def find_contexts(shop: Workshop) -> dict[str, Any]:
    """One immutable context a question, kept with its hash."""
    grounding = Grounding(shop.parts)
    data, wanted = grounding.data, grounding.wanted

    def work() -> dict[str, Any]:
        finder = finder_of(data.retriever, grounding.corpus, shop.run.path / INDEX, candidates=data.candidates)
        if data.teacher_retriever is not None:
            finder_of(data.teacher_retriever, grounding.corpus, shop.run.path / TEACHER_INDEX)
        questions, lost = _asked(grounding, finder, shop.progress)
        judged = None
        if data.held_out_path is not None:
            judged = grounding.questions(data.held_out_path, key="data.held_out_path")
        sides = two_sides(questions, share=data.held_out, held_out=judged)
        found = finder.retriever.search([one.text for one in sides], data.candidates)
        mixed = mix(sides, found, finder.texts, mixture=grounding.mixture, template=data.template)
        write_contexts(mixed.contexts, grounding.contexts_file)
        for note, number in {**lost, **mixed.notes}.items():
            shop.progress.say(f"{number:,} questions: {note}")
        return {"contexts": len(mixed.contexts), "mixture": counts(mixed.contexts), "notes": {**lost, **mixed.notes}}

    sources = [data.documents, *(path for path in (data.path, data.held_out_path) if path is not None)]
    files = [file for path in sources for file in files_of(path)]
    retrievers = [retriever_fingerprint(one) for one in (data.retriever, data.teacher_retriever) if one is not None]
    asks = None if wanted is None or data.path is not None else _asks(shop, wanted)
    made_from = [fingerprint_files(files), data, *retrievers, asks]
    makes = [grounding.contexts_file, shop.run.path / INDEX]
    return shop.once("contexts", "passages are found", made_from=made_from, work=work, makes=makes)


def _asks(shop: Workshop, wanted: GroundedConfig) -> list[Any]:
    """What questions depend on that somebody writes."""
    return [written_by(shop.parts, wanted), wanted.number, plain(wanted.sampling), wanted.seed]


def _asked(grounding: Grounding, finder: Finder, progress: Progress) -> tuple[list[RagQuestion], dict[str, int]]:
    """The questions of the file, or those that are written about passages and lead back to them; and how many do not."""
    data, wanted = grounding.data, grounding.wanted
    if data.path is not None:
        return grounding.questions(data.path, key="data.path"), {}
    assert wanted is not None and wanted.number is not None
    grounding.parts.run.data.mkdir(parents=True, exist_ok=True)
    ids = {text: id for id, text in grounding.texts.items()}
    with writing(grounding.parts, wanted, ledger=QUESTIONS) as writer:
        ask = Ledger(grounding.parts.run.path / QUESTIONS, writer, progress=progress).ask
        records = document_questions(
            ask, passages=list(ids), number=wanted.number, sampling=wanted.sampling, seed=wanted.seed
        )
    asked = [record for record in records if not record.dropped and record.question.strip()]
    hits = finder.retriever.search([record.question for record in asked], data.candidates) if asked else []
    kept: dict[str, RagQuestion] = {}
    for record, found in zip(asked, hits, strict=True):
        gold = ids[str(record.lineage["passage"])]
        if any(hit.id == gold for hit in found):
            kept.setdefault(record.question, RagQuestion(record.question, gold=gold))
    if not kept:
        raise DataError(
            f"synthesis: none of {len(records):,} questions that were written finds its passage again. Raise synthesis.number "
            "or data.candidates, or give questions with data.path."
        )
    lost = len(records) - len(kept)
    return list(kept.values()), {"left out: they do not find their passage again, or came twice": lost} if lost else {}


# The second stage: answers.


def ground(shop: Workshop) -> dict[str, Any]:
    """Every context with its answer, on two sides, held against the contexts as they are now."""
    find_contexts(shop)
    grounding = Grounding(shop.parts)
    data, wanted = grounding.data, grounding.wanted
    made_from = [
        fingerprint_files([grounding.contexts_file]),
        data.template,
        data.student_reads,
        data.sequence_tokens,
        *([] if wanted is None else [_settings(shop, wanted)]),
    ]
    folder = shop.run.data
    done = shop.once(
        "synthesize",
        "the questions are answered",
        made_from=made_from,
        work=lambda: _answer(grounding, shop.progress),
        makes=[folder / SYNTHETIC, folder / HELD_OUT_ANSWERS],
    )
    check_contexts(grounding)
    return done


def _settings(shop: Workshop, wanted: GroundedConfig) -> list[Any]:
    return [written_by(shop.parts, wanted), wanted.model_dump(mode="json", exclude={"writer"})]


def check_contexts(grounding: Grounding) -> list[Context]:
    """The contexts, after every row that is learnt or judged has been held against its own.

    Raises:
        StaleError: if the passages were retrieved again, or changed.
    """
    contexts = read_contexts(grounding.contexts_file)
    folder, template = grounding.parts.run.data, grounding.data.template
    rows = [row for name in (SYNTHETIC, HELD_OUT_ANSWERS) for row in read_lines(folder / name)]
    shown = [{"context": row["lineage"]["context"], "prompt": _prompt(row)} for row in rows]
    refuse_other_contexts(shown, contexts, template)
    return contexts


def _prompt(row: Mapping[str, Any]) -> str:
    """What the teacher reads of a row."""
    asked = str(row["messages"][0]["content"])
    return f"{row[CONTEXT_COLUMN]}\n\n{asked}" if CONTEXT_COLUMN in row else asked


def _answer(grounding: Grounding, progress: Progress) -> dict[str, Any]:
    data, wanted, parts = grounding.data, grounding.wanted, grounding.parts
    contexts = {context.hash: context for context in read_contexts(grounding.contexts_file)}
    records = grounded_records(list(contexts.values()), data.template, by_data=wanted is None)
    tokenizers = [parts.tokenizer, *([parts.teacher_tokenizer] if parts.crosses else [])]
    fits = partial(_too_long, tokenizers=tokenizers, most_tokens=data.sequence_tokens)
    if wanted is None:
        records = [record.drop(f"length: {reason}") if (reason := fits(record)) else record for record in records]
        write_records(records, parts.run.data)
        dropped: Mapping[str, int] = Counter(r.dropped.partition(" (")[0] for r in records if r.dropped)
    else:
        records, dropped = _taught(grounding, wanted, records, contexts, fits, progress)
    kept = [record for record in records if not record.dropped]
    _write_sides(kept, contexts, grounding)
    for side, name in ((False, "learn"), (True, "judge by")):
        if not any(bool(record.lineage["held_out"]) is side for record in kept):
            raise DataError(
                f"of {len(records):,} answers none is left to {name}: {said_of_reasons(dropped)}. Mend what they say, or give "
                "more questions."
            )
    if refused := over_refusals(records):
        progress.say(f"the teacher over-refused {refused:,} times: it said that the passages do not tell where they do")
    return {
        "documents": len(kept),
        "tokens": None,
        "dropped": dict(dropped),
        "over_refusals": over_refusals(records),
        "answered_by_rule": sum(record.lineage.get("teacher") == "data" for record in records),
    }


def _taught(
    grounding: Grounding,
    wanted: GroundedConfig,
    records: Sequence[Record],
    contexts: Mapping[str, Context],
    fits: Callable[[Record], str],
    progress: Progress,
) -> tuple[list[Record], Mapping[str, int]]:
    """All records with answers, the teacher's where one is wanted."""
    parts, template = grounding.parts, grounding.data.template
    with writing(parts, wanted) as writer:
        filters = build_filters(wanted.used_filters, tokenizer=writer.tokenizer)
        checks = grounded_filters(contexts, template, wanted.checks, samples=wanted.answers.samples)

        def make(ask: Ask) -> list[Record]:
            return answer_grounded(
                ask,
                records,
                contexts,
                writer=writer.name,
                answers=wanted.answering(),
                template=template,
                checks=wanted.checks,
                clean=lambda said: _cleaned(said, filters),
                fits=fits,
            )

        made = write_synthetic(
            make,
            writer,
            folder=parts.run.data,
            about=about(parts.recipe.teacher.model, writer, wanted, number=len(records)),
            finish=lambda done: {**account_of(done, [*checks, *filters]), "over_refusals": over_refusals(done)},
            progress=progress,
        )
    for line in said_of(made):
        progress.say(line)
    return list(made.records), made.dropped


def _cleaned(records: Sequence[Record], filters: Sequence[Any]) -> list[Record]:
    """As `run_filters`, but for what a filter thinks of the prompt, which is everybody's: it is shown the answer alone."""
    alone = [replace(record, messages=record.messages[-1:]) for record in records]
    checked = run_filters(alone, filters)
    return [replace(one, dropped=found.dropped) for one, found in zip(records, checked, strict=True)]


def _too_long(record: Record, *, tokenizers: Sequence[PreTrainedTokenizerBase], most_tokens: int) -> str:
    """Why nothing is left of a context that would be cut; empty where it fits, in everybody's tokens."""
    if record.dropped:
        return ""
    for tokenizer in tokenizers:
        text = str(tokenizer.apply_chat_template([dict(m) for m in record.messages], tokenize=False))
        needed = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if needed > most_tokens:
            return f"passages, question and answer are longer than data.sequence_tokens ({needed:,} tokens)"
    return ""


def _write_sides(records: Sequence[Record], contexts: Mapping[str, Context], grounding: Grounding) -> None:
    """What is learnt, and what nobody learns, each in a file, as teacher and student are to read it."""
    folder = grounding.parts.run.data
    for name, side in ((SYNTHETIC, False), (HELD_OUT_ANSWERS, True)):
        rows = [
            _row(record, contexts, grounding.data) for record in records if bool(record.lineage["held_out"]) is side
        ]
        write_atomic(folder / name, "".join(map(json_line, rows)))


def _row(record: Record, contexts: Mapping[str, Context], data: RagDataConfig) -> dict[str, Any]:
    context, row = contexts[str(record.lineage["context"])], row_of(record)
    assert row["messages"][0]["content"] == prompt_of(context, data.template), "everybody reads the same"
    if data.student_reads == "passages":
        return row
    asked = {"role": "user", "content": written_question(context, data.template)}
    return {
        **row,
        "messages": [asked, *row["messages"][1:]],
        CONTEXT_COLUMN: written_context(context, data.template),
    }


def account(shop: Workshop) -> dict[str, Any]:
    """What a report says of contexts and answers."""
    stages = shop.run.stages()
    return {"contexts": stages["contexts"], "answers": stages["synthesize"]} if "contexts" in stages else {}
