"""Held-out answers beside a reward and beside the teacher, while the student learns: a weak reward must not go unnoticed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from stillhouse.commands.alarm_log import sound
from stillhouse.commands.metrics_log import last_saved_step
from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.held_out import held_out_examples, held_out_in_context
from stillhouse.commands.questions import held_out_questions
from stillhouse.core.batch import Batch
from stillhouse.core.files import append_line, json_line, read_lines, write_atomic
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.models.generate import Sampling
from stillhouse.models.isolation import evaluating
from stillhouse.models.load import LoadedModel
from stillhouse.models.signals import factored_logits
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.rewards import RewardWatchConfig, Scoring, Tools
from stillhouse.teachers.writer import LocalWriter, Request
from stillhouse.training.alarms import Inspected, reward_outruns_agreement

FILE = "held_out_answers.jsonl"
"""What teacher and student said to held-out prompts, with the reward of each."""
LOOKS = 10
"""Times that the student is looked at while it learns, if the recipe does not say how often."""
CHUNK_TOKENS = 256
"""Positions whose likeliest token is found at once."""


@dataclass(frozen=True)
class Question:
    """A held-out prompt: what is asked, and the record that its answer completes."""

    request: Request
    record: Record

    def answered(self, text: str, *, finished: bool) -> Record:
        """The record with this answer."""
        if self.record.messages:
            return replace(self.record.say("assistant", text), finished=finished)
        return replace(self.record, text=self.record.text + text, finished=finished)


class RewardWatch:
    """An `Inspector` of training. What it found is kept in a file, so that a killed run goes on with it."""

    def __init__(
        self,
        *,
        reward: Scoring,
        questions: Sequence[Question],
        documents: Sequence[tuple[Example, Example]],
        teacher: LoadedModel,
        vocab_size: int,
        every_steps: int | None,
        run: RunFolder,
        progress: Progress,
        last_step: int,
    ) -> None:
        self.reward, self.questions, self.documents, self.teacher = reward, questions, documents, teacher
        self.vocab_size, self.every_steps, self.run, self.progress = vocab_size, every_steps, run, progress
        self.file = run.path / FILE
        # Step 0 is done again where there is no checkpoint.
        kept = [line for line in read_lines(self.file) if line["who"] == "teacher" or 0 < last_step >= line["step"]]
        write_atomic(self.file, "".join(json_line(line) for line in kept))
        self._before = list(_inspections(kept))
        self._said: list[torch.Tensor] | None = None

    def __call__(self, student: PreTrainedModel, *, step: int, steps: int) -> Mapping[str, float]:
        """Mean reward of the student's answers and of the teacher's, and its agreement with the teacher."""
        every = self.every_steps or max(1, steps // LOOKS)
        if step % every and step != steps:
            return {}
        teacher_rewards = self._teachers()
        found = Inspected(step, self._rewards("student", student, step), self._agreements(student))
        self._write_agreements(found)
        alarm = reward_outruns_agreement(self._before, found)
        if alarm is not None:
            sound(self.run, self.progress, {"step": step, "alarm": "reward_outruns_agreement", "says": alarm})
        self._before.append(found)
        means = {
            "held_out_reward": found.rewards,
            "teacher_reward": teacher_rewards,
            "held_out_agreement": found.agreements,
        }
        return {name: mean for name, values in means.items() if not math.isnan(mean := _mean(values))}

    def _teachers(self) -> list[float]:
        """Rewards of the teacher's answers to the same prompts: found once."""
        known = [_number(line["reward"]) for line in read_lines(self.file) if line["who"] == "teacher"]
        if len(known) == len(self.questions):
            return known
        write_atomic(self.file, "".join(json_line(line) for line in read_lines(self.file) if line["who"] != "teacher"))
        return self._rewards("teacher", self.teacher.model, 0)

    def _rewards(self, who: str, model: PreTrainedModel, step: int) -> list[float]:
        loaded = replace(self.teacher, model=model)
        writer = LocalWriter(loaded, name=who, fingerprint="", batch_size=len(self.questions) or 1)
        with evaluating(model):
            said = {one.key: reply for one, reply in writer.write([question.request for question in self.questions])}
            replies = [said[question.request.key] for question in self.questions]
        records = [q.answered(r.text, finished=r.finished) for q, r in zip(self.questions, replies, strict=True)]
        scores = self.reward(records)
        for question, reply, score in zip(self.questions, replies, scores, strict=True):
            asked = question.record.question or question.record.text
            number = None if math.isnan(score) else score
            append_line(self.file, {"who": who, "step": step, "asked": asked, "answer": reply.text, "reward": number})
        return scores

    def _write_agreements(self, found: Inspected) -> None:
        append_line(self.file, {"who": "agreement", "step": found.step, "agreements": list(found.agreements)})

    @torch.no_grad()
    def _agreements(self, student: PreTrainedModel) -> list[float]:
        """Of each held-out document, the share of its tokens of which both name the same likeliest."""
        if self._said is None:
            self._said = [self._likeliest(self.teacher.model, theirs) for _, theirs in self.documents]
        ours = [self._likeliest(student, one) for one, _ in self.documents]
        return [float((a == b).double().mean()) for a, b in zip(ours, self._said, strict=True)]

    def _likeliest(self, model: PreTrainedModel, document: Example) -> torch.Tensor:
        batch: Batch = to_batch([[document]]).to(model.device)
        with evaluating(model):
            said = factored_logits(model, batch).first(self.vocab_size).at(batch.predicts)
        return torch.cat([part.dense().argmax(-1) for part in _parts(said)]).cpu()


