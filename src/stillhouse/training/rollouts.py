"""On-policy distillation as a data source: the student answers prompts in the step in which it learns from its answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.data.asked import Asked
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.data.rowset import RowSet
from stillhouse.models.generate import Sampling, sample


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
    finished: bool
    turn: int = 0
    """Which answer of its conversation it is; the prompt is then all before it, the student's former answers included."""


class AskedRows(RowSet):
    """Prompts, one a row, and in each step an answer to each: the student's own for `student_share` of them, drawn anew every
    time, and the data's for the others.

    An answer depends on the student's weights, the seed, the row and the step alone: a run that goes on from a checkpoint
    makes the same ones again. All of a step are made before anything is learnt from it. Only the answer has weight, an end
    that the student drew included. A conversation is answered turn by turn, each behind the answers that the student gave
    before, as long as there is room.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        student: PreTrainedModel,
        *,
        student_share: float,
        sampling: Sampling,
        seed: int,
        stop_ids: set[int],
        vocab_size: int,
        max_tokens: int,
        batch_size: int | None = None,
        tell: Callable[[Rollout], None] = lambda rollout: None,
    ) -> None:
        self.asked, self.student, self.student_share, self.sampling = asked, student, student_share, sampling
        self.seed, self.stop_ids, self.vocab_size, self.tell = seed, stop_ids, vocab_size, tell
        self.max_tokens, self.batch_size = max_tokens, batch_size

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each prompt with the data's own answer: the student's has yet to be written."""
        return [sum(len(piece.ids) for piece in row.answered) for row in self.asked]

    def collate(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Which rows these are: what is in them, the step decides."""
        return {"rows": torch.tensor(items)}

    def at_step(self, batches: Sequence[dict[str, Tensor]], *, step: int) -> list[dict[str, Tensor]]:
        """Each batch with the answers that this step learns from, a document a row."""
        rows = [row for batch in batches for row in batch["rows"].tolist()]
        written = self._answers([row for row in dict.fromkeys(rows) if self._is_the_students(row, step)], step)
        return [
            to_batch(
                [[piece] for row in batch["rows"].tolist() for piece in written.get(row, self.asked[row].answered)]
            )
            .to(batch["rows"].device)
            .tensors()
            for batch in batches
        ]

    def _is_the_students(self, row: int, step: int) -> bool:
        return Random(f"{self.seed}, step {step}, row {row}").random() < self.student_share

    def _answers(self, rows: Sequence[int], step: int) -> dict[int, tuple[Example, ...]]:
        """What the student writes now in these rows."""
        talks = {row: _Talk(self.asked[row]) for row in rows}
        turn, speaking = 0, list(rows)
        while speaking:
            found = sample(
                self.student,
                [talks[row].ids for row in speaking],
                sampling=self.sampling,
                seed=f"{self.seed}, step {step}" + (f", turn {turn}" if turn else ""),
                numbers=speaking,
                stop_ids=self.stop_ids,
                vocab_size=self.vocab_size,
                max_tokens=self.max_tokens,
                batch_size=self.batch_size,
            )
            for row, one in zip(speaking, found, strict=True):
                prompt, answer = tuple(talks[row].ids), tuple(one.tokens)
                finished = answer[-1] in self.stop_ids
                self.tell(Rollout(step, row, prompt, answer, tuple(one.logprobs), finished, turn))
                talks[row].answer(answer, finished=finished)
            turn += 1
            speaking = [row for row in speaking if talks[row].asks_again(turn, max_tokens=self.max_tokens)]
        return {row: (talk.example,) for row, talk in talks.items()}


class _Talk:
    """One conversation while the student answers in it."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.ids, self.weights = asked, list(asked.prompt), [0.0] * len(asked.prompt)
        self.num_answers, self.learnt_until = 0, len(asked.prompt)
        self.is_finished = True

    def answer(self, tokens: Sequence[int], *, finished: bool) -> None:
        """Add what the student says."""
        self._add(tokens, self.asked.weights[self.num_answers])
        self.num_answers, self.learnt_until, self.is_finished = self.num_answers + 1, len(self.ids), finished

    def asks_again(self, turn: int, *, max_tokens: int) -> bool:
        """Add what the data asks behind the answer before this turn; False where there is nothing, or no room for an answer."""
        if turn > len(self.asked.followups):
            return False
        followup = self.asked.followups[turn - 1]
        self._add(followup.prompt if self.is_finished else (*followup.closing, *followup.prompt), 0.0)
        return len(self.ids) < max_tokens

    def _add(self, tokens: Sequence[int], weight: float) -> None:
        self.ids += tokens
        self.weights += [weight] * len(tokens)

    @property
    def example(self) -> Example:
        """The conversation up to the end of the last answer."""
        return Example(tuple(self.ids[: self.learnt_until]), tuple(self.weights[: self.learnt_until]))
