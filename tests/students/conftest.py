"""Batches for tiny encoders with any head."""

from collections.abc import Callable

import pytest
import torch

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch
from stillhouse.core.task import Task

ENCODER_TASKS: tuple[Task, ...] = (
    "masked_lm",
    "sequence_classification",
    "regression",
    "token_classification",
    "sentence_embedding",
)
LABELS = ("anger", "joy", "fear")


def make_batch(task: Task, *, lengths: tuple[int, ...] = (24, 16), width: int | None = None, seed: int = 0) -> Batch:
    """Documents of random tokens, one a row, with labels where the task has them; some of the tokens are hidden."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(lengths), width or max(lengths))
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.zeros(shape, dtype=torch.long)
    ids[real] = torch.randint(5, 300, (sum(lengths),), generator=draw)
    places = torch.arange(shape[1]).expand(shape).contiguous(), real.long() - 1
    if task == "masked_lm":
        hidden = real & (torch.arange(shape[1]) % 3 == 1)
        return TaggedBatch(ids.masked_fill(hidden, 4), *places, hidden.float(), ids)
    if task == "token_classification":
        return TaggedBatch(ids, *places, real.float(), ids % len(LABELS))
    if task in ("sequence_classification", "regression"):
        labels = torch.zeros(len(lengths), dtype=torch.long if task == "sequence_classification" else torch.float)
        return LabelledBatch(ids, *places, torch.zeros(shape), labels, torch.ones(len(lengths)))
    return Batch(ids, *places, torch.zeros(shape))


@pytest.fixture(params=ENCODER_TASKS)
def encoder_task(request: pytest.FixtureRequest) -> Task:
    task: Task = request.param
    return task


@pytest.fixture(scope="session")
def build_batch() -> Callable[..., Batch]:
    return make_batch
