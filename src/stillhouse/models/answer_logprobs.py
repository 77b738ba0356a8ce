"""How likely a model finds an answer: the sum over its tokens, without ever holding all logits of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from stillhouse.core.batch import Batch
from stillhouse.core.signals import FactoredLogits
from stillhouse.models.isolation import evaluating
from stillhouse.models.signals import factored_logits
from stillhouse.objectives.logprobs import to_logprobs

CHUNK_TOKENS = 256
"""Positions whose logits are multiplied out at once: with a vocabulary of 150,000 they take 150 MB."""


@dataclass(frozen=True)
class Answered:
    """A prompt and an answer to it, in tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.prompt, "the first token of a text is predicted by nothing"


def answer_logprobs(model: PreTrainedModel, rows: Sequence[Answered], *, batch_size: int = 8) -> list[float]:
    """Log-probability of each answer behind its prompt, in nats, summed over its tokens: at temperature 1, and of an empty
    answer 0. Rows of like length are read together.
    """
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].prompt) + len(rows[row].answer))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        sums = _sums(model, [rows[place] for place in places])
        for place, value in zip(places, sums.tolist(), strict=True):
            found[place] = value
    return found


@torch.no_grad()
def _sums(model: PreTrainedModel, rows: Sequence[Answered]) -> Float[Tensor, " rows"]:
    batch = one_a_row(rows).to(model.device)
    with evaluating(model):
        said = factored_logits(model, batch)
    logprobs = token_logprobs(said.at(batch.predicts), batch.targets)
    where = batch.predicts.nonzero()[:, 0]
    return torch.zeros(len(rows), dtype=torch.float64, device=model.device).index_add(0, where, logprobs.double())


def token_logprobs(said: FactoredLogits, targets: Tensor) -> Float[Tensor, " tokens"]:
    """Of each target, in nats, a few positions at a time."""
    found = [targets.new_zeros(0, dtype=torch.float32)]
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        chunk[start : start + CHUNK_TOKENS] = True
        logprobs = to_logprobs(said.at(chunk).dense())  # [tokens, vocab]
        found.append(logprobs.gather(-1, targets[chunk][:, None]).squeeze(-1))
    return torch.cat(found)


@torch.no_grad()
def next_logprobs(model: PreTrainedModel, prompt: Sequence[int]) -> Float[Tensor, " vocab"]:
    """Log-probability of every token that may come behind the prompt, in nats."""
    batch = one_a_row([Answered(tuple(prompt), ())]).to(model.device)
    with evaluating(model):
        said = factored_logits(model, batch)
    last = torch.zeros_like(batch.weights, dtype=torch.bool)
    last[0, -1] = True
    return to_logprobs(said.at(last).dense())[0]


def one_a_row(rows: Sequence[Answered]) -> Batch:
    """A batch in which only the answers carry weight."""
    width = max(len(row.prompt) + len(row.answer) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights, documents = torch.zeros(len(rows), width), torch.full((len(rows), width), -1)
    for number, row in enumerate(rows):
        whole = [*row.prompt, *row.answer]
        ids[number, : len(whole)] = torch.tensor(whole)
        weights[number, len(row.prompt) : len(whole)] = 1.0
        documents[number, : len(whole)] = 0
    return Batch(ids, torch.arange(width).expand(len(rows), width).clone(), documents, weights)
