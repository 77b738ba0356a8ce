"""Whether an answer is borne out by the passages that it cites, otherwise than by words: by embeddings, or by whoever is asked.

None of them knows. So each is shown the same answers beside another question's passages, too: what it calls borne out there is
its own error, and stands beside what it finds.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, PositiveInt, field_validator, model_validator

from stillhouse.core.citations import abstains, citations, without_citations
from stillhouse.core.config import Config
from stillhouse.core.errors import StillhouseError
from stillhouse.core.grounded_results import SupportAccount
from stillhouse.core.lexical import answer_words
from stillhouse.core.plugins import check_function_name
from stillhouse.core.results import Role
from stillhouse.data.grounded import Context, Template
from stillhouse.evaluation.behaviour.config import LocalJudgeConfig
from stillhouse.evaluation.behaviour.judge import AskJudge
from stillhouse.evaluation.intervals import bootstrapped, ratio
from stillhouse.evaluation.outputs import Embed
from stillhouse.evaluation.statistics import Embeddings, normalised
from stillhouse.models.generate import Sampling
from stillhouse.teachers.judging import filled
from stillhouse.teachers.remote_config import RemoteWriterConfig
from stillhouse.teachers.writer import Request

PROMPT = (
    "Read the passages, a question and an answer. Is everything that the answer says borne out by the passages? What is true "
    "but does not stand there is not borne out.\n\n[Passages]\n{passages}\n\n[Question]\n{question}\n\n[Answer]\n{answer}\n\n"
    "Say in one sentence what decides. Then end with a line of its own, one of:\nSupported: yes\nSupported: partly\n"
    "Supported: no"
)
SLOTS = ("{passages}", "{question}", "{answer}")
VERDICT = re.compile(r"^[ \t*_#>-]*supported[ \t*_]*:[ \t*_]*(yes|partly|no)[ \t*_.]*$", re.IGNORECASE)
WORTH = {"yes": 1.0, "partly": 0.5, "no": 0.0}
BAR = 0.95
"""Share of sentences beside another question's passages that lie below what counts as borne out."""
OTHERS = 5
"""Other questions whose passages each sentence is held against for it."""
ROUNDING = 1e-9
"""By which two equal cosines may differ."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


class FunctionJudgeConfig(Config):
    """A function of the user's own, such as a local model that tells whether one text follows from another."""

    kind: Literal["function"]
    name: str
    """As `module:function`, which takes `question`, `passages` (a list) and `answer` and returns a number from 0 to 1, or None
    where it cannot tell. It only runs with `--allow-plugins`."""

    @field_validator("name")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        return check_function_name(value, key="name")


class SupportJudgeConfig(Config):
    """Who is asked whether an answer is borne out."""

    by: Annotated[LocalJudgeConfig | RemoteWriterConfig | FunctionJudgeConfig, Field(discriminator="kind")]
    """`{kind: local, model: ...}`, `{kind: remote, base_url: ..., model: ...}` as a remote writer has it, or
    `{kind: function, name: module:function}`."""
    prompt: str = PROMPT
    """What a model is asked, with `{passages}`, `{question}` and `{answer}` where these go; it must call for a last line such
    as `Supported: yes`, `partly` or `no`."""
    max_new_tokens: PositiveInt = 128

    @model_validator(mode="after")
    def _the_prompt_holds_what_is_judged(self) -> "SupportJudgeConfig":
        missing = [slot for slot in SLOTS if slot not in self.prompt]
        if missing:
            raise ValueError(f"prompt has no {' and no '.join(missing)}. Add what is missing, or leave prompt out.")
        return self


class GroundingConfig(Config):
    """How answers over passages are held against them, beside by their words."""

    sentence_model: str | None = None
    """A sentence embedding model (hub id or folder)."""
    judge: SupportJudgeConfig | None = None
    """Who is asked, if anyone is."""

    @model_validator(mode="after")
    def _something_is_named(self) -> "GroundingConfig":
        if self.sentence_model is None and self.judge is None:
            raise ValueError("it names neither sentence_model nor judge. Give one of them, or leave grounding out.")
        return self


@dataclass(frozen=True)
class Shown:
    """What is judged: an answer without its citations, beside passages."""

    question: str
    passages: tuple[str, ...]
    answer: str


@runtime_checkable
class Support(Protocol):
    """Says how much of each answer is borne out."""

    @property
    def metric(self) -> str:
        """What its shares are called."""

    @property
    def by(self) -> str:
        """Its name."""

    def learn(self, elsewhere: Sequence[Shown]) -> None:
        """Look at answers beside passages of other questions, before anything is judged."""

    def shares(self, shown: Sequence[Shown]) -> list[float | None]:
        """From 0 to 1 for each; None where it cannot tell."""


@dataclass
class EmbeddedSupport:
    """The share of an answer's sentences that lie nearer to one of the passages' than 95 % do to other questions' passages.

    Sees what a sentence is about, and not what it claims: a wrong name or a denial lies as near as the truth.
    """

    embed: Embed
    by: str
    metric: str = "embedded_support"
    bar: float = 1.0
    """The cosine from which a sentence counts."""
    _known: dict[str, Embeddings] = field(default_factory=dict)

    def learn(self, elsewhere: Sequence[Shown]) -> None:
        """Where the bar is."""
        found = [near for one in elsewhere for near in self.nearest(one)]
        self.bar = float(np.quantile(found, BAR)) if found else 1.0

    def shares(self, shown: Sequence[Shown]) -> list[float | None]:
        """See `Support`."""
        near = [self.nearest(one) for one in shown]
        least = self.bar + ROUNDING
        return [sum(value > least for value in found) / len(found) if found else None for found in near]

    def nearest(self, one: Shown) -> list[float]:
        """The highest cosine of each sentence of the answer with one of the passages'."""
        ours = sentences(one.answer)
        theirs = [sentence for passage in one.passages for sentence in sentences(passage)]
        if not ours or not theirs:
            return []
        cosines = self._vectors(ours) @ self._vectors(theirs).T  # [ours, theirs]
        return [float(value) for value in cosines.max(-1)]

    def _vectors(self, texts: Sequence[str]) -> Embeddings:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, normalised(self.embed(new).astype(np.float64)), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True)
