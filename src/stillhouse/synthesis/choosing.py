"""Which of several answers to a question is learnt, by how much, or beside which other: with what that does to their length."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stillhouse.core.config import Config, Seed
from stillhouse.synthesis.checkers import Check, CheckConfig, Read, result_of
from stillhouse.synthesis.judge import grouped
from stillhouse.synthesis.length_bias import correlation_over_all, correlation_within
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rewards import NO_TOOLS, RewardConfig, Scoring, Tools, check_reward

UNSCORED = "no score"
NOT_CHOSEN = "reward too low"
WRONG = "wrong by the checker"
NO_AGREEMENT = "samples do not agree"
TIE = "a tie in the reward"
ALONE = "no second answer"

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Chosen:
    """What became of all answers."""

    records: list[Record]
    """Those to learn, and those that are not, each with its reason; what was passed over for a better answer stands in `others`
    of that."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `preferences.jsonl`, where pairs were asked for."""
    report: dict[str, Any] = field(default_factory=dict)
    """Plain numbers for `card.json`, under `reward`."""


@dataclass(frozen=True)
class Scored:
    """Answers by question, each with its score."""

    name: str
    groups: list[list[Record]]
    """Only answers that have a score."""
    rest: list[Record]
    """Those without a score, dropped, and those that something had dropped before."""
    report: dict[str, Any]

    def score(self, record: Record) -> float:
        """What the reward gave it."""
        return record.scores[self.name]


def scored(records: Sequence[Record], reward: Scoring) -> Scored:
    """Every answer that nothing has dropped, with its score."""
    going = [record for record in records if not record.dropped]
    scores = reward(going)
    with_scores = [
        record.drop(UNSCORED) if math.isnan(score) else record.score(reward.name, score)
        for record, score in zip(going, scores, strict=True)
    ]
    groups = [[with_scores[row] for row in rows if not with_scores[row].dropped] for rows in grouped(going)]
    rest = [record for record in (*records, *with_scores) if record.dropped]
    unscored = sum(record.dropped == UNSCORED for record in with_scores)
    report = {"reward": reward.name, "samples": len(going), "unscored": unscored, **reward.counts}
    return Scored(reward.name, [group for group in groups if group], rest, report)


def kl_bound(num_samples: int) -> float:
    """How far the best of n answers can be from one answer, in nats: `log n - (n - 1) / n`. An upper bound on the KL of whole
    answers from the distribution that they were drawn from, whatever the reward; nearly reached where no answer is likely and
    no two are worth the same.

    Source: Beirami et al., 2024, arXiv:2401.01879, theorem 1.
    """
    return math.log(num_samples) - (num_samples - 1) / num_samples


def length_report(found: Scored, kept: Sequence[Record]) -> dict[str, Any]:
    """Reward and length before and after choosing, and how they go together."""
    scores = [[found.score(record) for record in group] for group in found.groups]
    lengths = [[len(record.answer) for record in group] for group in found.groups]
    if not scores:
        return {}
    of_kept = [[found.score(record)] for record in kept], [[len(record.answer)] for record in kept]
    correlations = {
        "length_correlation": correlation_within(scores, lengths),
        "length_correlation_all": correlation_over_all(scores, lengths),
        **({"length_correlation_chosen": correlation_over_all(*of_kept)} if kept else {}),
    }
    numbers: dict[str, Any] = {
        "prompts": len(scores),
        "n": max(map(len, scores)),
        "mean_before": fmean(value for group in scores for value in group),
        "mean_length_before": fmean(value for group in lengths for value in group),
        "kept": len(kept),
    }
    if kept:
        numbers["mean_after"] = fmean(found.score(record) for record in kept)
        numbers["mean_length_after"] = fmean(len(record.answer) for record in kept)
    for name, interval in correlations.items():
        numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return numbers


def best(group: Sequence[Record], found: Scored) -> Record:
    """The answer with the highest score; of equals the first that was drawn."""
    return max(group, key=found.score)


def with_others(kept: Record, group: Sequence[Record]) -> Record:
    """The record, and those that it was chosen among."""
    return replace(kept, others=tuple(record for record in group if record is not kept))


class BestOfNConfig(Config):
    """The answer with the highest reward to each question."""

    kind: Literal["best_of_n"] = "best_of_n"
    reward: RewardConfig

    def build(self, tools: Tools = NO_TOOLS) -> "BestOfN":
        """The choice, its reward ready."""
        return BestOfN(self.reward.build(tools))


