"""A stage of data of kind rag: everyone answers the held-out questions over the same passages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from stillhouse.commands.parts import Parts
from stillhouse.commands.remote import GROUNDED, remote_teacher
from stillhouse.commands.retrieving import Finder, opened_finder
from stillhouse.commands.stages.grounding import INDEX, TEACHER_INDEX, Grounding, check_contexts
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.files import size_on_disk
from stillhouse.core.grounded_results import Size
from stillhouse.core.plugins import load_function
from stillhouse.core.results import Role
from stillhouse.data.config import RagDataConfig
from stillhouse.data.grounded import Context
from stillhouse.data.mixture import Mixture, Question, mix
from stillhouse.evaluation import Contestant
from stillhouse.evaluation.behaviour.config import LocalJudgeConfig
from stillhouse.evaluation.behaviour.judge import judge_of
from stillhouse.evaluation.grounded import (
    ABLATED,
    Answerer,
    AskedAnswerer,
    Asking,
    LocalAnswerer,
    judge_grounded,
    judge_pairs,
    most_memory,
    time_answers,
)
from stillhouse.evaluation.outputs import embedded_by_model
from stillhouse.evaluation.support import (
    AskedSupport,
    EmbeddedSupport,
    FunctionJudgeConfig,
    FunctionSupport,
    Support,
)
from stillhouse.models.load import check_weights, display_name
from stillhouse.synthesis.config import GroundedConfig
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.remote_config import RemoteTeacherConfig

JUDGE_KEY = "evaluation.grounding.judge.by.name"
JUDGED = "judged"
"""Folder of a run with what a judge replied."""
ANSWER_TOKENS = 64
"""An answer is cut off there, where the recipe does not say how long the teacher's may be."""


def judge_answers(shop: Workshop, contestants: Sequence[Contestant]) -> dict[str, Any]:
    """What `evaluation/grounded.py` finds, as plain values."""
    grounding = Grounding(shop.parts)
    data = grounding.data
    held_out = [context for context in check_contexts(grounding) if context.held_out]
    judged = held_out[: shop.recipe.evaluation.questions]
    alone: frozenset[Role] = frozenset(
        one.role for one in contestants if data.student_reads == "question" and one.role != "teacher"
    )
    asking = Asking(judged, data.template, alone)
    answerers: dict[Role, Answerer] = (
        {} if shop.parts.remote is None else {"teacher": _asked_teacher(shop, shop.parts.remote)}
    )
    answerers |= {one.role: _answerer(shop, one) for one in contestants}
    result = judge_grounded(answerers, asking, supports=list(_supports(shop)), seed=data.seed, progress=shop.progress)
    finders = _finders(shop, data)
    pairs = judge_pairs(
        answerers,
        {name: replace(asking, contexts=_retrieved(grounding, finder, judged)) for name, finder in finders.items()},
        progress=shop.progress,
    )
    searches = {name: partial(_search, finder, data.passages) for name, finder in finders.items()}
    timed = {role: one for role in ABLATED if isinstance(one := answerers[role], LocalAnswerer)}
    times = time_answers(timed, asking, searches, progress=shop.progress)
    sizes = [*_index_sizes(shop, data), *most_memory(timed, asking, progress=shop.progress)]
    return asdict(
        replace(
            result,
            pairs=pairs,
            latencies=times.latencies,
            sizes=sizes,
            speed_up=times.speed_up,
            speed_up_as_long=times.speed_up_as_long,
        )
    )


def check_supports(parts: Parts) -> None:
    """Refuse who cannot be asked, before a model is loaded.

    Raises:
        StillhouseError: for a model that is not there, or a function that may not run.
    """
    wanted = parts.recipe.evaluation.grounding
    if wanted is None:
        return
    if wanted.sentence_model is not None:
        check_weights(wanted.sentence_model)
    by = None if wanted.judge is None else wanted.judge.by
    if isinstance(by, LocalJudgeConfig):
        check_weights(by.model)
    elif isinstance(by, FunctionJudgeConfig):
        load_function(by.name, key=JUDGE_KEY)


