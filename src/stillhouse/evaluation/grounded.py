"""Answers over passages: right or not, borne out by what was read or not, cited, and left unsaid where nothing tells.

All of it by words. What an answer says beyond its passages is called unsupported content: whether it is true, words do not say.
Every share of given answers stands beside how many were given, for who always abstains says nothing wrong.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.citations import abstains, citations, without_citations
from stillhouse.core.grounded_results import (
    Condition,
    GroundedExample,
    GroundedReading,
    GroundedResult,
    Latency,
    PairReading,
    Size,
)
from stillhouse.core.lexical import (
    best_of,
    bigram_precision,
    exact_match,
    k_precision,
    says,
    token_f1,
    token_recall,
    unsupported_names,
    unsupported_numbers,
)
from stillhouse.core.progress import SILENT, Progress, working
from stillhouse.core.results import Comparison, Interval, Role
from stillhouse.core.rouge import rouge_l_of_texts
from stillhouse.data.grounded import (
    Context,
    Template,
    prompt_of,
    shuffled,
    without_passages,
    written_question,
)
from stillhouse.evaluation.behaviour.judge import AskJudge
from stillhouse.evaluation.intervals import Draws, Sampled, Statistic, Sums, bootstrapped, median_interval
from stillhouse.evaluation.memory import peak_bytes
from stillhouse.evaluation.support import Support, supported
from stillhouse.models.generate import Sampling, sample, stop_ids_of, stream
from stillhouse.models.tokenizers import end_of_turn
from stillhouse.teachers.writer import Request

ABLATED: tuple[Role, ...] = ("teacher", "student")
"""Who is asked again without passages, and with them in another order."""
COMPARED_WITH_TEACHER = ("token_f1", "k_precision")
TIMED_QUESTIONS = 20
EXAMPLES_SHOWN = 5


@runtime_checkable
class Answerer(Protocol):
    """Whoever answers prompts."""

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """One answer each, the same every time."""
        ...


@dataclass(frozen=True)
class Timed:
    """Milliseconds of one answer, and how many tokens it has."""

    read: float
    """To the first token."""
    write: float
    """From there to the last."""
    tokens: int

    def as_long_as(self, other: "Timed") -> float:
        """Milliseconds for as many tokens as the other has, were each as quick as the own ones; an answer of one token tells
        nothing of a second."""
        each = self.write / (self.tokens - 1) if self.tokens > 1 else 0.0
        return self.read + each * max(0, other.tokens - 1)


@dataclass(frozen=True)
class LocalAnswerer:
    """A model of this process: the likeliest token each time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int = 64
    batch_size: int = 16

    @property
    def _sampling(self) -> Sampling:
        return Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)

    @property
    def _stops(self) -> set[int]:
        end = end_of_turn(self.tokenizer)
        return stop_ids_of(self.model) | ({end} if isinstance(end, int) else set())

    def ids(self, prompt: str) -> list[int]:
        """The prompt as a user's turn."""
        messages = [{"role": "user", "content": prompt}]
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """See `Answerer`."""
        written = sample(
            self.model,
            [self.ids(prompt) for prompt in prompts],
            sampling=self._sampling,
            seed=0,
            stop_ids=self._stops,
            vocab_size=len(self.tokenizer),
            batch_size=self.batch_size,
        )
        return [self._text(one.tokens) for one in written]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode([one for one in tokens if one not in self._stops])).strip()

    def timed(self, prompt: str) -> Timed:
        """How long an answer takes."""
        ids = self.ids(prompt)
        started = time.perf_counter()
        first = started
        tokens = stream(
            self.model, ids, sampling=self._sampling, seed=0, stop_ids=self._stops, vocab_size=len(self.tokenizer)
        )
        count = 0
        for count, _ in enumerate(tokens, start=1):
            if count == 1:
                first = time.perf_counter()
        return Timed(1000 * (first - started), 1000 * (time.perf_counter() - first), count)


@dataclass(frozen=True)
class AskedAnswerer:
    """A model behind an API: the likeliest token each time, as far as its server keeps to that."""

    ask: AskJudge
    max_new_tokens: int = 64

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """See `Answerer`."""
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)
        once = list(dict.fromkeys(prompts))  # nothing is paid for twice
        requests = [
            Request(seed="grounded", sampling=sampling, messages=({"role": "user", "content": prompt},))
            for prompt in once
        ]
        replies = self.ask(requests, title="the teacher answers held-out questions")
        said = {prompt: reply.text.strip() for prompt, reply in zip(once, replies, strict=True)}
        return [said[prompt] for prompt in prompts]


