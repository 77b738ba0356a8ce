"""A stage of data of kind rag: everyone answers the held-out questions over the same passages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from stillhouse.commands.retrieving import Finder, opened_finder
from stillhouse.commands.stages.grounding import INDEX, TEACHER_INDEX, Grounding, check_contexts
from stillhouse.commands.stages.workshop import Workshop
from stillhouse.core.results import Role
from stillhouse.data.config import RagDataConfig
from stillhouse.data.grounded import Context
from stillhouse.data.mixture import Mixture, Question, mix
from stillhouse.evaluation import Contestant
from stillhouse.evaluation.grounded import ABLATED, Asking, LocalAnswerer, judge_grounded, judge_pairs, time_answers
from stillhouse.synthesis.config import GroundedConfig

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
    answerers = {one.role: _answerer(shop, one) for one in contestants}
    result = judge_grounded(answerers, asking, seed=data.seed, progress=shop.progress)
    finders = _finders(shop, data)
    pairs = judge_pairs(
        answerers,
        {name: replace(asking, contexts=_retrieved(grounding, finder, judged)) for name, finder in finders.items()},
        progress=shop.progress,
    )
    searches = {name: partial(_search, finder, data.passages) for name, finder in finders.items()}
    timed = {role: answerers[role] for role in ABLATED if role in answerers}
    latencies, speed_up = time_answers(timed, asking, searches, progress=shop.progress)
    return asdict(replace(result, pairs=pairs, latencies=latencies, speed_up=speed_up))


def _answerer(shop: Workshop, one: Contestant) -> LocalAnswerer:
    parts = shop.parts
    wanted = shop.recipe.synthesis
    limit = wanted.answers.sampling.max_new_tokens if isinstance(wanted, GroundedConfig) else ANSWER_TOKENS
    tokenizer = parts.teacher_tokenizer if one.role == "teacher" else parts.tokenizer
    return LocalAnswerer(one.model, tokenizer, max_new_tokens=limit)


def _finders(shop: Workshop, data: RagDataConfig) -> dict[str, Finder]:
    """The retriever that contexts are made with, and the one that it is compared with, by the names of the report."""
    own = {f"{data.retriever}": opened_finder(data.retriever, shop.run.path / INDEX)}
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
