"""Which passages a question is answered over: contexts of several kinds, in named shares, drawn by a seed."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, runtime_checkable

from stillhouse.core.lexical import answer_words, says
from stillhouse.data.grounded import (
    CONTRADICTED,
    MIXES,
    Context,
    ContextPassage,
    Mix,
    Template,
    cut,
)

NEAR_DUPLICATE = 0.8
"""Passages that share so much of their words, of all that either has, say the same."""


@runtime_checkable
class Found(Protocol):
    """What a retriever found."""

    @property
    def id(self) -> str:
        """The passage's."""

    @property
    def score(self) -> float:
        """In the retriever's own unit."""

    @property
    def rank(self) -> int:
        """From 1."""


@dataclass(frozen=True)
class Question:
    """What is asked, and what is known of its answer."""

    text: str
    answers: tuple[str, ...] = ()
    gold: str = ""
    """Id of the passage that tells it."""
    held_out: bool = False


@dataclass(frozen=True)
class Mixture:
    """How contexts are made."""

    shares: Mapping[Mix, float] = field(
        default_factory=lambda: {"distractors": 0.5, "retrieved": 0.25, "removed": 0.25}
    )
    passages: int = 4
    """In one context."""
    passage_characters: int = 1200
    """Where a passage is cut."""
    seed: int = 0
    retriever: str = ""
    """What found the passages."""


@dataclass(frozen=True)
class Mixed:
    """Contexts, one a question in the order of the questions, and what could not be as it was meant."""

    contexts: Sequence[Context]
    notes: Mapping[str, int]


def mix(
    questions: Sequence[Question],
    found: Sequence[Sequence[Found]],
    texts: Mapping[str, str],
    *,
    mixture: Mixture,
    template: Template,
) -> Mixed:
    """A context for each question from what was `found` for it, more than a context holds; `texts` are those of all passages.

    Shares hold exactly, to a question, among those to learn and among those held out. A question whose kind cannot be made, as
    without a gold passage, is answered over what was retrieved, and counted.
    """
    kinds, notes, contexts = _allotted(questions, mixture), Counter[str](), list[Context]()
    fillers = [answer for question in questions for answer in question.answers[:1]]
    for question, kind, hits in zip(questions, kinds, found, strict=True):
        maker = _Maker(question, hits, texts, mixture, template, fillers)
        made = maker.make(kind)
        if made is None:
            notes[f"{kind}: {maker.why}; answered over what was retrieved"] += 1
            made = maker.make("retrieved")
        assert made is not None, "whatever was retrieved is a context"
        contexts.append(made)
    return Mixed(contexts, dict(notes))


def _allotted(questions: Sequence[Question], mixture: Mixture) -> list[Mix]:
    """The kind of each question's context."""
    kinds: dict[int, Mix] = {}
    for side in (False, True):
        places = [place for place, question in enumerate(questions) if question.held_out is side]
        Random(f"{mixture.seed}, kinds, {side}").shuffle(places)
        kinds |= dict(zip(places, _dealt(mixture.shares, len(places)), strict=True))
    return [kinds[place] for place in range(len(questions))]


def _dealt(shares: Mapping[Mix, float], count: int) -> list[Mix]:
    """So many kinds in these shares, by the largest remainder."""
    total = sum(shares.values())
    exact = {kind: count * shares.get(kind, 0.0) / total for kind in MIXES}
    dealt = {kind: int(share + 1e-9) for kind, share in exact.items()}
    short = sorted(MIXES, key=lambda kind: dealt[kind] - exact[kind])
    for kind in short[: count - sum(dealt.values())]:
        dealt[kind] += 1
    return [kind for kind in MIXES for _ in range(dealt[kind])]


