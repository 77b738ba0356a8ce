"""Let a model write, in batch: finished rows leave the batch, and a seed gives the same text every time."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stillhouse.core.config import Config
from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import most_tokens, understood


class Sampling(Config):
    """How the next token is drawn."""

    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only from the likeliest tokens that together reach this share; 1 draws from all."""
    max_new_tokens: PositiveInt = 256
    """An answer is cut off here, or where the model has no more positions; its end is then not learnt as an end."""


def stop_ids_of(model: PreTrainedModel) -> set[int]:
    """All tokens that end a text: a generation config may name several."""
    stop = model.generation_config.eos_token_id
    return set() if stop is None else {stop} if isinstance(stop, int) else set(stop)


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int,
    stop_ids: set[int] | None = None,
    advance: Callable[[int], None] = lambda num_tokens: None,
) -> list[list[int]]:
    """New tokens after each prompt, the stop token included where one was drawn.

    Every prompt must have a token. Prompts of different lengths are padded on the left; padding is neither attended to
    nor counted in positions. What is drawn for a row depends on the seed and the row's number, not on the other rows.
    `advance` is told at each step how many tokens it gave.

    Raises:
        ModelError: if the family cannot be asked for one token after another, as one without a key-value cache.
    """
    if not prompts:
        return []
    stops = torch.tensor(sorted(stop_ids_of(model) if stop_ids is None else stop_ids), dtype=torch.long)
    draw = torch.Generator().manual_seed(seed)
    written: list[list[int]] = [[] for _ in prompts]
    writing = _Writing(model, prompts)
    for _ in range(sampling.max_new_tokens):
        points = torch.rand(len(prompts), 1, generator=draw)[writing.alive]
        chosen = _draw(writing.next_logits(), sampling, points)  # [alive]
        for row, token in zip(writing.alive, chosen.tolist(), strict=True):
            written[row].append(token)
        advance(len(writing.alive))
        going = ~torch.isin(chosen, stops.to(chosen.device)) & writing.has_room()
        if not going.any():
            break
        writing.read(chosen, going)
    return written


class _Writing:
    """The rows still being written: what the model reads next, and what it remembers."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        assert all(prompts), "an empty prompt has nothing to go on from"
        self.model = model
        self.alive = list(range(len(prompts)))
        self.cache: Any = DynamicCache(config=model.config)
        self.ids, self.mask = _left_padded(prompts, device=model.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)

    @torch.no_grad()
    def next_logits(self) -> Float[Tensor, "alive vocab"]:
        """What the model says comes next in each row."""
        output = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **understood(self.model, position_ids=self.positions, logits_to_keep=1),
        )
        if getattr(output, "past_key_values", None) is not self.cache:
            raise ModelError(
                f"{type(self.model).__name__} keeps no key-value cache that stillhouse can use, so it cannot write text. "
                "As a teacher it can still label text that you have."
            )
        return output.logits[:, -1].float()

    def has_room(self) -> Bool[Tensor, " alive"]:
        """Where the model still has a position for one more token: beyond its last, GPT-2 fails and others rave."""
        last = most_tokens(self.model)
        return self.positions[:, -1] + 1 < (math.inf if last is None else last)

    def read(self, chosen: Int[Tensor, " alive"], going: Bool[Tensor, " alive"]) -> None:
        """Let each row that is still going have its chosen token, and the others leave."""
        if not going.all():
            keep = going.nonzero().squeeze(-1)
            self.cache.reorder_cache(keep)
            self.alive = [self.alive[row] for row in keep.tolist()]
        self.ids, self.positions = chosen[going, None], self.positions[going, -1:] + 1
        self.mask = torch.cat([self.mask[going], self.mask.new_ones(len(self.alive), 1)], dim=-1)


def _left_padded(
    prompts: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _draw(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, points: Float[Tensor, "batch 1"]
) -> Int[Tensor, " batch"]:
    """One token a row, by inverting the cumulative distribution at `points` in [0, 1): one random number a row, where
    `multinomial` takes one a token.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probs = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probs = _nucleus(probs, sampling.top_p)
    cumulative = probs.cumsum(-1)
    # A float32 below 1 is at most 1 - 2^-24, whose product rounds to less than the total: some token is always beyond it.
    point = points.to(cumulative.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def _nucleus(probs: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Zero for all but the likeliest tokens that together reach `top_p`; not renormalised."""
    ranked, order = probs.sort(dim=-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probs.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)
