"""On-policy distillation as a data source: the student answers prompts in the step in which it learns from its answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch, as_batch, emptied
from stillhouse.data.asked import Asked, Spoken
from stillhouse.data.context import collated, views_of
from stillhouse.data.kept import lengths_of
from stillhouse.data.packing import to_batch
from stillhouse.data.paired import collated_pairs, share_compared
from stillhouse.data.rowset import RowSet
from stillhouse.models.generate import Engine, Sampling, sample
from stillhouse.objectives import Ramp

ASKED = "rows"
"""What a collated batch calls the numbers of rows of which the step decides what is in them."""


@dataclass(frozen=True)
class Rollout:
    """What the student answered, and the step, counted from 1, in which it learns from that."""

    step: int
    row: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    """Its end included, where it is finished."""
    logprobs: tuple[float, ...]
    """What the student gave each token of the answer when it wrote it, in nats."""
    draw_logprobs: tuple[float, ...]
    """With which probability each was drawn, in nats: the teacher may have had a say in it."""
    finished: bool
    turn: int = 0
    """Which answer of its conversation it is; the prompt is then all before it, the student's former answers included."""


@dataclass(frozen=True)
class Written:
    """What a row is learnt with, where the student answers in it."""

    answered: Asked
    draws: tuple[float, ...] = ()
    """With which probability each token behind the prompt was drawn, in nats, and NaN for what was not; empty where that no
    longer counts."""


class AskedRows(RowSet):
    """Prompts, one a row, and in each step an answer to each: the student's own for `student_share` of them, drawn anew every
    time, and the data's for the others.

    An answer depends on the student's weights, the seed, the row and the step alone: a run that goes on from a checkpoint
    makes the same ones again. All of a step are made before anything is learnt from it. Only the answer has weight, an end
    that the student drew included. A conversation is answered turn by turn, each behind the answers that the student gave
    before, as long as there is room.

    A teacher with another tokenizer reads these answers in its own tokens. One in which it finds nothing to compare gives its
    place to the data's own, and a conversation ends behind an answer that it cannot read.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        student: PreTrainedModel,
        *,
        student_share: float | Ramp,
        sampling: Sampling,
        seed: int,
        stop_ids: set[int],
        vocab_size: int,
        max_tokens: int,
        batch_size: int | None = None,
        tell: Callable[[Rollout], None] = lambda rollout: None,
        write: Engine | None = None,
    ) -> None:
        """`write` writes after prompts as `sample` does of the student, whom it may help."""
        self.asked, self.student_share, self.sampling = asked, student_share, sampling
        self.write = write or partial(sample, student)
        self.seed, self.stop_ids, self.vocab_size, self.tell = seed, stop_ids, vocab_size, tell
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.share = student_share.at(0.0) if isinstance(student_share, Ramp) else student_share
        """Of the prompts of the step at hand, those that the student answers."""
        self._across: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> int:
        return index

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Tokens of each prompt with the data's own answer, on its longer side: the student's has yet to be written."""
        return lengths_of(self.asked)

    @property
    def run_the_student(self) -> bool:
        """It answers."""
        return True

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Which rows these are: what is in them, the step decides."""
        return {ASKED: torch.tensor(items, dtype=torch.long)}

    def nothing(self) -> dict[str, Tensor]:
        """No row."""
        return self.collate([])

    def at_step(
        self, batches: Sequence[dict[str, Tensor]], *, step: int, progress: float = 0.0
    ) -> list[dict[str, Tensor]]:
        """Each batch with the answers that this step learns from, a document a row."""
        if isinstance(self.student_share, Ramp):
            self.share = self.student_share.at(progress)
        self._across = {}
        dealt = [batch[ASKED].tolist() for batch in batches]
        written = self._written(dealt, step, progress)
        devices = [batch[ASKED].device for batch in batches]
        return [
            self._learnt(rows, written, device) if rows else emptied(self._learnt([0], {}, device))
            for rows, device in zip(dealt, devices, strict=True)
        ]

    def _learnt(self, rows: Sequence[int], written: Mapping[int, Written], device: torch.device) -> dict[str, Tensor]:
        """The answers of these rows as both sides read them, each piece in a row of its own, and how they were drawn."""
        asked = [written[row].answered if row in written else self.asked[row] for row in rows]
        if any(one.pairs for one in asked):
            pairs = [[pair] for one in asked for pair in one.pairs]
            return as_batch(collated_pairs(pairs)).to(device).tensors()
        if any(one.told for one in asked):
            batch = as_batch(collated([[views] for views in views_of(asked)]))
        else:
            batch = to_batch([[piece] for one in asked for piece in one.answered])
        drawn = [
            written[row].draws if row in written else ()
            for row, one in zip(rows, asked, strict=True)
            for _ in one.answered
        ]
        by_student = torch.tensor([row in written for row, one in zip(rows, asked, strict=True) for _ in one.answered])
        return replace(batch, draw_logprobs=_placed(drawn, batch), by_student=by_student).to(device).tensors()

    def numbers(self) -> dict[str, float]:
        """The student's share, where it moves; and of answers across tokenizers, how much of them could be compared."""
        moves = {"student_share": self.share} if isinstance(self.student_share, Ramp) else {}
        return moves | self._across

    def _written(self, dealt: Sequence[Sequence[int]], step: int, progress: float) -> dict[int, Written]:
        """What the student says in those of the rows, batch by batch, that it answers in this step."""
        return self._answers(self._owed(dealt, step), step)

    def _owed(self, dealt: Sequence[Sequence[int]], step: int) -> list[int]:
        """The rows that the student answers in this step, each once."""
        return [row for row in dict.fromkeys(chain.from_iterable(dealt)) if self._is_the_students(row, step)]

    def _is_the_students(self, row: int, step: int) -> bool:
        return self._point(row, step) < self.share

    def _point(self, row: int, step: int) -> float:
        """In [0, 1): what decides who answers."""
        return Random(f"{self.seed}, step {step}, row {row}").random()

    def _answers(self, rows: Sequence[int], step: int) -> dict[int, Written]:
        """What the student writes now in these rows."""
        talks = {row: _Talk(self.asked[row]) for row in rows}
        turn, speaking = 0, list(rows)
        while speaking:
            found = self.write(
                [talks[row].prompt for row in speaking],
                sampling=self.sampling,
                seed=f"{self.seed}, step {step}" + (f", turn {turn}" if turn else ""),
                numbers=speaking,
                stop_ids=self.stop_ids,
                vocab_size=self.vocab_size,
                max_tokens=self.max_tokens,
                batch_size=self.batch_size,
            )
            for row, one in zip(speaking, found, strict=True):
                prompt, answer = talks[row].prompt, tuple(one.tokens)
                finished = answer[-1] in self.stop_ids
                logprobs = tuple(one.logprobs), tuple(one.draw_logprobs)
                self.tell(Rollout(step, row, prompt, answer, *logprobs, finished, turn))
                talks[row].answer(answer, one.draw_logprobs, finished=finished)
            turn += 1
            speaking = [row for row in speaking if self._asks_again(talks[row])]
        return self._compared({row: Written(talk.answered, tuple(talk.draws)) for row, talk in talks.items()})

    def _compared(self, written: dict[int, Written]) -> dict[int, Written]:
        """Those of the answers in which the teacher finds something to compare."""
        if not any(one.answered.across for one in written.values()):
            return written
        kept = {row: one for row, one in written.items() if one.answered.pairs}
        self._across = {"left_out": len(written) - len(kept)}
        if kept:
            self._across["compared_share"] = share_compared(
                pair for one in kept.values() for pair in one.answered.pairs
            )[0]
        return kept

    def _asks_again(self, talk: "_Talk") -> bool:
        """Whether the teacher can read all so far, and the conversation goes on with room for an answer, of any length where
        the teacher has read more before it."""
        room = self.sampling.max_new_tokens if talk.asked.told else 1
        return talk.is_heard and talk.goes_on() and talk.num_tokens + room <= self.max_tokens


