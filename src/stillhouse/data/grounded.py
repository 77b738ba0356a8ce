"""What a generator reads: one immutable record a question, from which teacher and student are shown the same passages."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import field_validator, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import StaleError
from stillhouse.core.files import json_line, read_lines, write_atomic
from stillhouse.core.lexical import answer_words, says
from stillhouse.core.slots import slots_in

Mix = Literal["distractors", "retrieved", "removed", "contradiction", "none"]
"""How a context came about: the gold passage among hard distractors, whatever the retriever found, the same with all taken out
that tells the answer, the gold passage beside one that contradicts it, or nothing at all."""

MIXES: tuple[Mix, ...] = ("distractors", "retrieved", "removed", "contradiction", "none")

ABSTENTION = "The passages do not say."
DISAGREEMENT = "The passages disagree: {first}, or {second}."

INSTRUCTION = (
    "Answer the question by the numbered passages alone, briefly, and cite the passage that says it, like [1]. If the passages "
    "do not say it, answer: {abstention}"
)


class Template(Config):
    """How a context is written out, and what is answered where it does not tell."""

    instruction: str = INSTRUCTION
    """What comes before the passages; `{abstention}` in it becomes the abstention."""
    passage: str = "[{number}] {text}"
    """Each passage."""
    question: str = "Question: {question}"
    """The question, behind the passages."""
    nothing: str = "(There is no passage.)"
    """What stands in the place of passages where there are none."""
    abstention: str = ABSTENTION
    """What is learnt where the passages do not tell."""
    disagreement: str = DISAGREEMENT
    """What is learnt where two of them contradict each other: `{first}` and `{second}` become what they say, with citations."""

    @model_validator(mode="after")
    def _shows_all(self) -> "Template":
        for name, slots in _SLOTS.items():
            written = getattr(self, name)
            missing = [slot for slot in slots if f"{{{slot}}}" not in written]
            if missing:
                raise ValueError(f"{name} is {written!r}, without {{{missing[0]}}}. Put it in.")
            try:
                is_known = set(slots_in(written)) <= set(slots)
            except ValueError:
                is_known = False
            if not is_known:
                known = ", ".join(f"{{{slot}}}" for slot in slots)
                raise ValueError(f"{name} is {written!r}, with other braces than {known}. Write those twice.")
        return self

    @field_validator("abstention")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not answer_words(value):
            raise ValueError("it is empty. Say what is answered where the passages do not tell.")
        return value

    @cached_property
    def fingerprint(self) -> str:
        """Changes where anything that is read or learnt changes."""
        return _hash(self.model_dump(mode="json"))


_SLOTS = {"passage": ("number", "text"), "question": ("question",), "disagreement": ("first", "second")}


@dataclass(frozen=True)
class ContextPassage:
    """A passage as it is read, cut already."""

    id: str
    text: str
    score: float | None = None
    """The retriever's; None where the passage was put there without it."""
    rank: int | None = None
    """The retriever's, from 1."""


@dataclass(frozen=True)
class Context:
    """All that anybody reads to answer one question. What it is made of does not change: its hash says so."""

    question: str
    passages: tuple[ContextPassage, ...]
    mix: Mix
    answers: tuple[str, ...] = ()
    """Right ones, where any are known."""
    gold: str = ""
    """Id of the passage that tells the answer, where it is known."""
    gold_at: int | None = None
    """Where among the passages that one stands, from 1."""
    answer_in_context: bool | None = None
    """Whether the passages tell: by the words of a right answer, or else by the gold passage; None where nobody knows."""
    second_answer: str = ""
    """What the contradicting passage says in the place of the first of the answers."""
    template: str = ""
    """Fingerprint of the template."""
    retriever: str = ""
    """What found the passages."""
    held_out: bool = False

    @property
    def gold_present(self) -> bool:
        """Whether the gold passage is among them."""
        return self.gold_at is not None

    @cached_property
    def hash(self) -> str:
        """Of all of it: another retrieval, order or cut gives another."""
        return _hash(asdict(self))

    @property
    def text(self) -> str:
        """All passages, for what compares words."""
        return "\n\n".join(passage.text for passage in self.passages)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


# What is read and what is learnt.


def written_context(context: Context, template: Template) -> str:
    """Instruction and passages, as they stand before the question.

    Raises:
        StaleError: where the context was made for another template.
    """
    if context.template != template.fingerprint:
        raise StaleError(
            f"the context of {context.question[:60]!r} was made for another template than it is to be written out by. Make the "
            "contexts again in another run folder."
        )
    shown = [
        template.passage.format(number=number, text=passage.text)
        for number, passage in enumerate(context.passages, start=1)
    ]
    instruction = template.instruction.replace("{abstention}", template.abstention)
    return "\n\n".join([instruction, *(shown or [template.nothing])])