@dataclass(frozen=True)
class Asking:
    """Held-out contexts, and who reads what of them."""

    contexts: Sequence[Context]
    template: Template
    question_alone: frozenset[Role] = frozenset()
    """Who reads no passages, as a student that has them in its weights."""

    def prompt(self, role: Role, context: Context) -> str:
        """What this model is asked."""
        if role in self.question_alone:
            return written_question(context, self.template)
        return prompt_of(context, self.template)


# What one answer is worth.


def scores_of(answer: str, context: Context, template: Template, *, teacher_said: str | None) -> dict[str, float]:
    """Every score that this answer can have; one that does not apply is left out. An abstention has no words to judge."""
    refuses = abstains(answer, abstention=template.abstention)
    plain = without_citations(answer)
    found = {"answered": float(not refuses)}
    if teacher_said is not None:
        found["teacher_f1"] = token_f1(plain, without_citations(teacher_said))
    if context.answer_in_context is not None:
        found |= _of_abstention(refuses, tells=context.answer_in_context)
    if context.mix == "contradiction":
        # Neither answer alone is right there.
        both = (context.answers[0], context.second_answer)
        found["both_told"] = float(all(says(plain, one) for one in both))
    elif context.answers and context.answer_in_context:
        said = "" if refuses else plain
        found |= {
            "token_f1": best_of(token_f1, said, context.answers),
            "exact_match": best_of(exact_match, said, context.answers),
            "token_recall": best_of(token_recall, said, context.answers),
            "rouge_l": best_of(rouge_l_of_texts, said, context.answers),
        }
        found |= {} if refuses else _of_citations(answer, context)
    if context.passages and not refuses:
        text = context.text
        strange = unsupported_names(plain, text) or unsupported_numbers(plain, text)
        found |= {
            "k_precision": k_precision(plain, text),
            "bigram_precision": bigram_precision(plain, text),
            "unsupported": float(bool(strange)),
        }
    return found


def _of_abstention(refuses: bool, *, tells: bool) -> dict[str, float]:
    """The cells of a table, two by two, that this answer counts in."""
    found = {"over_refusal": float(refuses)} if tells else {"abstention_recall": float(refuses)}
    return {**found, "abstention_precision": float(not tells)} if refuses else found


def _of_citations(answer: str, context: Context) -> dict[str, float]:
    """By the words of a right answer: a passage that says it otherwise counts as wrong."""
    telling = {
        number
        for number, passage in enumerate(context.passages, start=1)
        if any(says(passage.text, right) for right in context.answers)
    }
    cited = citations(answer)
    found = {"citation_recall": float(bool(telling.intersection(cited)))}
    if cited:
        found["citation_precision"] = sum(number in telling for number in cited) / len(cited)
    return found


def statistics_of(scores: Sequence[Mapping[str, float]], groups: Sequence[str]) -> dict[str, Statistic]:
    """The mean of each score over the answers that have it. Questions about one passage are drawn together: they are not
    independent of each other."""
    numbered = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    found: dict[str, Statistic] = {}
    for name in dict.fromkeys(name for one in scores for name in one):
        sums, counts = np.zeros(len(numbered)), np.zeros(len(numbered))
        for one, group in zip(scores, groups, strict=True):
            if name in one:
                sums[numbered[group]] += one[name]
                counts[numbered[group]] += 1
        found[name] = _mean(sums, counts)
    return found


def _mean(sums: Sums, counts: Sums) -> Statistic:
    """Of a draw that has nothing to judge, the mean of all."""
    whole = float(sums.sum() / counts.sum())

    def statistic(draws: Draws) -> Sums:
        drawn = draws @ counts
        means = np.full_like(drawn, whole)
        np.divide(draws @ sums, drawn, out=means, where=drawn > 0)
        return means

    return statistic


# Everyone over the same.


