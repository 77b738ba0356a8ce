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
from stillhouse.objectives import Ramp


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


class AskedRows(RowSet):
    """Prompts, one a row, and in each step an answer to each: the student's own for `student_share` of them, drawn anew every
    time, and the data's for the others.

    An answer depends on the student's weights, the seed, the row and the step alone: a run that goes on from a checkpoint
    makes the same ones again. All of a step are made before anything is learnt from it. Only the answer has weight, an end
    that the student drew included.
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
    ) -> None:
        self.asked, self.student, self.student_share, self.sampling = asked, student, student_share, sampling
        self.seed, self.stop_ids, self.vocab_size, self.tell = seed, stop_ids, vocab_size, tell
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.share = student_share.at(0.0) if isinstance(student_share, Ramp) else student_share
        """Of the prompts of the step at hand, those that the student answers."""

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

    def at_step(
        self, batches: Sequence[dict[str, Tensor]], *, step: int, progress: float = 0.0
    ) -> list[dict[str, Tensor]]:
        """Each batch with the answers that this step learns from, a document a row."""
        if isinstance(self.student_share, Ramp):
            self.share = self.student_share.at(progress)
        rows = [row for batch in batches for row in batch["rows"].tolist()]
        written = self._written(list(dict.fromkeys(rows)), step, progress)
        return [
            to_batch(
                [[piece] for row in batch["rows"].tolist() for piece in written.get(row, self.asked[row].answered)]
            )
            .to(batch["rows"].device)
            .tensors()
            for batch in batches
        ]

    def numbers(self) -> dict[str, float]:
        """The student's share, where it moves."""
        return {"student_share": self.share} if isinstance(self.student_share, Ramp) else {}

    def _written(self, rows: Sequence[int], step: int, progress: float) -> dict[int, tuple[Example, ...]]:
        """What the student says in those of the rows that it answers in this step."""
        return self._answers([row for row in rows if self._is_the_students(row, step)], step)

    def _is_the_students(self, row: int, step: int) -> bool:
        return self._point(row, step) < self.share

    def _point(self, row: int, step: int) -> float:
        """In [0, 1): what decides who answers."""
        return Random(f"{self.seed}, step {step}, row {row}").random()

    def _answers(self, rows: Sequence[int], step: int) -> dict[int, tuple[Example, ...]]:
        """What the student writes now in these rows."""
        found = sample(
            self.student,
            [self.asked[row].prompt for row in rows],
            sampling=self.sampling,
            seed=f"{self.seed}, step {step}",
            numbers=rows,
            stop_ids=self.stop_ids,
            vocab_size=self.vocab_size,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
        )
        written: dict[int, tuple[Example, ...]] = {}
        for row, one in zip(rows, found, strict=True):
            prompt, answer = self.asked[row].prompt, tuple(one.tokens)
            self.tell(Rollout(step, row, prompt, answer, tuple(one.logprobs), answer[-1] in self.stop_ids))
            written[row] = (self.asked[row].with_answer(answer),)
        return written
