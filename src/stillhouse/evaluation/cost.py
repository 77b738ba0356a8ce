"""What a model costs to keep and to run, measured here."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from stillhouse.core.files import size_on_disk
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.results import Cost
from stillhouse.evaluation.intervals import spread
from stillhouse.models.anatomy import decoder_config, parameter_count
from stillhouse.models.generate import Sampling, generate

PREFILL_TOKENS = 256
DECODE_TOKENS = 24
REPEATS = 5

Name = TypeVar("Name")


def measure_costs(
    models: Mapping[Name, PreTrainedModel], folders: Mapping[Name, Path], *, progress: Progress = SILENT
) -> dict[Name, Cost]:
    """Sizes, and speeds at batch 1: median, slowest and fastest of several repeats after a warm-up.

    The models take turns, so that a busy moment of the machine falls on all alike.
    """
    prefill_tokens = min(PREFILL_TOKENS, *(_most_positions(model) for model in models.values()))
    prefill: dict[Name, list[float]] = {name: [] for name in models}
    decode: dict[Name, list[float]] = {name: [] for name in models}
    for repeat in range(REPEATS + 1):
        for name, model in models.items():
            rates = _rate(prefill_tokens, partial(_prefill, model)), _rate(DECODE_TOKENS, partial(_decode, model))
            if repeat > 0:  # the first is the warm-up
                prefill[name].append(rates[0])
                decode[name].append(rates[1])
            progress.advance(1)
    return {
        name: Cost(
            parameters=parameter_count(model),
            parameters_without_embeddings=parameter_count(model, embeddings=False),
            disk_bytes=sum(size_on_disk(file) for file in folders[name].glob("*.safetensors")),
            prefill_tokens_per_second=spread(prefill[name]),
            decode_tokens_per_second=spread(decode[name]),
        )
        for name, model in models.items()
    }


def _most_positions(model: PreTrainedModel) -> int:
    return getattr(decoder_config(model), "max_position_embeddings", None) or PREFILL_TOKENS


def _rate(tokens: int, work: Callable[[int], object]) -> float:
    started = time.perf_counter()
    work(tokens)
    return tokens / (time.perf_counter() - started)


@torch.no_grad()
def _prefill(model: PreTrainedModel, tokens: int) -> None:
    model(input_ids=torch.ones(1, tokens, dtype=torch.long), use_cache=False)


def _decode(model: PreTrainedModel, tokens: int) -> None:
    generate(model, [[1]], sampling=Sampling(temperature=0, max_new_tokens=tokens), seed=0, stop_ids=set())