def _supports(shop: Workshop) -> Iterator[Support]:
    """Whoever says, beside words, what is borne out."""
    wanted = shop.recipe.evaluation.grounding
    if wanted is None:
        return
    if wanted.sentence_model is not None:
        yield EmbeddedSupport(embedded_by_model(wanted.sentence_model), display_name(wanted.sentence_model))
    if wanted.judge is None:
        return
    judge = wanted.judge
    if isinstance(judge.by, FunctionJudgeConfig):
        yield FunctionSupport(load_function(judge.by.name, key=JUDGE_KEY), judge.by.name)
    else:
        folder = shop.run.path / JUDGED
        folder.mkdir(parents=True, exist_ok=True)
        ask, name = judge_of(judge.by, folder=folder, progress=shop.progress)
        yield AskedSupport(ask, name, judge.prompt, judge.max_new_tokens)


def _index_sizes(shop: Workshop, data: RagDataConfig) -> list[Size]:
    folders = {data.retriever: INDEX, **({data.teacher_retriever: TEACHER_INDEX} if data.teacher_retriever else {})}
    return [Size(name, "index on disk", size_on_disk(shop.run.path / folder)) for name, folder in folders.items()]


def _answerer(shop: Workshop, one: Contestant) -> LocalAnswerer:
    parts = shop.parts
    tokenizer = parts.teacher_tokenizer if one.role == "teacher" else parts.tokenizer
    return LocalAnswerer(one.model, tokenizer, max_new_tokens=_limit(shop))


def _limit(shop: Workshop) -> int:
    wanted = shop.recipe.synthesis
    return wanted.answers.sampling.max_new_tokens if isinstance(wanted, GroundedConfig) else ANSWER_TOKENS


def _asked_teacher(shop: Workshop, remote: RemoteTeacherConfig) -> AskedAnswerer:
    """A teacher behind an API, each of whose replies is kept; how long it takes is its server's affair."""
    writer = remote_teacher(remote, shop.run, shop.progress, ledger=GROUNDED)
    ledger = Ledger(shop.run.path / GROUNDED, writer, progress=shop.progress)
    return AskedAnswerer(ledger.ask, max_new_tokens=_limit(shop))


def _finders(shop: Workshop, data: RagDataConfig) -> dict[str, Finder]:
    """The retriever that contexts are made with, and the one that it is compared with, by the names of the report."""
    own = {f"{data.retriever}": opened_finder(data.retriever, shop.run.path / INDEX, candidates=data.candidates)}
    if data.teacher_retriever is None:
        return own
    return {**own, data.teacher_retriever: opened_finder(data.teacher_retriever, shop.run.path / TEACHER_INDEX)}


def _retrieved(grounding: Grounding, finder: Finder, contexts: Sequence[Context]) -> Sequence[Context]:
    """The same questions over what this retriever finds, as it comes."""
    mixture = replace(grounding.mixture, shares={"retrieved": 1.0}, retriever=finder.name)
    questions = [Question(one.question, one.answers, one.gold, held_out=True) for one in contexts]
    return retrieved_contexts(finder, questions, mixture, grounding.data)


def retrieved_contexts(
    finder: Finder, questions: Sequence[Question], mixture: Mixture, data: RagDataConfig
) -> Sequence[Context]:
    """A context of what a retriever finds for each question."""
    found = finder.retriever.search([one.text for one in questions], data.passages)
    return mix(questions, found, finder.texts, mixture=mixture, template=data.template).contexts


def _search(finder: Finder, count: int, question: str) -> object:
    return finder.retriever.search([question], count)


def grounded_account(stages: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What a report says of contexts, answers and their judgement; nothing for other data."""
    if "contexts" not in stages:
        return {}
    answers = stages["synthesize"]
    return {
        "grounded": {
            "mixture": stages["contexts"]["mixture"],
            "notes": stages["contexts"]["notes"],
            "over_refusals": answers["over_refusals"],
            "answered_by_rule": answers["answered_by_rule"],
            "result": stages["evaluate"].get("grounded"),
        }
    }
