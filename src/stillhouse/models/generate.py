"""Let a model write, in batch: a finished row leaves to the next, and a seed gives the same text every time."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PretrainedConfig, PreTrainedModel

from stillhouse.core.config import Config
from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import most_tokens, understood
from stillhouse.models.slots import Slots, can_take_turns

DRAW_BITS = 24
"""As many as a float32 below 1 can have: with more, a draw could round to 1."""
NUCLEUS_TOKENS = 1024
"""Among which a nucleus is looked for first: to find so many takes a seventh of the time that sorting 50,000 does."""

PADDING_SHARE = 0.25
"""Of the tokens of prompts that are read at once. Where one is long, padding all to its width is most of the work."""
SMALL_PADDING = 32
"""Empty positions that cost less than another pass."""


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
    draw_logprobs: list[float] = field(default_factory=list)
    """With which probability each was drawn, in nats: 0 where nothing was left to chance."""


Engine = Callable[..., list[Continuation]]
"""Who writes: `sample` of a model, or another with the rest of its signature."""


@runtime_checkable
class Hosted(Protocol):
    """A model that another engine runs: it has no modules here, and writes by itself."""

    config: PretrainedConfig
    generation_config: GenerationConfig

    def write(
        self,
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
        """As `sample`, which asks it."""

    def next_logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Float[Tensor, "prompts tokens"]:
        """What it gives each of these tokens behind each prompt, in nats."""


Speaker = PreTrainedModel | Hosted
"""Whatever `sample` can let write."""


def stop_ids_of(model: Speaker) -> set[int]:
    """All tokens that end a text: a generation config may name several."""
    stop = model.generation_config.eos_token_id
    return set() if stop is None else {stop} if isinstance(stop, int) else set(stop)


def generate(
    model: Speaker,
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
    model: Speaker,
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
    assert all(prompts), "an empty prompt has nothing to go on from"
    assert max_tokens is None or all(len(prompt) < max_tokens for prompt in prompts), (
        "a prompt has no room for an answer"
    )
    if isinstance(model, Hosted):
        return model.write(
            prompts,
            sampling=sampling,
            seed=seed,
            numbers=numbers,
            stop_ids=stop_ids,
            vocab_size=vocab_size,
            max_tokens=max_tokens,
            batch_size=batch_size,
            advance=advance,
        )
    draws = [Random(f"{seed}, prompt {number}") for number in numbers or range(len(prompts))]
    stops = stop_ids_of(model) if stop_ids is None else stop_ids
    texts = _Texts(prompts, draws, sampling, stops, vocab_size, _most_read(model, max_tokens), advance)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    with in_use(model):
        if can_take_turns(model):
            _take_turns(model, texts, order, num_slots=batch_size or len(order))
        else:
            for start in range(0, len(order), batch_size or max(1, len(order))):
                deque(_write_together(model, texts, order[start : start + (batch_size or len(order))]), maxlen=0)
    return texts.written


def stream(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    sampling: Sampling,
    seed: int | str,
    stop_ids: set[int] | None = None,
    vocab_size: int | None = None,
) -> Generator[int, None, None]:
    """The tokens that `sample` writes after this prompt alone, each as soon as it is drawn.

    Raises:
        ModelError: as `sample`.
    """
    stops = stop_ids_of(model) if stop_ids is None else stop_ids
    draws, most_read = [Random(f"{seed}, prompt 0")], _most_read(model, None)
    texts = _Texts([prompt], draws, sampling, stops, vocab_size, most_read, lambda num_tokens: None)
    with in_use(model):
        for _ in _write_together(model, texts, [0]):
            yield texts.written[0].tokens[-1]


def _most_read(model: PreTrainedModel, max_tokens: int | None) -> float:
    """How many tokens of a text may be read: beyond its last position, GPT-2 fails and others rave. The last token of a
    text is written, and never read.
    """
    limits = (most_tokens(model), None if max_tokens is None else max_tokens - 1)
    return min(math.inf if limit is None else limit for limit in limits)


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


class _Texts:
    """The prompts and what has been written after them."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Random],
        sampling: Sampling,
        stops: set[int],
        vocab_size: int | None,
        most_read: float,
        advance: Callable[[int], None],
    ) -> None:
        self.prompts, self.draws, self.sampling, self.stops = prompts, draws, sampling, stops
        self.vocab_size, self.most_read, self.advance = vocab_size, most_read, advance
        self.written = [Continuation() for _ in prompts]

    def write(self, rows: Sequence[int], logits: Float[Tensor, "rows 1 vocab"]) -> list[bool]:
        """One more token in each of these rows, from what the model says comes next; which of them go on."""
        logits = logits[:, -1, : self.vocab_size].float()
        probs = probabilities(logits, self.sampling)
        chosen = drawn_at(probs, points_of(self.draws, rows))
        write_down(self.written, rows, chosen, logits=logits, probs=probs)
        self.advance(len(rows))
        return [self._goes_on(row) for row in rows]

    def _goes_on(self, row: int) -> bool:
        tokens = self.written[row].tokens
        has_room = len(tokens) < self.sampling.max_new_tokens and self.num_tokens(row) <= self.most_read
        return has_room and tokens[-1] not in self.stops

    def num_tokens(self, row: int) -> int:
        """How long a text is, with its prompt."""
        return len(self.prompts[row]) + len(self.written[row].tokens)

    def last(self, row: int) -> int:
        """The token of a text that is read next."""
        return [*self.prompts[row][-1:], *self.written[row].tokens[-1:]][-1]

    @property
    def longest(self) -> int:
        """How long any text can grow."""
        whole = max(map(len, self.prompts)) + self.sampling.max_new_tokens
        return int(min(whole, max(self.most_read, max(map(len, self.prompts))) + 1))