@dataclass(frozen=True)
class BestOfN:
    """Keeps the best answer to each question; the others stand beside it."""

    reward: Scoring

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """A record a question."""
        found = scored(records, self.reward)
        kept = [with_others(best(group, found), group) for group in found.groups]
        bound = {"kl_bound": fmean(kl_bound(len(group)) for group in found.groups)} if kept else {}
        report = {"kind": "best_of_n", **found.report, **length_report(found, kept), **bound}
        return Chosen([*kept, *found.rest], report=report)


class ThresholdConfig(Config):
    """Every answer whose reward is high enough."""

    kind: Literal["threshold"] = "threshold"
    reward: RewardConfig
    at_least: float | None = None
    """The lowest reward that is learnt."""
    best_share: Share | None = None
    """Or the share of all answers that is learnt, those with the highest rewards."""

    @model_validator(mode="after")
    def _one_of_them_says_how_high(self) -> "ThresholdConfig":
        if (self.at_least is None) == (self.best_share is None):
            raise ValueError(
                f"at_least is {self.at_least} and best_share is {self.best_share}: give exactly one of them, a reward such as "
                "at_least: 7 or a share such as best_share: 0.5."
            )
        return self

    def build(self, tools: Tools = NO_TOOLS) -> "Threshold":
        """The choice, its reward ready."""
        return Threshold(self.reward.build(tools), self.at_least, self.best_share)


@dataclass(frozen=True)
class Threshold:
    """Keeps answers above a reward."""

    reward: Scoring
    at_least: float | None = None
    best_share: float | None = None

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """All answers, those below dropped."""
        found = scored(records, self.reward)
        answers = [record for group in found.groups for record in group]
        limit = self._limit([found.score(record) for record in answers])
        said = [record if found.score(record) >= limit else record.drop(NOT_CHOSEN) for record in answers]
        kept = [record for record in said if not record.dropped]
        return Chosen([*said, *found.rest], report={"kind": "threshold", **found.report, **length_report(found, kept)})

    def _limit(self, scores: Sequence[float]) -> float:
        if self.at_least is not None or not scores:
            return self.at_least or 0.0
        assert self.best_share is not None
        return sorted(scores, reverse=True)[max(1, math.floor(self.best_share * len(scores))) - 1]


class RejectionConfig(Config):
    """Answers that a checker finds right; questions without one are left out. Rejection sampling."""

    kind: Literal["rejection"] = "rejection"
    check: CheckConfig
    most: PositiveInt | None = 1
    """Right answers to a question that are learnt, in the order in which they were drawn; null keeps all. Equal ones count
    once."""

    def build(self, tools: Tools = NO_TOOLS) -> "Rejection":
        """The choice, its checker ready."""
        return Rejection(self.check.build(), self.check.kind, self.most)


@dataclass(frozen=True)
class Rejection:
    """Keeps right answers."""

    check: Check
    name: str
    most: int | None = 1

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """Right answers, and all others of questions that have none; of questions that have, the others stand beside."""
        going = [record for record in records if not record.dropped]
        rights = self.check(going)
        said = [
            record.score("right", float(right)).drop("" if right else WRONG)
            for record, right in zip(going, rights, strict=True)
        ]
        groups = [[said[row] for row in rows] for rows in grouped(going)]
        records = [*(record for group in groups for record in self._of(group)), *(r for r in records if r.dropped)]
        shares = [fmean(not record.dropped for record in group) for group in groups]
        report: dict[str, Any] = {
            "kind": "rejection",
            "check": self.name,
            "prompts": len(groups),
            "samples": len(going),
        }
        if groups:
            lengths = [len(record.answer) for record in going], [len(r.answer) for r in records if not r.dropped]
            report |= {"n": max(map(len, groups)), "accepted": sum(rights) / len(rights)}
            report |= {"answered": fmean(share > 0 for share in shares), "kept": len(lengths[1])}
            report |= {
                f"mean_length_{when}": fmean(of) for when, of in zip(("before", "after"), lengths, strict=True) if of
            }
        return Chosen(records, report=report)

    def _of(self, group: Sequence[Record]) -> list[Record]:
        right = list({record.answer: record for record in reversed(group) if not record.dropped}.values())[::-1]
        kept = right[: self.most]
        if not kept:
            return list(group)
        wrong = [replace(record, dropped="") for record in group if record.dropped]
        return [replace(kept[0], others=(*right[len(kept) :], *wrong)), *kept[1:]]