def _parts(said: FactoredLogits) -> Iterator[FactoredLogits]:
    for start in range(0, len(said.hidden), CHUNK_TOKENS):
        yield replace(said, hidden=said.hidden[start : start + CHUNK_TOKENS])


def reward_watch(
    wanted: RewardWatchConfig, parts: Parts, run: RunFolder, progress: Progress, *, checkpoints: Path
) -> RewardWatch:
    """The watch of a recipe's student.

    Raises:
        StillhouseError: if the reward cannot be had.
    """
    sampling = Sampling(temperature=0.0, max_new_tokens=wanted.max_new_tokens)
    writer = LocalWriter(parts.teacher, name="teacher", fingerprint=parts.teacher_fingerprint)

    def ask(requests: Sequence[Request], *, title: str = "") -> Any:
        said = {request.key: reply for request, reply in writer.write(requests)}
        return [said[request.key] for request in requests]

    if parts.is_paired:
        progress.say("teacher and student read other tokens: the reward is watched without their agreement")
    tools = Tools(ask=ask, writer=writer, progress=progress)
    if getattr(wanted.reward, "kind", "") == "judge" and getattr(wanted.reward, "model", None):
        tools = replace(tools, folder=run.path / "judge")
    return RewardWatch(
        reward=wanted.reward.build(tools),
        questions=questions_of(parts, sampling)[: wanted.prompts],
        documents=[] if parts.is_paired else documents_of(parts)[: wanted.prompts],
        teacher=replace(parts.teacher, tokenizer=parts.tokenizer),
        vocab_size=parts.num_answers,
        every_steps=wanted.every_steps,
        run=run,
        progress=progress,
        last_step=last_saved_step(checkpoints),
    )


def documents_of(parts: Parts) -> list[tuple[Example, Example]]:
    """Held-out documents as the student reads them, and as the teacher does."""
    ours, in_context = held_out_examples(parts), held_out_in_context(parts)
    theirs = ours if in_context is None else list(in_context.teacher_reads)
    return [(one, other) for one, other in zip(ours, theirs, strict=True) if any(one.weights[1:])]


def questions_of(parts: Parts, sampling: Sampling) -> list[Question]:
    """Held-out prompts: conversations up to their last answer, prompts, or how texts begin."""
    return [
        Question(
            Request(seed="watch", sampling=sampling, messages=one.messages, prefix=one.prefix),
            Record(one.messages, text=one.prefix or "", lineage={"reference": one.reference}),
        )
        for one in held_out_questions(parts)
    ]


def _inspections(lines: Sequence[Mapping[str, Any]]) -> Iterator[Inspected]:
    """What the lines of a run that goes on say of the steps before."""
    rewards: dict[int, list[float]] = {}
    for line in lines:
        if line["who"] == "student":
            rewards.setdefault(line["step"], []).append(_number(line["reward"]))
        elif line["who"] == "agreement":
            yield Inspected(line["step"], rewards.get(line["step"], []), line["agreements"])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