def judge_grounded(
    answerers: Mapping[Role, Answerer],
    asking: Asking,
    *,
    supports: Sequence[Support] = (),
    seed: int = 0,
    progress: Progress = SILENT,
) -> GroundedResult:
    """Every model over the held-out contexts, and teacher and student again over the ablated ones. Teacher and student must be
    among them. What was answered over its passages is held against them by each of the `supports`, too."""
    views: dict[Condition, list[Context]] = {
        "as_read": list(asking.contexts),
        "without_passages": [without_passages(one) for one in asking.contexts],
        "shuffled": [shuffled(one, seed=seed) for one in asking.contexts],
    }
    asked = [
        (role, condition)
        for condition in views
        for role in answerers
        if condition == "as_read" or (role in ABLATED and role not in asking.question_alone)
    ]
    said: dict[tuple[Role, Condition], list[str]] = {}
    with working(progress, "answering over passages", len(asked) * len(asking.contexts), "answers"):
        for role, condition in asked:
            prompts = [asking.prompt(role, context) for context in views[condition]]
            said[role, condition] = answerers[role].answer(prompts)
            progress.advance(len(prompts))
    as_read = {role: said[role, "as_read"] for role in answerers}
    more = [(one.metric, *supported(one, as_read, asking.contexts, asking.template)) for one in supports]
    named: dict[tuple[Role, Condition, str], Statistic] = {}
    for (role, condition), answers in said.items():
        beside = {name: found[role] for name, found, _ in more if condition == "as_read"}
        for name, statistic in _judged(answers, asking, said["teacher", "as_read"], beside).items():
            named[role, condition, name] = statistic
    sampled = bootstrapped(named, set_sizes=[len(dict.fromkeys(_groups(asking.contexts)))])
    tells = [context.answer_in_context for context in asking.contexts]
    return GroundedResult(
        questions=len(tells),
        told=tells.count(True),
        untold=tells.count(False),
        readings=[GroundedReading(*one, _metrics(sampled, *one)) for one in asked],
        comparisons=_comparisons(sampled, list(answerers)),
        kept=_kept(sampled, list(answerers)),
        supports=[account for _, _, account in more],
        examples=_examples(asking.contexts, as_read),
    )


def _groups(contexts: Sequence[Context]) -> list[str]:
    return [context.gold or context.question for context in contexts]


def _judged(
    answers: Sequence[str],
    asking: Asking,
    teacher: Sequence[str],
    beside: Mapping[str, Sequence[float | None]],
) -> dict[str, Statistic]:
    """By the contexts as they were read: without passages, too, an answer is right or wrong, and borne out by them or not.
    Scores that others gave stand `beside`, None where they gave none."""
    scores = [
        scores_of(answer, context, asking.template, teacher_said=theirs)
        for answer, context, theirs in zip(answers, asking.contexts, teacher, strict=True)
    ]
    for name, found in beside.items():
        scores = [one if share is None else {**one, name: share} for one, share in zip(scores, found, strict=True)]
    return statistics_of(scores, _groups(asking.contexts))


def _metrics(
    sampled: Mapping[tuple[Role, Condition, str], Sampled], role: Role, condition: Condition
) -> dict[str, Interval]:
    return {name: found.interval() for (r, c, name), found in sampled.items() if (r, c) == (role, condition)}


def _comparisons(sampled: Mapping[tuple[Role, Condition, str], Sampled], roles: Sequence[Role]) -> list[Comparison]:
    return [
        Comparison(name, other, found.minus(sampled[other, "as_read", name]).interval())
        for other in roles
        if other != "student"
        for (role, condition, name), found in sampled.items()
        if (role, condition) == ("student", "as_read") and (other, "as_read", name) in sampled and name != "teacher_f1"
    ]


def _kept(
    sampled: Mapping[tuple[Role, Condition, str], Sampled], roles: Sequence[Role]
) -> dict[Role, dict[str, Interval]]:
    """Shares of what the teacher has, where that is surely something."""
    found: dict[Role, dict[str, Interval]] = {}
    for name in COMPARED_WITH_TEACHER:
        teacher = sampled.get(("teacher", "as_read", name))
        if teacher is None or not teacher.interval().low > 0:
            continue
        for role in roles:
            own = sampled.get((role, "as_read", name))
            if role != "teacher" and own is not None:
                found.setdefault(role, {})[name] = own.share_of(teacher).interval()
    return found


def _examples(contexts: Sequence[Context], said: Mapping[Role, Sequence[str]]) -> list[GroundedExample]:
    """The first of each kind, then others."""
    first: dict[str, int] = {}
    for place, context in enumerate(contexts):
        first.setdefault(context.mix, place)
    order = [*first.values(), *(place for place in range(len(contexts)) if place not in first.values())]
    return [
        GroundedExample(
            contexts[place].question,
            [passage.text for passage in contexts[place].passages],
            contexts[place].mix,
            contexts[place].answers,
            {role: answers[place] for role, answers in said.items()},
        )
        for place in order[:EXAMPLES_SHOWN]
    ]


# Both retrievers beside both generators, and how long an answer takes.