class _Talk:
    """One conversation while the student answers in it."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.num_answers, self.is_finished = asked, 0, True
        self.said: list[int] = []
        """All behind the first prompt."""
        self.weights: list[float] = []
        self.draw_logprobs: list[float] = []
        """Of each of these tokens; NaN for what the student did not draw."""
        self.learnt_until = 0
        self.spoken: list[Spoken] = []

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the student has read where it is to answer."""
        return (*self.asked.prompt, *self.said)

    @property
    def num_tokens(self) -> int:
        """Tokens up to here, on the longer side."""
        return self.asked.num_prompt_tokens + len(self.said)

    def answer(self, tokens: Sequence[int], draw_logprobs: Sequence[float], *, finished: bool) -> None:
        """Add what the student says, and with which probability it drew each token."""
        self.spoken.append(Spoken(len(self.prompt), tuple(tokens), finished))
        self._add(tokens, self.asked.weights[self.num_answers], draw_logprobs)
        self.num_answers, self.learnt_until, self.is_finished = self.num_answers + 1, len(self.said), finished

    @property
    def is_heard(self) -> bool:
        """Whether the teacher can read on behind the last answer, too."""
        return self.asked.across is None or self.asked.across.hears(self.spoken[-1])

    def goes_on(self) -> bool:
        """Add what the data asks behind the last answer; False where there is nothing."""
        if self.num_answers > len(self.asked.followups):
            return False
        followup = self.asked.followups[self.num_answers - 1]
        self._add(followup.prompt if self.is_finished else (*followup.closing, *followup.prompt))
        return True

    def _add(self, tokens: Sequence[int], weight: float = 0.0, draw_logprobs: Sequence[float] | None = None) -> None:
        self.said += tokens
        self.weights += [weight] * len(tokens)
        self.draw_logprobs += [math.nan] * len(tokens) if draw_logprobs is None else draw_logprobs

    @property
    def answered(self) -> Asked:
        """The conversation up to the end of the last answer."""
        answered = self.asked.answer(self.said[: self.learnt_until], self.weights[: self.learnt_until])
        return answered.heard(self.spoken)

    @property
    def draws(self) -> list[float]:
        """The draws of all behind the first prompt that is learnt."""
        return self.draw_logprobs[: self.learnt_until]


def _placed(drawn: Sequence[Sequence[float]], batch: Batch) -> Float[Tensor, "batch seq"]:
    """The draws of each row at its end, where its answers stand, and NaN elsewhere."""
    placed = torch.full(batch.ids.shape, torch.nan)
    for row, logprobs in enumerate(drawn):
        end = int(batch.real[row].sum())
        placed[row, end - len(logprobs) : end] = torch.tensor(logprobs)
    return placed
