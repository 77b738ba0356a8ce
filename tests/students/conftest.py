"""Tiny random encoders with any head, and batches for them."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch
from stillhouse.core.task import Task
from stillhouse.models.labels import name_labels
from stillhouse.models.load import LABELLED_TASKS, PROBLEM_TYPES, untrained

ENCODERS: dict[str, dict[str, object]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "norm_bias": True, "attention_bias": True},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
}
ENCODER_TASKS: tuple[Task, ...] = (
    "masked_lm",
    "sequence_classification",
    "regression",
    "token_classification",
    "sentence_embedding",
)
LABELS = ("anger", "joy", "fear")


def make_encoder(
    family: str = "bert", task: Task = "masked_lm", *, layers: int = 4, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A random encoder of this family for this task, `changes` being settings of its own."""
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "hidden_dim" if family == "distilbert" else "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "initializer_range": 0.2,
        **ENCODERS[family],
        **changes,
    }
    config = AutoConfig.for_model(family, **settings)
    if task in LABELLED_TASKS:
        name_labels(config, LABELS[:1] if task == "regression" else LABELS)
        config.problem_type = PROBLEM_TYPES.get(task)
    torch.manual_seed(seed)
    model = untrained(config, task, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # no bias is 0 and no norm is 1, so that leaving one out shows
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


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


@pytest.fixture(params=sorted(ENCODERS))
def encoder_family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ENCODER_TASKS)
def encoder_task(request: pytest.FixtureRequest) -> Task:
    task: Task = request.param
    return task


@pytest.fixture(scope="session")
def build_encoder() -> Callable[..., PreTrainedModel]:
    return make_encoder


@pytest.fixture(scope="session")
def build_batch() -> Callable[..., Batch]:
    return make_batch