class AgreementConfig(Config):
    """The answer that most samples come to, where enough of them do. Self-consistency."""

    kind: Literal["agreement"] = "agreement"
    at_least: Share = 0.5
    """The share of a question's samples that must come to the same; samples without a result count as others."""
    read: Read = "auto"
    """Where the result of an answer stands, as a checker of kind `exact` has it."""

    def build(self, tools: Tools = NO_TOOLS) -> "Agreement":
        """The choice."""
        return Agreement(self.at_least, self.read)


@dataclass(frozen=True)
class Agreement:
    """Keeps the first answer that comes to what most come to.

    Source: Wang et al., 2022, arXiv:2203.11171, section 2.
    """

    at_least: float = 0.5
    read: Read = "auto"

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """A record a question, dropped where too few agree."""
        going = [record for record in records if not record.dropped]
        groups = [[going[row] for row in rows] for rows in grouped(going)]
        said = [self._of(group) for group in groups]
        kept = [record for record in said if not record.dropped]
        report: dict[str, Any] = {"kind": "agreement", "prompts": len(groups), "samples": len(going), "kept": len(kept)}
        if said:
            report |= {"n": max(map(len, groups)), "mean_agreement": fmean(one.scores["agreement"] for one in said)}
            report["mean_length_before"] = fmean(len(record.answer) for record in going)
        if kept:
            report["mean_length_after"] = fmean(len(record.answer) for record in kept)
        return Chosen([*said, *(record for record in records if record.dropped)], report=report)

    def _of(self, group: Sequence[Record]) -> Record:
        results = [result_of(record.answer, read=self.read) for record in group]
        counts = Counter(result for result in results if result is not None)
        result, count = counts.most_common(1)[0] if counts else (None, 0)  # of equals the one that came first
        one = with_others(group[results.index(result)], group).score("agreement", count / len(group))
        return one if count and count / len(group) >= self.at_least else one.drop(NO_AGREEMENT)


class PairsConfig(Config):
    """A better and a worse answer to each question, for objectives that learn from preferences."""

    kind: Literal["pairs"] = "pairs"
    reward: RewardConfig
    worse: Literal["worst", "random"] = "random"
    """Which answer stands beside the best: the worst, or another at random as in UltraFeedback's binarized form, from which
    Zephyr learnt."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Pairs whose rewards differ by no more than this are left out. With 0 only ties are."""
    seed: Seed = 0

    def build(self, tools: Tools = NO_TOOLS) -> "Pairs":
        """The choice, its reward ready."""
        return Pairs(self.reward.build(tools), self.worse, self.margin, self.seed)