def written_question(context: Context, template: Template) -> str:
    """The question as it is asked, with or without a context before it."""
    return template.question.format(question=context.question)


def prompt_of(context: Context, template: Template) -> str:
    """The one message that teacher and student are both asked."""
    return f"{written_context(context, template)}\n\n{written_question(context, template)}"


def fixed_answer(context: Context, template: Template) -> str | None:
    """What is learnt whatever a teacher says: an abstention where the passages do not tell, and that they disagree where they
    do. None where it is for the teacher to answer."""
    if context.mix == "contradiction":
        return _disagreement(context, template)
    return template.abstention if context.answer_in_context is False else None


def _disagreement(context: Context, template: Template) -> str:
    found = [
        (number, answer)
        for number, passage in enumerate(context.passages, start=1)
        for answer in (context.answers[0], context.second_answer)
        if passage.id.removesuffix(CONTRADICTED) == context.gold and says(passage.text, answer)
    ]
    (first, one), (second, other) = found
    return template.disagreement.format(first=f"{one} [{first}]", second=f"{other} [{second}]")


def gold_answer(context: Context, template: Template) -> str | None:
    """The data's own answer with the passage that tells it; an abstention where none does; None where it is not known."""
    fixed = fixed_answer(context, template)
    if fixed is not None or not context.answers:
        return fixed
    answer = context.answers[0]
    number = supporting(context, answer)
    return answer if number is None else f"{answer} [{number}]"


def supporting(context: Context, answer: str) -> int | None:
    """The number of the passage whose words say the answer: the gold one before others, then the first."""
    order = sorted(range(len(context.passages)), key=lambda place: place + 1 != context.gold_at)
    return next((place + 1 for place in order if says(context.passages[place].text, answer)), None)


# Other views of the same context, for ablations.


def without_passages(context: Context) -> Context:
    """The same question with nothing to read."""
    return replace(context, passages=(), gold_at=None, answer_in_context=False)


def shuffled(context: Context, *, seed: int) -> Context:
    """The same passages in an order that the seed gives."""
    order = list(range(len(context.passages)))
    Random(f"{seed}, shuffled, {context.question}").shuffle(order)
    gold_at = None if context.gold_at is None else order.index(context.gold_at - 1) + 1
    return replace(context, passages=tuple(context.passages[place] for place in order), gold_at=gold_at)


CONTRADICTED = "#contradicted"
"""Ends the id of a passage that was changed to say another answer."""


# On disk.


def write_contexts(contexts: Iterable[Context], file: Path) -> None:
    """A line each, with its hash."""
    write_atomic(file, "".join(json_line({"hash": context.hash, **asdict(context)}) for context in contexts))


def read_contexts(file: Path) -> list[Context]:
    """What `write_contexts` wrote.

    Raises:
        StaleError: for a line that is not what its hash says.
    """
    return [_read(line, where=f"{file}, line {number}") for number, line in enumerate(read_lines(file), start=1)]


def _read(line: Mapping[str, Any], *, where: str) -> Context:
    values = {name: value for name, value in line.items() if name != "hash"}
    passages = tuple(ContextPassage(**passage) for passage in values.pop("passages"))
    context = Context(**{**values, "answers": tuple(values["answers"])}, passages=passages)
    if context.hash != line["hash"]:
        raise StaleError(
            f"{where}: this context is not what was answered: its hash is {context.hash}, and {line['hash']} is written "
            "there. Contexts are never changed: make them again in another run folder."
        )
    return context


def refuse_other_contexts(rows: Iterable[Mapping[str, Any]], contexts: Sequence[Context], template: Template) -> None:
    """Hold every row that is learnt against the context that it was answered over: its hash, and the prompt letter by letter.

    Raises:
        StaleError: naming the first that is of another retrieval, order, cut or template.
    """
    known = {context.hash: context for context in contexts}
    for number, row in enumerate(rows, start=1):
        context = known.get(row["context"])
        if context is None:
            raise StaleError(
                f"row {number} was answered over a context ({row['context']}) that is not among these {len(known):,}: the "
                "passages were retrieved again. Teacher and student must read the same: answer again in another run folder."
            )
        if row["prompt"] != prompt_of(context, template):
            raise StaleError(
                f"row {number} does not show the passages of its context ({row['context']}) as they are. Teacher and student "
                "must read the same: answer again in another run folder."
            )


def cut(text: str, *, characters: int) -> str:
    """The text, ended at the last white space before so many characters; in scripts without any, there."""
    if len(text) <= characters:
        return text
    kept = text[:characters]
    if not text[characters].isspace() and any(sign.isspace() for sign in kept.strip()):
        kept = kept.rsplit(None, 1)[0]
    return kept.rstrip()
