"""A language model as judge: asked in words, through a ledger, and read by a strict rule."""

import math
import re
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from stillhouse.core.errors import ModelError
from stillhouse.models.answer_logprobs import next_logprobs
from stillhouse.models.generate import Hosted, Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.teachers.judging import COMPARISON, SLOTS, filled, read_better
from stillhouse.teachers.writer import LocalWriter, Reply, Request, SpreadWriter, Writer

RATING = (
    "Read the conversation and rate the assistant's last answer. A good answer is right, does what was asked, is clear, and is "
    "no longer than it has to be.\n\n[Conversation]\n{conversation}\n\n[Answer to rate]\n{answer}\n\n"
    "Say in one or two sentences what is good and what is wrong about it. Then end with a line of its own:\n"
    "Rating: N\nwhere N is a whole number from {lowest} (useless) to {highest} (could not be better)."
)
YES = "[Conversation]\n{conversation}\n\n[Answer]\n{answer}\n\nIs this answer right and helpful? Say only yes or no."
PROMPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rating": (RATING, ("{conversation}", "{answer}")),
    "pairs": (COMPARISON, SLOTS),
    "yes": (YES, ("{conversation}", "{answer}")),
}
"""The default prompt of each way to judge, and what any other must hold."""

RATED = re.compile(r"^[ \t*_#>]*rating[ \t*_]*:[ \t*_]*(-?\d+(?:\.\d+)?)(?:[ \t]*/[ \t]*\d+)?[ \t*_.]*$", re.IGNORECASE)


def read_rating(text: str, *, lowest: float, highest: float) -> float | None:
    """The number of the one line `Rating: N`; None where there is none, or several that differ, or N is out of range."""
    found = {float(match[1]) for line in text.splitlines() if (match := RATED.match(line))}
    rating = found.pop() if len(found) == 1 else None
    return rating if rating is not None and lowest <= rating <= highest else None