class _Maker:
    """Contexts for one question."""

    def __init__(
        self,
        question: Question,
        hits: Sequence[Found],
        texts: Mapping[str, str],
        mixture: Mixture,
        template: Template,
        fillers: Sequence[str],
    ) -> None:
        self.question, self.mixture, self.template, self.fillers = question, mixture, template, fillers
        self.texts = texts
        self.hits = [self._passage(hit.id, hit.score, hit.rank) for hit in hits]
        self.random = Random(f"{mixture.seed}, context, {question.text}")
        self.why = ""
        """Why the kind that was asked for last could not be made."""

    def make(self, kind: Mix) -> Context | None:
        """A context of this kind; None where the question has not what it takes, and then `why` says what."""
        size = self.mixture.passages
        match kind:
            case "none":
                return self._context([], kind)
            case "retrieved":
                return self._context(self.hits[:size], kind)
            case "removed":
                return self._removed(size)
            case "distractors":
                return self._among(kind, [self.gold]) if self._has_gold() else None
            case "contradiction":
                return self._contradicted()

    def _removed(self, size: int) -> Context | None:
        """What was retrieved, without all that tells the answer: the gold passage, its like, and what says it in words."""
        if not self.question.gold and not self.question.answers:
            self.why = "neither answers nor a gold passage are known"
            return None
        return self._context(self._shuffled([one for one in self.hits if not self._tells(one)][:size]), "removed")

    def _contradicted(self) -> Context | None:
        """The gold passage, and the same with another answer in the place of its own."""
        if not self._has_gold():
            return None
        other = self._other_answer()
        if other is None:
            self.why = "the gold passage does not spell the answer, or no other answer is like it"
            return None
        changed = _replaced(self.gold.text, self.question.answers[0], other)
        contradicting = ContextPassage(self.gold.id + CONTRADICTED, changed)
        return self._among("contradiction", [self.gold, contradicting], second_answer=other)

    def _has_gold(self) -> bool:
        self.why = "" if self.question.gold in self.texts else "no gold passage is known"
        return not self.why

    @property
    def gold(self) -> ContextPassage:
        """The gold passage as it was found, or as it is in the corpus."""
        own = self.question.gold
        return next((one for one in self.hits if one.id == own), None) or self._passage(own)

    def _among(self, kind: Mix, told: list[ContextPassage], *, second_answer: str = "") -> Context:
        """These among hard distractors: passages that were found behind the gold one, and not its like; where these are too
        few, those before it that do not tell the answer."""
        gold = self.gold
        rank = gold.rank or 0
        others = [one for one in self.hits if one.id != gold.id and not _alike(one.text, gold.text)]
        behind = [one for one in others if (one.rank or 0) > rank]
        before = [one for one in others if (one.rank or 0) < rank and not self._tells(one)]
        room = max(0, self.mixture.passages - len(told))
        return self._context(self._shuffled([*told, *[*behind, *before][:room]]), kind, second_answer=second_answer)

    def _tells(self, passage: ContextPassage) -> bool:
        own = self.question.gold
        if passage.id == own or any(says(passage.text, answer) for answer in self.question.answers):
            return True
        return own in self.texts and _alike(passage.text, self._passage(own).text)

    def _other_answer(self) -> str | None:
        """Another question's answer of the same shape, which the gold passage does not say."""
        if not self.question.answers:
            return None
        own = self.question.answers[0]
        if not _spelt(own, self.gold.text):
            return None
        like = [
            filler
            for filler in dict.fromkeys(self.fillers)
            if _shape(filler) == _shape(own) and not says(self.gold.text, filler) and not says(filler, own)
        ]
        return self.random.choice(like) if like else None

    def _shuffled(self, passages: Sequence[ContextPassage]) -> list[ContextPassage]:
        order = list(passages)
        self.random.shuffle(order)
        return order

    def _passage(self, id: str, score: float | None = None, rank: int | None = None) -> ContextPassage:
        return ContextPassage(id, cut(self.texts[id], characters=self.mixture.passage_characters), score, rank)

    def _context(self, passages: Sequence[ContextPassage], kind: Mix, *, second_answer: str = "") -> Context:
        question = self.question
        places = [number for number, one in enumerate(passages, start=1) if question.gold and one.id == question.gold]
        gold_at = places[0] if places else None
        return Context(
            question=question.text,
            passages=tuple(passages),
            mix=kind,
            answers=question.answers,
            gold=question.gold,
            gold_at=gold_at,
            answer_in_context=_answer_in(passages, question, gold_at),
            second_answer=second_answer,
            template=self.template.fingerprint,
            retriever=self.mixture.retriever,
            held_out=question.held_out,
        )


def _answer_in(passages: Sequence[ContextPassage], question: Question, gold_at: int | None) -> bool | None:
    """By words where a right answer is known, by the gold passage where that is; nothing tells nothing."""
    if not passages:
        return False
    if question.answers:
        return any(says(passage.text, answer) for passage in passages for answer in question.answers)
    return gold_at is not None if question.gold else None


def _alike(one: str, other: str) -> bool:
    """Whether two passages say nearly the same, by the share of their different words that both have."""
    ours, theirs = set(answer_words(one)), set(answer_words(other))
    return bool(ours & theirs) and len(ours & theirs) >= NEAR_DUPLICATE * len(ours | theirs)


def _shape(answer: str) -> tuple[bool, bool, bool]:
    """What a reader would take for an answer of the same kind: with digits or not, a name or not, short or long."""
    return bool(re.search(r"\d", answer)), answer[:1].isupper(), len(answer.split()) > 3


def _spelt(answer: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)


def _replaced(text: str, answer: str, other: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(answer)}(?!\w)", lambda _: other, text, flags=re.IGNORECASE)


def counts(contexts: Iterable[Context]) -> dict[str, int]:
    """How many contexts are of each kind, for an account."""
    found = Counter(context.mix for context in contexts)
    return {kind: found[kind] for kind in MIXES if found[kind]}
