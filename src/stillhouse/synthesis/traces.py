"""How a teacher is asked for answers that show their reasons, and what of them a student is to see."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from stillhouse.models.generate import Sampling
from stillhouse.synthesis.records import Ask, Record, asking
from stillhouse.teachers.writer import Message, Reply, Request

Trace = Literal["none", "explain", "think"]
"""What an answer shows beside itself: nothing, an explanation, or a chain of thought before the marked answer."""

Learn = Literal["all", "answer"]
"""What a student is to see of it."""

EXPLAIN = (
    "You are a helpful assistant. Give a detailed answer, so that the user need not look anything up elsewhere.",
    "You are a teacher. Given a task, explain in simple steps what it asks, what facts and rules it needs, and how they "
    "lead to the answer.",
    "You are an assistant who thinks step by step and justifies each step. Then give the answer.",
    "Explain the task as if to a curious child, and then how you solve it.",
)
"""System prompts that ask for explanations; each answer is drawn under one of them.

Source: after Mukherjee et al., 2023, arXiv:2306.02707, table 2.
"""

MARKER = "Answer:"
"""Before the final answer of a chain of thought."""

THINK = "\n\nThink step by step. Then write the final answer, and nothing else, behind '{}' on a last line."

DEMONSTRATION = "\n\nThis is an example of a response to the question:\n\n{}\n\nNow answer with a response of your own."
"""Self-distillation: who has read how it is done says it in its own words. Source: after arXiv:2601.19897, section 3."""

ALONE = "Answer by what the text before the question says, but as if nobody had read it: do not mention it."
"""Where the passage stays with the teacher."""


@dataclass(frozen=True)
class Answers:
    """How answers are asked for."""

    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 1
    """Of each question."""
    system: str = ""
    """A system prompt that the teacher alone reads."""
    trace: Trace = "none"
    learn: Learn = "all"
    marker: str = MARKER
    demonstrate: bool = False
    """Whether the teacher is shown the data's own answer, where there is one, before it gives its own."""
    seed: int = 0


def answered(
    ask: Ask, records: Sequence[Record], wanted: Answers, *, turn: int = 0, writer: str, title: str
) -> list[list[Record]]:
    """Each record with its answers, as many as there are `samples`, in the order of their seeds."""
    requests: list[Request] = []
    for place, record in enumerate(records):
        for sample in range(wanted.samples):
            seed = f"{wanted.seed}, turn {turn}, answer {place}, {sample}"
            messages = as_the_teacher_reads(record, wanted, seed=seed, turn=turn)
            requests.append(asking(seed, messages, sampling=wanted.sampling))
    replies = iter(zip(requests, ask(requests, title=title), strict=True))
    return [
        [_taken(record, *next(replies), wanted, writer=writer, sample=sample) for sample in range(wanted.samples)]
        for record in records
    ]


def as_the_teacher_reads(record: Record, wanted: Answers, *, seed: str = "", turn: int = 0) -> list[Message]:
    """The conversation with all that only the teacher reads: system prompts, the passage that a question came from, the
    data's own answer as a demonstration, and the wish for a chain of thought."""
    explain = Random(f"{seed}, explain").choice(EXPLAIN) if wanted.trace == "explain" else ""
    messages: list[dict[str, str]] = [dict(message) for message in record.messages]
    own = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    passage, reference = record.lineage.get("passage"), record.lineage.get("reference")
    hides = bool(passage) and not record.lineage.get("student_reads_passage")
    if hides:
        messages[0]["content"] = f"{passage}\n\n{messages[0]['content']}"
    if wanted.demonstrate and reference and turn == 0:
        messages[-1]["content"] += DEMONSTRATION.format(reference)
    if wanted.trace == "think":
        messages[-1]["content"] += THINK.format(wanted.marker)
    system = "\n\n".join(part for part in (wanted.system, explain, ALONE if hides else "", own) if part)
    return [*([{"role": "system", "content": system}] if system else []), *messages]


def _taken(record: Record, request: Request, reply: Reply, wanted: Answers, *, writer: str, sample: int) -> Record:
    """The record with this answer, as the student is to see it."""
    account: dict[str, Any] = {
        "teacher": writer,
        "answer": {
            "seed": request.seed,
            "sample": sample,
            "sampling": wanted.sampling.model_dump(mode="json", exclude_defaults=True),
            "trace": wanted.trace,
            "tokens": reply.tokens,
            **({} if reply.logprob is None else {"logprob": round(reply.logprob, 4)}),
            **({"system": request.messages[0]["content"]} if request.messages[0]["role"] == "system" else {}),
        },
    }
    text, final = reply.text.strip(), None
    if wanted.trace == "think":
        final = final_answer(text, wanted.marker)
        account["answer"] |= {"trace_text": text, "final": final} if wanted.learn == "answer" else {"final": final}
    seen = final if wanted.trace == "think" and wanted.learn == "answer" and final else text
    said = replace(record.say("assistant", seen, **account), finished=reply.finished)
    if not text:
        return said.drop("an empty answer")
    if wanted.trace == "think" and not final:
        return said.drop("a chain of thought without a marked answer")
    return said


def final_answer(text: str, marker: str = MARKER) -> str | None:
    """What stands behind the last marker, whatever its case and if it is in bold type or not; None where there is none."""
    places = list(re.finditer(rf"[*_#\s]*{re.escape(marker)}[*_]*", text, re.IGNORECASE))
    return text[places[-1].end() :].strip() or None if places else None
