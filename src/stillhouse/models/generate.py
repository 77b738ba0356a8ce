"""Let a model write, in batch: finished rows leave the batch, and a seed gives the same text every time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stillhouse.core.config import Config
from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import most_tokens, understood

DRAW_BITS = 24
"""As many as a float32 below 1 can have: with more, a draw could round to 1."""


class Sampling(Config):
    """How the next token is drawn."""

    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token each time."""
    top_k: PositiveInt | None = None
    """Draw only from this many tokens, the likeliest; None draws from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only from the likeliest tokens that together reach this share of what top_k left; 1 draws from all."""
    max_new_tokens: PositiveInt = 256
    """An answer is cut off here, or where the model has no more positions; its end is then not learnt as an end."""


@dataclass(frozen=True)
class Continuation:
    """What was written after one prompt."""

    tokens: list[int] = field(default_factory=list)
    """The stop token included, where one was drawn."""
    logprobs: list[float] = field(default_factory=list)
    """What the model gives each of them, in nats: at temperature 1, and with no token left out by `top_k` or `top_p`."""


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
    """New tokens after each prompt, the stop token included where one was drawn: those of `sample`."""
    written = sample(model, prompts, sampling=sampling, seed=seed, stop_ids=stop_ids, advance=advance)
    return [one.tokens for one in written]


def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int | str,
    numbers: Sequence[int] | None = None,
    stop_ids: set[int] | None = None,
    vocab_size: int | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda num_tokens: None,
) -> list[Continuation]:
    """What the model writes after each prompt.

    Every prompt must have a token. Prompts of different lengths are padded on the left; padding is neither attended to
    nor counted in positions. The shortest are answered first, at most `batch_size` at once. What is drawn for a prompt
    depends on the seed, the prompt's number and how many tokens it has got, whatever other prompts there are: its number
    is its place, unless `numbers` says another. Only the first `vocab_size` tokens can be drawn, and no prompt grows beyond
    `max_tokens`, itself included. `advance` is told at each step how many tokens it gave.

    The model writes as in use, without dropout, and is afterwards in the mode that it was in.

    Raises:
        ModelError: if the family cannot be asked for one token after another, as one without a key-value cache.
    """
    assert max_tokens is None or all(len(prompt) < max_tokens for prompt in prompts), (
        "a prompt has no room for an answer"
    )
    stops = torch.tensor(sorted(stop_ids_of(model) if stop_ids is None else stop_ids), dtype=torch.long)
    draws = [Random(f"{seed}, prompt {number}") for number in numbers or range(len(prompts))]
    written = [Continuation() for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    size = batch_size or max(1, len(order))
    with in_use(model):
        for start in range(0, len(order), size):
            rows = {row: prompts[row] for row in order[start : start + size]}
            writing = _Writing(model, rows, stops, vocab_size=vocab_size, max_tokens=max_tokens)
            for _ in range(sampling.max_new_tokens):
                advance(len(writing.alive))
                if not writing.goes_on(written, draws, sampling):
                    break
    return written


@contextmanager
def in_use(model: PreTrainedModel) -> Iterator[None]:
    """The model without dropout or gradient checkpointing, which only a model in training does."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Writing:
    """The rows still being written: what the model reads next, and what it remembers."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Mapping[int, Sequence[int]],
        stops: Int[Tensor, " stops"],
        *,
        vocab_size: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        assert all(prompts.values()), "an empty prompt has nothing to go on from"
        self.model, self.stops, self.vocab_size = model, stops.to(model.device), vocab_size
        self.alive = list(prompts)
        self.cache: Any = DynamicCache(config=model.config)
        self.ids, self.mask = left_padded(list(prompts.values()), device=model.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        readable = most_tokens(model)
        # The last token of a text is written, and never read.
        self.most_read = min(
            math.inf if limit is None else limit for limit in (readable, max_tokens and max_tokens - 1)
        )

    def goes_on(self, written: Sequence[Continuation], draws: Sequence[Random], sampling: Sampling) -> bool:
        """Write one more token in each row that is alive; whether there is any left to go on with."""
        logits = self._next_logits()
        points = torch.tensor([[draws[row].getrandbits(DRAW_BITS) / 2**DRAW_BITS] for row in self.alive])
        chosen = _draw(logits, sampling, points)  # [alive]
        logprobs = logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)
        for row, token, logprob in zip(self.alive, chosen.tolist(), logprobs.tolist(), strict=True):
            written[row].tokens.append(token)
            written[row].logprobs.append(logprob)
        going = ~torch.isin(chosen, self.stops) & self._has_room()
        if not going.any():
            return False
        self._read(chosen, going)
        return True

    @torch.no_grad()
    def _next_logits(self) -> Float[Tensor, "alive vocab"]:
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
        return output.logits[:, -1, : self.vocab_size].float()

    def _has_room(self) -> Bool[Tensor, " alive"]:
        """Where the model still has a position for one more token: beyond its last, GPT-2 fails and others rave."""
        return self.positions[:, -1] + 1 < self.most_read

    def _read(self, chosen: Int[Tensor, " alive"], going: Bool[Tensor, " alive"]) -> None:
        """Let each row that is still going have its chosen token, and the others leave."""
        if not going.all():
            keep = going.nonzero().squeeze(-1)
            self.cache.reorder_cache(keep)
            self.alive = [self.alive[row] for row in keep.tolist()]
        self.ids, self.positions = chosen[going, None], self.positions[going, -1:] + 1
        self.mask = torch.cat([self.mask[going], self.mask.new_ones(len(self.alive), 1)], dim=-1)


def left_padded(
    prompts: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Prompts as ids and attention mask."""
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
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = _likeliest(logits, sampling.top_k)
    probs = logits.softmax(-1)
    if sampling.top_p < 1:
        probs = _nucleus(probs, sampling.top_p)
    cumulative = probs.cumsum(-1)
    # A float32 below 1 is at most 1 - 2^-24, whose product rounds to less than the total: some token is always beyond it.
    point = points.to(cumulative.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def _likeliest(logits: Float[Tensor, "batch vocab"], top_k: int) -> Float[Tensor, "batch vocab"]:
    """Minus infinity for all but the `top_k` highest, and those as high as the last of them."""
    last = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < last, -torch.inf)


def _nucleus(probs: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Zero for all but the likeliest tokens that together reach `top_p`; not renormalised."""
    ranked, order = probs.sort(dim=-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probs.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)