def _take_turns(model: PreTrainedModel, texts: _Texts, order: Sequence[int], *, num_slots: int) -> None:
    """Write texts in slots: who has finished is replaced at once, and nobody else waits or is computed for nothing.

    The first slots are always in use. A prompt is read up to its last token when it gets a slot; that token is then read
    together with the newest of all other texts.
    """
    if not order:
        return
    longest_prompt = max(len(texts.prompts[row]) for row in order)
    cache = Slots(model, slots=min(num_slots, len(order)), prompt=longest_prompt - 1, most=texts.longest)
    waiting, at_work = deque(order), list[int]()
    while waiting or at_work:
        free = range(len(at_work), min(num_slots, len(at_work) + len(waiting)))
        at_work += [waiting.popleft() for _ in free]
        for group in _of_like_length({slot: texts.prompts[at_work[slot]][:-1] for slot in free}):
            _read_beginnings(model, cache, group)
        going = texts.write(at_work, _read_newest(model, cache, texts, at_work))
        for slot in reversed([slot for slot, goes in enumerate(going) if not goes]):
            last = len(at_work) - 1
            if slot != last:
                cache.move(last, slot)
                at_work[slot] = at_work[last]
            at_work.pop()


def _of_like_length(prompts: Mapping[int, Sequence[int]]) -> list[dict[int, Sequence[int]]]:
    """Those with any token, the shortest first, in groups that are worth a pass of their own rather than padding."""
    groups: list[dict[int, Sequence[int]]] = []
    for slot in sorted((slot for slot, prompt in prompts.items() if prompt), key=lambda slot: len(prompts[slot])):
        together = [*(groups[-1].values() if groups else ()), prompts[slot]]
        padding = len(together) * len(prompts[slot]) - sum(map(len, together))
        if len(together) == 1 or padding > max(SMALL_PADDING, PADDING_SHARE * sum(map(len, together))):
            groups.append({})
        groups[-1][slot] = prompts[slot]
    return groups


def _read_beginnings(model: PreTrainedModel, cache: Slots, prompts: Mapping[int, Sequence[int]]) -> None:
    """Let the model read new texts into their slots."""
    ids, mask = left_padded(list(prompts.values()), device=model.device)
    cache.begin(list(prompts))
    logits_of(model, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)


def _read_newest(
    model: PreTrainedModel, cache: Slots, texts: _Texts, rows: Sequence[int]
) -> Float[Tensor, "rows 1 vocab"]:
    """Let the model read the last token of each text, and say what comes next."""
    lengths = torch.tensor([[texts.num_tokens(row)] for row in rows], device=model.device)
    longest = int(lengths.max())
    ids = torch.tensor([[texts.last(row)] for row in rows], device=model.device)
    mask = (torch.arange(longest, device=model.device) >= longest - lengths).long()
    cache.go_on(len(rows), longest=longest)
    logits = logits_of(model, ids, mask, lengths - 1, cache)
    cache.advance()
    return logits