def judge_pairs(
    answerers: Mapping[Role, Answerer],
    retrieved: Mapping[str, Asking],
    *,
    progress: Progress = SILENT,
) -> list[PairReading]:
    """Teacher and student over what each retriever finds for the same questions, as it comes."""
    found: list[PairReading] = []
    total = sum(len(asking.contexts) for asking in retrieved.values()) * len(ABLATED)
    with working(progress, "each retriever beside each generator", total, "answers"):
        for name, asking in retrieved.items():
            groups = _groups(asking.contexts)
            known = [one.answer_in_context for one in asking.contexts]
            tells = [{} if told is None else {"found": float(told)} for told in known]
            for role in ABLATED:
                answers = answerers[role].answer([asking.prompt(role, context) for context in asking.contexts])
                progress.advance(len(answers))
                scores = [
                    # A question whose answer was not found is a wrong one here: the pair is judged, not its half.
                    {**scores_of(answer, _as_if_told(context), asking.template, teacher_said=None), **told}
                    for answer, context, told in zip(answers, asking.contexts, tells, strict=True)
                ]
                sampled = bootstrapped(statistics_of(scores, groups), set_sizes=[len(dict.fromkeys(groups))])
                metrics = {metric: one.interval() for metric, one in sampled.items()}
                share = metrics.pop("found", None)
                kept = ("token_f1", "exact_match", "k_precision", "answered")
                own = {metric: metrics[metric] for metric in kept if metric in metrics}
                found.append(PairReading(name, role, own, share))
    return found


def _as_if_told(context: Context) -> Context:
    return replace(context, answer_in_context=True) if context.answers else context


Searching = Callable[[str], object]
"""Finds passages for one question."""


@dataclass(frozen=True)
class Times:
    """How long answers take."""

    latencies: Sequence[Latency]
    speed_up: Interval | None
    """How many times as fast the student is as the teacher, end to end."""
    speed_up_as_long: Interval | None
    """The same, had it written as many tokens."""


def time_answers(
    answerers: Mapping[Role, LocalAnswerer],
    asking: Asking,
    retrievers: Mapping[str, Searching],
    *,
    progress: Progress = SILENT,
) -> Times:
    """Milliseconds by part, one question at a time, everyone in turn; and how many times as fast the student is end to end,
    behind the first of the retrievers."""
    contexts = list(asking.contexts)[:TIMED_QUESTIONS]
    spent: dict[tuple[str, str], list[float]] = {}
    with working(progress, "timing answers", len(contexts), "questions"):
        for context in contexts[:1]:  # what is done once, such as reading an index from disk, is nobody's time
            _time_one(answerers, asking, retrievers, context)
        for context in contexts:
            for key, milliseconds in _time_one(answerers, asking, retrievers, context).items():
                spent.setdefault(key, []).append(milliseconds)
            progress.advance(1)
    latencies = [
        Latency(who, part, *map(float, np.percentile(times, [50, 95])))  # type: ignore[arg-type]
        for (who, part), times in spent.items()
        if part != AS_LONG
    ]
    return Times(latencies, _gain(spent, "whole"), _gain(spent, AS_LONG))


AS_LONG = "as long as the teacher's"


def _gain(spent: Mapping[tuple[str, str], Sequence[float]], part: str) -> Interval | None:
    teacher, student = (spent.get((role, part if role == "student" else "whole")) for role in ABLATED)
    if teacher is None or student is None:
        return None
    return median_interval(np.array(teacher) / np.array(student))


def most_memory(answerers: Mapping[Role, LocalAnswerer], asking: Asking, *, progress: Progress = SILENT) -> list[Size]:
    """What each needs at its peak to answer the longest of the held-out prompts, weights included; nothing where the system
    does not tell."""
    found: list[Size] = []
    with working(progress, "measuring memory", len(answerers), "models"):
        for role, answerer in answerers.items():
            longest = max((asking.prompt(role, context) for context in asking.contexts), key=len)
            taken = peak_bytes(answerer.model, partial(answerer.answer, [longest]))
            found += [] if taken is None else [Size(role, "peak memory", taken)]
            progress.advance(1)
    return found


def _time_one(
    answerers: Mapping[Role, LocalAnswerer], asking: Asking, retrievers: Mapping[str, Searching], context: Context
) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for name, search in retrievers.items():
        started = time.perf_counter()
        search(context.question)
        found[name, "retrieve"] = 1000 * (time.perf_counter() - started)
    first = next(iter(found.values()), 0.0)
    timed = {role: answerer.timed(asking.prompt(role, context)) for role, answerer in answerers.items()}
    for role, one in timed.items():
        searched = 0.0 if role in asking.question_alone else first
        found |= {
            (role, "read"): one.read,
            (role, "write"): one.write,
            (role, "whole"): searched + one.read + one.write,
            (role, AS_LONG): searched + one.as_long_as(timed.get("teacher", one)),
        }
    return found
