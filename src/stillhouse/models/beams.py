"""The likeliest things that a model could write, by transformers' own beam search."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from stillhouse.models.anatomy import most_tokens
from stillhouse.models.generate import in_use, left_padded


def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    length_penalty: float,
    max_new_tokens: int,
    stop_ids: set[int],
    vocab_size: int,
    max_tokens: int | None = None,
    batch_size: int | None = None,
) -> list[list[list[int]]]:
    """The `beams` best answers that were found to each prompt, the best first, each with its stop token where it has one.

    The best has the highest log-probability divided by the number of its tokens to the power of `length_penalty`: at 0 that
    is the likeliest answer, at 1 the one whose tokens are the likeliest on average. At most `batch_size` are written at once,
    those of all beams counted. Only the first `vocab_size` tokens can be written, and no prompt grows beyond `max_tokens`,
    itself included. The model's own generation config, with its penalties, has no say.
    """
    found: dict[int, list[list[int]]] = {}
    size = max(1, (batch_size or len(prompts) * beams) // beams)
    most = min(limit for limit in (max_tokens, most_tokens(model), 2**62) if limit is not None)
    rooms = [min(max_new_tokens, most - len(prompt)) for prompt in prompts]
    with in_use(model), _its_own_config_aside(model):
        for room in sorted(set(rooms)):
            # One limit holds for all that are written together: who has less room than others is asked apart from them.
            rows = sorted((row for row in range(len(prompts)) if rooms[row] == room), key=lambda row: len(prompts[row]))
            for start in range(0, len(rows), size):
                asked = rows[start : start + size]
                config = _config(beams, length_penalty, room, stop_ids)
                said = _search(model, [prompts[row] for row in asked], config, vocab_size)
                found |= {row: said[place * beams : (place + 1) * beams] for place, row in enumerate(asked)}
    return [found[row] for row in range(len(prompts))]


def _config(beams: int, length_penalty: float, max_new_tokens: int, stop_ids: set[int]) -> GenerationConfig:
    stops = sorted(stop_ids)
    return GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=length_penalty if beams > 1 else None,  # a single beam has none, and says so
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
        renormalize_logits=True,
    )


@torch.no_grad()
def _search(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig, vocab_size: int
) -> list[list[int]]:
    ids, mask = left_padded(prompts, device=model.device)
    written = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([_OnlyTokens(vocab_size)]),
    )
    stops = set(config.eos_token_id or ())
    return [_to_its_end(answer, stops) for answer in written[:, ids.shape[1] :].tolist()]


def _to_its_end(answer: list[int], stops: set[int]) -> list[int]:
    """Up to the first stop token, which is kept: padding follows."""
    return answer[: next((place for place, token in enumerate(answer, 1) if token in stops), len(answer))]


class _OnlyTokens(LogitsProcessor):
    """What pads a head beyond the tokenizer's tokens is never written."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def __call__(
        self, input_ids: Int[Tensor, "batch seq"], scores: Float[Tensor, "batch vocab"]
    ) -> Float[Tensor, "batch vocab"]:
        scores[:, self.vocab_size :] = -torch.inf
        return scores


@contextmanager
def _its_own_config_aside(model: PreTrainedModel) -> Iterator[None]:
    """What a call leaves open, transformers takes from the model's own generation config: penalties for words said twice."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
