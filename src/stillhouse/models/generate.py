"""Let a model write, in batch: finished rows leave the batch, and a seed gives the same text every time."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from stillhouse.core.config import Config


class Sampling(Config):
    """How the next token is drawn."""

    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw only from the likeliest tokens that together reach this share; 1 draws from all."""
    max_new_tokens: PositiveInt = 256
    """An answer is cut off here, and its end then not learnt as an end."""


def stop_ids_of(model: PreTrainedModel) -> set[int]:
    """All tokens that end a text: a generation config may name several."""
    stop = model.generation_config.eos_token_id
    return set() if stop is None else {stop} if isinstance(stop, int) else set(stop)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int,
    stop_ids: set[int] | None = None,
) -> list[list[int]]:
    """New tokens after each prompt, the stop token included where one was drawn.

    Every prompt must have a token. Prompts of different lengths are padded on the left; padding is neither attended to
    nor counted in positions.
    """
    stops = torch.tensor(sorted(stop_ids_of(model) if stop_ids is None else stop_ids), dtype=torch.long)
    draw = torch.Generator().manual_seed(seed)
    ids, mask = _left_padded(prompts)
    written: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(sampling.max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = _draw(output.logits[:, -1].float(), sampling, draw)  # [alive]
        for row, token in zip(alive, chosen.tolist(), strict=True):
            written[row].append(token)
        going = ~torch.isin(chosen, stops)
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
            alive = [alive[row] for row in keep.tolist()]
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)
    return written


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _draw(logits: Float[Tensor, "batch vocab"], sampling: Sampling, draw: torch.Generator) -> Int[Tensor, " batch"]:
    """One token a row, by inverting the cumulative distribution: one random number where `multinomial` takes `vocab`."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probs = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probs = _nucleus(probs, sampling.top_p)
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1:]
    point = torch.rand(len(probs), 1, generator=draw) * total
    # Rounding may lift the point to the total itself, beyond the last token that has any probability.
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def _nucleus(probs: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Zero for all but the likeliest tokens that together reach `top_p`; not renormalised."""
    ranked, order = probs.sort(dim=-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probs.masked_fill(outside.gather(-1, order.argsort(-1)), 0.0)