def _write_together(model: PreTrainedModel, texts: _Texts, rows: list[int]) -> Iterator[None]:
    """Write texts that begin together, with whatever the family remembers of them, and pause behind each token; who has
    finished leaves.
    """
    cache: Any = DynamicCache(config=model.config)
    ids, mask = left_padded([texts.prompts[row] for row in rows], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    while rows:
        going = texts.write(rows, logits_of(model, ids, mask, positions, cache))
        yield
        rows = [row for row, goes in zip(rows, going, strict=True) if goes]
        keep = torch.tensor(going, device=model.device).nonzero().squeeze(-1)
        if len(keep) < len(going):
            cache.reorder_cache(keep)
        ids = torch.tensor([[texts.last(row)] for row in rows], device=model.device)
        positions = positions[keep, -1:] + 1
        mask = torch.cat([mask[keep], mask.new_ones(len(rows), 1)], dim=-1)


@torch.no_grad()
def logits_of(
    model: PreTrainedModel,
    ids: Int[Tensor, "rows seq"],
    mask: Int[Tensor, "rows columns"],
    positions: Int[Tensor, "rows seq"],
    cache: Any,
) -> Float[Tensor, "rows some vocab"]:
    """What the model says comes next after the last token of each row: last of all that it says."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **understood(model, position_ids=positions, logits_to_keep=1),
    )
    if getattr(output, "past_key_values", None) is not cache:
        raise ModelError(
            f"{type(model).__name__} keeps no key-value cache that stillhouse can use, so it cannot write text. "
            "As a teacher it can still label text that you have."
        )
    logits: Tensor = output.logits
    return logits


def left_padded(
    prompts: Sequence[Sequence[int]], *, device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Ids that end together, and where there are any."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def points_of(draws: Sequence[Random], rows: Sequence[int]) -> Float[Tensor, "rows 1"]:
    """The next random number in [0, 1) of each of these rows."""
    return torch.tensor([[draws[row].getrandbits(DRAW_BITS) / 2**DRAW_BITS] for row in rows])


def probabilities(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float[Tensor, "batch vocab"]:
    """With which each token is drawn."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = _likeliest(logits, sampling.top_k)
    probs = logits.softmax(-1)
    return probs if sampling.top_p == 1 else _nucleus(probs, sampling.top_p)


def drawn_at(probs: Float[Tensor, "batch vocab"], points: Float[Tensor, "batch 1"]) -> Int[Tensor, " batch"]:
    """One token a row, by inverting the cumulative distribution at `points` in [0, 1): one random number a row, where
    `multinomial` takes one a token.
    """
    cumulative = probs.cumsum(-1)
    # A float32 below 1 is at most 1 - 2^-24, whose product rounds to less than the total: some token is always beyond it.
    point = points.to(cumulative.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def write_down(
    written: Sequence[Continuation],
    rows: Sequence[int],
    chosen: Int[Tensor, " rows"],
    *,
    logits: Float[Tensor, "rows vocab"],
    probs: Float[Tensor, "rows vocab"],
) -> None:
    """Add a token to each of these rows: what the model gives it by its logits, and with which probability it was drawn."""
    at_chosen = chosen[:, None]
    logprobs = logits.gather(-1, at_chosen).squeeze(-1) - logits.logsumexp(-1)
    draw_logprobs = probs.gather(-1, at_chosen).squeeze(-1).log()
    told = zip(rows, chosen.tolist(), logprobs.tolist(), draw_logprobs.tolist(), strict=True)
    for row, token, logprob, draw_logprob in told:
        written[row].tokens.append(token)
        written[row].logprobs.append(logprob)
        written[row].draw_logprobs.append(draw_logprob)


def _likeliest(logits: Float[Tensor, "batch vocab"], top_k: int) -> Float[Tensor, "batch vocab"]:
    """Minus infinity for all but the `top_k` highest, and those as high as the last of them."""
    last = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < last, -torch.inf)


def _nucleus(
    probs: Float[Tensor, "batch vocab"], top_p: float, among: int = NUCLEUS_TOKENS
) -> Float[Tensor, "batch vocab"]:
    """Zero for all but the likeliest tokens that together reach `top_p`; those sum to 1 again.

    The vocabulary is sorted only for rows in which the first `among` do not reach it.
    """
    vocab_size = probs.shape[-1]
    ranked, order = probs.topk(min(among, vocab_size), dim=-1)
    inside = ranked.cumsum(-1) - ranked < top_p
    kept = torch.zeros_like(probs).scatter_(-1, order, ranked * inside)
    kept /= kept.sum(-1, keepdim=True)
    if among < vocab_size and (wide := inside[:, -1]).any():
        kept[wide] = _nucleus(probs[wide], top_p, among=vocab_size)
    return kept