class AskedSupport:
    """A language model that is shown passages, question and answer. It may take a fluent answer for a supported one."""

    ask: AskJudge
    by: str
    prompt: str = PROMPT
    max_new_tokens: int = 128
    metric: str = "judged_support"

    def learn(self, elsewhere: Sequence[Shown]) -> None:
        """Nothing to learn."""

    def shares(self, shown: Sequence[Shown]) -> list[float | None]:
        """See `Support`."""
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)
        once = list(dict.fromkeys(shown))  # nothing is paid for twice
        requests = [Request(seed="support", sampling=sampling, messages=(self._message(one),)) for one in once]
        replies = self.ask(requests, title=f"{self.by} reads answers beside their passages") if requests else []
        read = {one: read_support(reply.text) for one, reply in zip(once, replies, strict=True)}
        return [read[one] for one in shown]

    def _message(self, one: Shown) -> dict[str, str]:
        passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(one.passages, start=1))
        return {
            "role": "user",
            "content": filled(self.prompt, passages=passages, question=one.question, answer=one.answer),
        }


def read_support(text: str) -> float | None:
    """What the one line `Supported: ...` says; None where there is none, or several that differ."""
    found = {match[1].lower() for line in text.splitlines() if (match := VERDICT.match(line))}
    return WORTH[found.pop()] if len(found) == 1 else None


@dataclass(frozen=True)
class FunctionSupport:
    """A function of the user's own."""

    function: Callable[..., object]
    by: str
    metric: str = "judged_support"

    def learn(self, elsewhere: Sequence[Shown]) -> None:
        """Nothing to learn."""

    def shares(self, shown: Sequence[Shown]) -> list[float | None]:
        """See `Support`."""
        return [self._share(one) for one in shown]

    def _share(self, one: Shown) -> float | None:
        found = self.function(question=one.question, passages=list(one.passages), answer=one.answer)
        if found is None:
            return None
        if isinstance(found, bool | int | float) and 0 <= found <= 1:
            return float(found)
        raise StillhouseError(
            f"evaluation.grounding.judge: {self.by} returned {found!r} for the answer {one.answer[:60]!r}. Return a number "
            "from 0 to 1, or None where it cannot tell."
        )


# Everyone's answers.


def supported(
    support: Support, said: Mapping[Role, Sequence[str]], contexts: Sequence[Context], template: Template
) -> tuple[Mapping[Role, list[float | None]], SupportAccount]:
    """What it says of each answer, None of an abstention and of what was read without passages; and what it is worth, by the
    teacher's answers beside other questions' passages."""
    shown = {role: shown_of(answers, contexts, template) for role, answers in said.items()}
    elsewhere = {role: beside_others(found, contexts) for role, found in shown.items()}
    support.learn([one for found in elsewhere.values() for several in found for one in several])
    scores: dict[Role, list[float | None]] = {}
    for role, found in shown.items():
        shares = iter(support.shares([one for one in found if one is not None]))
        scores[role] = [None if one is None else next(shares) for one in found]
    asked = [score for role, found in scores.items() for score, one in zip(found, shown[role], strict=True) if one]
    once = [several[0] for several in elsewhere["teacher"] if several]
    wrongly = [share for share in support.shares(once) if share is not None]
    error = None
    if wrongly:
        values = np.array(wrongly)
        error = bootstrapped({"error": ratio(values, np.ones_like(values))}, set_sizes=[len(values)])[
            "error"
        ].interval()
    return scores, SupportAccount(support.metric, support.by, len(asked), asked.count(None), error)


def shown_of(answers: Sequence[str], contexts: Sequence[Context], template: Template) -> list[Shown | None]:
    """Each answer beside the passages that it cites, or all where it cites none that is there."""
    found: list[Shown | None] = []
    for answer, context in zip(answers, contexts, strict=True):
        plain = without_citations(answer)
        if abstains(answer, abstention=template.abstention) or not context.passages or not answer_words(plain):
            found.append(None)
            continue
        texts = [passage.text for passage in context.passages]
        cited = [texts[number - 1] for number in citations(answer) if 1 <= number <= len(texts)]
        found.append(Shown(context.question, tuple(cited or texts), plain))
    return found


def beside_others(shown: Sequence[Shown | None], contexts: Sequence[Context]) -> list[list[Shown]]:
    """The same answers, each beside the passages of several other questions, none of which it has read."""
    found: list[list[Shown]] = []
    for place, one in enumerate(shown):
        if one is None:
            continue
        own = {passage.id for passage in contexts[place].passages} | {contexts[place].gold}
        turned = [*contexts[place + 1 :], *contexts[:place]]
        others = [other for other in turned if other.passages and not own & {p.id for p in other.passages}]
        found.append(
            [
                Shown(one.question, tuple(passage.text for passage in other.passages[: len(one.passages)]), one.answer)
                for other in others[:OTHERS]
            ]
        )
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text that have a word."""
    return [sentence for sentence in _SENTENCE.split(text) if answer_words(sentence)]
