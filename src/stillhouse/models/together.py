"""Let a student write with its teacher at its side: both read what is written, and what comes next depends on both."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stillhouse.models.anatomy import most_tokens
from stillhouse.models.generate import (
    Continuation,
    Sampling,
    drawn_at,
    in_use,
    left_padded,
    logits_of,
    points_of,
    probabilities,
    stop_ids_of,
    write_down,
)


@dataclass(frozen=True)
class Said:
    """What both sides say comes next in each row, and the next random number in [0, 1) of each side in each row."""

    student_probs: Float[Tensor, "rows vocab"]
    teacher_probs: Float[Tensor, "rows vocab"]
    teacher_logits: Float[Tensor, "rows vocab"]
    student_points: Float[Tensor, "rows 1"]
    teacher_points: Float[Tensor, "rows 1"]


Choice = tuple[Int[Tensor, " rows"], Float[Tensor, "rows vocab"]]
"""A token for each row, and with which probability each token could have come."""


@dataclass(frozen=True)
class Mixture:
    """Each token is drawn from a mixture of both sides' distributions, as MiniLLM does."""

    teacher_share: float
    """0 is the student alone, 1 the teacher alone."""

    def choose(self, said: Said) -> Choice:
        """What comes next."""
        probs = said.student_probs.lerp(said.teacher_probs, self.teacher_share)
        return drawn_at(probs, said.student_points), probs


@dataclass(frozen=True)
class Interleaved:
    """The student proposes each token. One that is not among the teacher's likeliest gives way to a draw of the teacher's:
    speculative knowledge distillation.
    """

    accept_top_k: int
    """Among how many a proposal must be. 0 is the teacher alone, the whole vocabulary the student alone."""

    def choose(self, said: Said) -> Choice:
        """What comes next."""
        accepted = _among_likeliest(said.teacher_logits, self.accept_top_k)
        proposed, instead = (
            drawn_at(said.student_probs, said.student_points),
            drawn_at(said.teacher_probs, said.teacher_points),
        )
        chosen = torch.where(accepted.gather(-1, proposed[:, None]).squeeze(-1), proposed, instead)
        kept, refused = (said.student_probs.where(which, 0.0) for which in (accepted, ~accepted))
        return chosen, kept + refused.sum(-1, keepdim=True) * said.teacher_probs


Way = Mixture | Interleaved


def sample_together(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    way: Way,
    sampling: Sampling,
    seed: int | str,
    numbers: Sequence[int] | None = None,
    stop_ids: set[int] | None = None,
    vocab_size: int | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
) -> list[Continuation]:
    """What is written after each prompt: as `sample` in all, but that the teacher has a say in each token. `sampling` holds
    for both sides. `logprobs` are the student's, `draw_logprobs` those of the draw, whoever made it.

    With the student alone, the text is that of `sample` of the student with the same seed; with an interleaved teacher alone,
    that of `sample` of the teacher with the seed "`seed`, teacher".

    Raises:
        ModelError: as `sample`.
    """
    assert max_tokens is None or all(len(prompt) < max_tokens for prompt in prompts), (
        "a prompt has no room for an answer"
    )
    places = range(len(prompts)) if numbers is None else numbers
    draws = [[Random(f"{one}, prompt {place}") for place in places] for one in (seed, f"{seed}, teacher")]
    stops = torch.tensor(sorted(stop_ids_of(student) if stop_ids is None else stop_ids), dtype=torch.long)
    limits = (most_tokens(student), most_tokens(teacher), None if max_tokens is None else max_tokens - 1)
    most_read = min(math.inf if limit is None else limit for limit in limits)
    written = [Continuation() for _ in prompts]
    with in_use(student), in_use(teacher):
        for some in _batches(prompts, batch_size):
            sides = _Reading(student, some, vocab_size), _Reading(teacher, some, vocab_size)
            for _ in range(sampling.max_new_tokens):
                chosen = _write(*sides, written, way=way, sampling=sampling, draws=draws)
                going = ~torch.isin(chosen, stops.to(chosen.device)) & (sides[0].num_read < most_read)
                if not going.any():
                    break
                for side in sides:
                    side.read(chosen, going)
    return written


def _write(
    student: "_Reading",
    teacher: "_Reading",
    written: Sequence[Continuation],
    *,
    way: Way,
    sampling: Sampling,
    draws: Sequence[Sequence[Random]],
) -> Int[Tensor, " rows"]:
    """One more token in each row."""
    ours, theirs = student.next_logits(), teacher.next_logits()
    probs = probabilities(ours, sampling), probabilities(theirs, sampling)
    our_points, their_points = (points_of(side, student.rows) for side in draws)
    chosen, chances = way.choose(Said(*probs, theirs, our_points, their_points))
    write_down(written, student.rows, chosen, logits=ours, probs=chances)
    return chosen


def _batches(prompts: Sequence[Sequence[int]], size: int | None) -> Iterator[Mapping[int, Sequence[int]]]:
    """Prompts of like length by their place, the shortest first."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), size or max(1, len(order))):
        yield {row: prompts[row] for row in order[start : start + (size or len(order))]}


class _Reading:
    """What one side reads next in the rows still being written, and what it remembers."""

    def __init__(self, model: PreTrainedModel, prompts: Mapping[int, Sequence[int]], vocab_size: int | None) -> None:
        assert all(prompts.values()), "an empty prompt has nothing to go on from"
        self.model, self.vocab_size, self.rows = model, vocab_size, list(prompts)
        self.cache: Any = DynamicCache(config=model.config)
        self.ids, self.mask = left_padded(list(prompts.values()), device=model.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def num_read(self) -> Int[Tensor, " rows"]:
        """How many tokens of each row are read by now."""
        return self.positions[:, -1] + 1

    def next_logits(self) -> Float[Tensor, "rows vocab"]:
        """What this side says comes next in each row."""
        logits = logits_of(self.model, self.ids, self.mask, self.positions, self.cache)
        return logits[:, -1, : self.vocab_size].float()

    def read(self, chosen: Int[Tensor, " rows"], going: Bool[Tensor, " rows"]) -> None:
        """Let each row that goes on have its chosen token, and the others leave."""
        if not going.all():
            keep = going.nonzero().squeeze(-1)
            self.cache.reorder_cache(keep)
            self.rows = [self.rows[row] for row in keep.tolist()]
        self.ids, self.positions = chosen[going, None], self.positions[going, -1:] + 1
        self.mask = torch.cat([self.mask[going], self.mask.new_ones(len(self.rows), 1)], dim=-1)


def _among_likeliest(logits: Float[Tensor, "rows vocab"], top_k: int) -> Bool[Tensor, "rows vocab"]:
    """Which tokens are among the `top_k` likeliest: exactly so many, where there are as many."""
    likeliest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, likeliest, True)