def conversation_of(record: Record) -> str:
    """All before the last answer, as a judge reads it."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in record.messages[:-1])


class RatingJudge:
    """Each answer alone, a number in words."""

    name = "judge"

    def __init__(
        self, ask: Ask, *, prompt: str = RATING, lowest: float, highest: float, sampling: Sampling, seed: int = 0
    ) -> None:
        self.ask, self.prompt, self.lowest, self.highest = ask, prompt, lowest, highest
        self.sampling, self.seed, self.unparsable = sampling, seed, 0

    @property
    def counts(self) -> dict[str, float]:
        """How many replies held no rating."""
        return {"unparsable": self.unparsable}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """The rating; NaN where there is none to read."""
        replies = self.ask([self._request(record) for record in records], title="the judge rates")
        ratings = [read_rating(reply.text, lowest=self.lowest, highest=self.highest) for reply in replies]
        self.unparsable += ratings.count(None)
        return [math.nan if rating is None else rating for rating in ratings]

    def _request(self, record: Record) -> Request:
        bounds = {"lowest": f"{self.lowest:g}", "highest": f"{self.highest:g}"}
        text = filled(self.prompt, conversation=conversation_of(record), answer=record.answer, **bounds)
        return asking(f"judge {self.seed}", [{"role": "user", "content": text}], sampling=self.sampling)


class PairJudge:
    """Two answers to one question side by side, each pair in both orders, as judges favour a place. An answer is worth the
    share of its comparisons that it wins, a tie being half. What is asked for grows with the square of the answers to
    a question.
    """

    name = "judge"

    def __init__(self, ask: Ask, *, prompt: str = COMPARISON, sampling: Sampling, seed: int = 0) -> None:
        self.ask, self.prompt, self.sampling, self.seed = ask, prompt, sampling, seed
        self.unparsable = self._firsts = self._decided = 0

    @property
    def counts(self) -> dict[str, float]:
        """How many replies named no winner, and how often the answer shown first won: 0.5 where its place does not matter."""
        first = {"first_wins": self._firsts / self._decided} if self._decided else {}
        return {"unparsable": self.unparsable, **first}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """The share won; NaN where no comparison could be read, or there is nothing to compare with."""
        pairs = [
            pair
            for rows in grouped(records)
            for one, other in combinations(rows, 2)
            for pair in ((one, other), (other, one))
        ]
        replies = self.ask([self._request(records[a], records[b]) for a, b in pairs], title="the judge compares")
        won: list[list[float]] = [[] for _ in records]
        for (first, second), reply in zip(pairs, replies, strict=True):
            self._count(reply, won[first], won[second])
        return [fmean(shares) if shares else math.nan for shares in won]

    def _count(self, reply: Reply, first: list[float], second: list[float]) -> None:
        better = read_better(reply.text)
        if better is None:
            self.unparsable += 1
            return
        share = {"A": 1.0, "B": 0.0, "tie": 0.5}[better]
        first.append(share)
        second.append(1 - share)
        self._firsts, self._decided = self._firsts + (better == "A"), self._decided + (better != "tie")

    def _request(self, first: Record, second: Record) -> Request:
        text = filled(self.prompt, conversation=conversation_of(first), first=first.answer, second=second.answer)
        return asking(f"judge {self.seed}", [{"role": "user", "content": text}], sampling=self.sampling)


class YesJudge:
    """Log-odds of "yes" against "no" at the place where the judge would answer, in nats: no reply has to be read. Of a model of
    this process exactly; of another from the likeliest tokens that it tells, and NaN where neither is among them.
    """

    name = "judge"

    def __init__(self, ask: Ask, writer: Writer, *, prompt: str = YES, tops: int = 20, seed: int = 0) -> None:
        self.ask, self.writer, self.prompt, self.tops, self.seed = ask, writer, prompt, tops, seed
        self.unparsable = 0

    @property
    def counts(self) -> dict[str, float]:
        """How many answers got no odds."""
        return {"unparsable": self.unparsable}

    def __call__(self, records: Sequence[Record]) -> list[float]:
        """The log-odds."""
        requests = [self._request(record) for record in records]
        match self.writer:
            case LocalWriter():
                found = odds_of_yes(self.writer, requests)
            case SpreadWriter():
                size = self.writer.batch_size
                shares = {start: requests[start : start + size] for start in range(0, len(requests), size)}
                told = dict(self.writer.told(odds_of_yes, shares))
                found = [odds for start in shares for odds in told[start]]
            case _:
                found = [_odds(reply) for reply in self.ask(requests, title="the judge says yes or no")]
        self.unparsable += sum(map(math.isnan, found))
        return found

    def _request(self, record: Record) -> Request:
        text = filled(self.prompt, conversation=conversation_of(record), answer=record.answer)
        sampling = Sampling(temperature=0, max_new_tokens=1)
        messages = [{"role": "user", "content": text}]
        return asking(f"judge {self.seed}", messages, sampling=sampling, top_logprobs=self.tops)


def odds_of_yes(writer: LocalWriter, requests: Sequence[Request]) -> list[float]:
    """What the model would say next, of each by itself.

    Raises:
        ModelError: if one of the words is no single token.
    """
    words = _spelt(writer.tokenizer)
    if not words["yes"] or not words["no"]:
        raise ModelError(
            f"{writer.name} has no single token for 'yes' or for 'no', so their odds cannot be read. Let it say a rating "
            "instead (by: rating)."
        )
    prompts = [writer.prompt_ids(request) for request in requests]
    if isinstance(writer.model, Hosted):
        told = writer.model.next_logprobs(prompts, [*words["yes"], *words["no"]])
        yes, no = told.split([len(words["yes"]), len(words["no"])], dim=-1)
        odds: list[float] = (yes.logsumexp(-1) - no.logsumexp(-1)).tolist()
        return odds
    found = []
    for prompt in prompts:
        logprobs = next_logprobs(writer.model, prompt)
        yes, no = (float(logprobs[words[word]].logsumexp(0)) for word in ("yes", "no"))
        found.append(yes - no)
    return found


def _spelt(tokenizer: Any) -> dict[str, list[int]]:
    """The tokens that spell each word, with a space before or without, in any case."""
    found: dict[str, list[int]] = {"yes": [], "no": []}
    for number in range(len(tokenizer)):
        word = str(tokenizer.decode([number])).strip().lower()
        if word in found:
            found[word].append(number)
    return found


def _odds(reply: Reply) -> float:
    """From the likeliest tokens of the first place; NaN where a word is not among them."""
    if not reply.top_logprobs:
        raise ModelError(
            "the judge tells no log-probabilities, so the odds of yes cannot be read. Let it say a rating instead (by: rating)."
        )
    sums = {"yes": 0.0, "no": 0.0}
    for token, logprob in dict(reply.top_logprobs[0]).items():  # what was written stands among the likeliest again
        word = token.strip().lower()
        if word in sums:
            sums[word] += math.exp(logprob)
    return math.log(sums["yes"] / sums["no"]) if sums["yes"] and sums["no"] else math.nan


def grouped(records: Sequence[Record]) -> list[list[int]]:
    """The places of answers to the same question, in the order in which the questions come."""
    found: dict[Any, list[int]] = {}
    for number, record in enumerate(records):
        key = tuple((message["role"], message["content"]) for message in record.messages[:-1])
        found.setdefault(key if record.messages else number, []).append(number)
    return list(found.values())


JudgeBy = Literal["rating", "pairs", "yes"]
