"""What is counted of a step in which the student learns from its own answers, beside its loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.signals import FactoredLogits
from stillhouse.training.ranks import of_all_ranks
from stillhouse.training.rollouts import Rollout

COMPARED_TOKENS = 64
"""Of a micro-batch, evenly spread: more would cost a few per cent of the step, and a window of steps has enough."""


@runtime_checkable
class Inspector(Protocol):
    """Looks at the student now and then while it learns, and leaves it as it was."""

    def __call__(self, student: PreTrainedModel, *, step: int, steps: int) -> Mapping[str, float]:
        """What it found after so many steps of all, by what `metrics.jsonl` calls it; nothing where it is not time to look.
        Step 0 is before the first.
        """


@dataclass
class Watch:
    """Hears answers, reads batches, and compares likeliest tokens; its numbers are those since they were last asked for.

    On several ranks each watches its own rows, and all have the numbers of all.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    rows: list[bool] = field(default_factory=list)
    """Whether each row carries weight."""
    agreeing: list[bool] = field(default_factory=list)
    """Whether both name the same likeliest token, token by token."""
    tell: Callable[[Rollout], None] = field(default=lambda rollout: None)
    """Told of what is heard, by all ranks, when numbers are asked for."""

    def hear(self, rollout: Rollout) -> None:
        """The student has written this."""
        self.rollouts.append(rollout)

    def read(self, batch: Batch) -> None:
        """The student is about to learn from this."""
        self.rows += (batch.weights.amax(-1) > 0).tolist()

    def copy(self) -> "Watch":
        """What was counted so far."""
        return Watch([*self.rollouts], [*self.rows], [*self.agreeing], self.tell)

    def restore(self, before: "Watch") -> None:
        """Go back to what `copy` gave."""
        self.rollouts, self.rows, self.agreeing = [*before.rollouts], [*before.rows], [*before.agreeing]

    @torch.no_grad()
    def compare(self, student: FactoredLogits, teacher: FactoredLogits) -> None:
        """What both say at the same places [tokens, hidden], with the same vocabulary."""
        num_tokens = len(student.hidden)
        chosen = torch.zeros(num_tokens, dtype=torch.bool, device=student.hidden.device)
        chosen[:: max(1, -(-num_tokens // COMPARED_TOKENS))] = True
        ours, theirs = (said.at(chosen).dense().argmax(-1) for said in (student, teacher))
        self.agreeing += (ours == theirs).tolist()

    def _join(self) -> None:
        """Add what other ranks have."""
        of_all = of_all_ranks((self.rollouts, self.rows, self.agreeing))
        self.rollouts, self.rows, self.agreeing = ([*chain.from_iterable(side)] for side in zip(*of_all, strict=True))
        self.rollouts.sort(key=lambda rollout: (rollout.step, rollout.turn))  # as one process hears them
        for rollout in self.rollouts:
            self.tell(rollout)

    def numbers(self) -> dict[str, float]:
        """Those of this step, by what `metrics.jsonl` calls them; without those that nothing was counted for. All ranks ask at
        once."""
        self._join()
        found: dict[str, float] = {}
        if self.rollouts:
            num_tokens = sum(len(rollout.answer) for rollout in self.rollouts)
            found["answer_tokens"] = num_tokens / len(self.rollouts)
            found["finished_share"] = sum(rollout.finished for rollout in self.rollouts) / len(self.rollouts)
            found["answer_entropy"] = -sum(sum(rollout.logprobs) for rollout in self.rollouts) / num_tokens
        if self.agreeing:
            found["top1_agreement"] = sum(self.agreeing) / len(self.agreeing)
        if self.rows:
            found["weightless_share"] = 1 - sum(self.rows) / len(self.rows)
        self.rollouts, self.rows, self.agreeing = [], [], []
        return found