@dataclass(frozen=True)
class Pairs:
    """Keeps the best answer, and writes it down beside a worse one."""

    reward: Scoring
    worse: Literal["worst", "random"] = "random"
    margin: float = 0.0
    seed: int = 0

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """A record a question, dropped where there is no pair, and a pair where there is."""
        found = scored(records, self.reward)
        said: list[Record] = []
        pairs: list[dict[str, Any]] = []
        margins: list[float] = []
        for number, group in enumerate(found.groups):
            kept = with_others(best(group, found), group)
            other = self._other(kept.others, number, found)
            gap = found.score(kept) - found.score(other) if other else 0.0
            if other is None or gap <= self.margin:
                said.append(kept.drop(TIE if other else ALONE))
                continue
            said.append(kept)
            pairs.append(preference(kept, other, name=found.name))
            margins.append(gap)
        chosen = [record for record in said if not record.dropped]
        report = {"kind": "pairs", **found.report, **length_report(found, chosen), "pairs": len(pairs)}
        report |= {"ties": sum(r.dropped == TIE for r in said), "alone": sum(r.dropped == ALONE for r in said)}
        if pairs:
            report["mean_margin"] = fmean(margins)
            report["chosen_longer"] = fmean(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
        return Chosen([*said, *found.rest], pairs, report)

    def _other(self, others: Sequence[Record], number: int, found: Scored) -> Record | None:
        if not others:
            return None
        if self.worse == "worst":
            return min(others, key=found.score)
        return Random(f"{self.seed}, question {number}").choice(others)


def pairs_kept(pairs: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Those pairs whose better answer nothing has dropped since."""
    kept = {(_said(record.messages[:-1]), record.answer) for record in records if not record.dropped}
    return [pair for pair in pairs if (_said(pair["messages"]), pair["chosen"]) in kept]


def _said(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def preference(better: Record, worse: Record, *, name: str) -> dict[str, Any]:
    """A row of `preferences.jsonl`."""
    return {
        "messages": [dict(message) for message in better.messages[:-1]],
        "chosen": better.answer,
        "rejected": worse.answer,
        "chosen_score": better.scores[name],
        "rejected_score": worse.scores[name],
        "lineage": {**better.lineage, "reward": name},
    }


class WeightsConfig(Config):
    """Every answer is learnt, the better ones more: each counts for `exp(reward / temperature)`, as reward-weighted regression
    and maximum-likelihood views of RLHF have it. Any objective then trains reward-weighted."""

    kind: Literal["weights"] = "weights"
    reward: RewardConfig
    temperature: PositiveFloat = 1.0
    """In units of the reward. Less of it comes near to the best alone, more of it to all alike."""
    per: Literal["question", "all"] = "question"
    """Over which answers weights are 1 on average: those to one question, or all. `question` ignores what is added to all
    rewards of a question, and gives every question its say."""
    cap: PositiveFloat | None = 10.0
    """No answer counts for more than this many average ones; null lets it."""

    @model_validator(mode="after")
    def _the_cap_leaves_an_average(self) -> "WeightsConfig":
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap is {self.cap:g}, below the average weight of 1. Say at least 1, or null.")
        return self

    def build(self, tools: Tools = NO_TOOLS) -> "Weights":
        """The choice, its reward ready."""
        return Weights(self.reward.build(tools), self.temperature, self.per, self.cap)


@dataclass(frozen=True)
class Weights:
    """Writes a weight on each answer.

    Source: Peters and Schaal, 2007, "Reinforcement Learning by Reward-weighted Regression"; Dayan and Hinton, 1997.
    """

    reward: Scoring
    temperature: float = 1.0
    per: Literal["question", "all"] = "question"
    cap: float | None = 10.0

    def __call__(self, records: Sequence[Record]) -> Chosen:
        """All answers, the last message of each with its `weight`."""
        found = scored(records, self.reward)
        scores = [[found.score(record) for record in group] for group in found.groups]
        parts = scores if self.per == "question" else [[score for group in scores for score in group]]
        weights = [w for part in parts for w in reward_weights(part, temperature=self.temperature, cap=self.cap)]
        answers = [record for group in found.groups for record in group]
        kept = [weighted(record, weight) for record, weight in zip(answers, weights, strict=True)]
        report = {"kind": "weights", **found.report, **length_report(found, kept)}
        if kept:
            # After: each answer as often as it counts.
            report["mean_after"] = _mean(weights, [found.score(record) for record in kept])
            report["mean_length_after"] = _mean(weights, [len(record.answer) for record in kept])
            report["effective_samples"] = sum(weights) ** 2 / sum(weight**2 for weight in weights)
            report["capped"] = sum(self.cap is not None and weight >= self.cap for weight in weights)
        return Chosen([*kept, *found.rest], report=report)


def reward_weights(scores: Sequence[float], *, temperature: float, cap: float | None) -> list[float]:
    """`exp(score / temperature)`, 1 on average before the cap: the same whatever is added to all scores."""
    if not scores:
        return []
    highest = max(scores)
    raw = [math.exp((score - highest) / temperature) for score in scores]
    mean = fmean(raw)
    return [min(value / mean, cap or math.inf) for value in raw]


def weighted(record: Record, weight: float) -> Record:
    """The record whose last message counts for this much; of a text, its score says it."""
    if not record.messages:
        return record.score("weight", weight)
    last: dict[str, Any] = {**record.messages[-1], "weight": weight}
    return replace(record.score("weight", weight), messages=(*record.messages[:-1], last))


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


ChoiceConfig = Annotated[
    BestOfNConfig | ThresholdConfig | RejectionConfig | AgreementConfig | PairsConfig | WeightsConfig,
    Field(discriminator="kind"),
]
"""A recipe's `synthesis.choose`."""


def check_choice(config: Any) -> None:
    """Find what is wrong with a choice before any model is loaded.

    Raises:
        StillhouseError: as `check_reward`, or if a checker needs code that may not run.
    """
    if isinstance(config, RejectionConfig):
        config.check.build()
    elif not isinstance(config, AgreementConfig):
        check_reward(config.reward, key="synthesis.choose.reward")
