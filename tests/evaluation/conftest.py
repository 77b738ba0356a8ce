"""Tiny random encoders of every kind, and held-out batches for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)

from stillhouse.core.batch import Batch, LabelledBatch, TaggedBatch
from stillhouse.core.task import Task
from stillhouse.evaluation.compare import Contestant

VOCAB = 90
KINDS: dict[Task, Any] = {
    "masked_lm": BertForMaskedLM,
    "sequence_classification": BertForSequenceClassification,
    "regression": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "sentence_embedding": BertModel,
}


def make_encoder(task: Task, *, seed: int = 0, layers: int = 2, hidden: int = 16, classes: int = 3) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=1 if task == "regression" else classes,
    )
    return KINDS[task](config).eval()


def make_batches(task: Task, *, sizes: tuple[int, ...] = (5, 4, 3), seed: int = 0, classes: int = 3) -> list[Batch]:
    """Right-padded batches of random documents, of which about a third of the tokens are judged where tokens are."""
    random = torch.Generator().manual_seed(seed)
    batches: list[Batch] = []
    for size in sizes:
        lengths = torch.randint(4, 12, (size,), generator=random)
        places = torch.arange(int(lengths.max())).expand(size, -1)
        real = places < lengths[:, None]
        ids = torch.randint(5, VOCAB, places.shape, generator=random) * real
        plain = (ids, places, real.long() - 1, torch.zeros(places.shape))
        hidden = (torch.rand(places.shape, generator=random) < 0.3) & real
        match task:
            case "masked_lm":
                batches.append(TaggedBatch(*plain[:3], hidden.float(), ids))
            case "token_classification":
                tags = torch.randint(0, classes, places.shape, generator=random)
                batches.append(TaggedBatch(*plain[:3], real.float(), tags))
            case "sequence_classification":
                labels = torch.randint(0, classes, (size,), generator=random)
                batches.append(LabelledBatch(*plain, labels, torch.ones(size)))
            case "regression":
                batches.append(LabelledBatch(*plain, torch.randn(size, generator=random), torch.ones(size)))
            case _:
                batches.append(Batch(*plain))
    return batches


@pytest.fixture
def build_encoder() -> Callable[..., PreTrainedModel]:
    return make_encoder


@pytest.fixture
def build_batches() -> Callable[..., list[Batch]]:
    return make_batches


@pytest.fixture
def encoders(tmp_path) -> Callable[..., list[Contestant]]:
    """Teacher, control and student of one task, each saved to its folder."""

    def built(task: Task, **changes: Any) -> list[Contestant]:
        models = {
            "teacher": make_encoder(task, seed=1, layers=4),
            "control_hard_labels": make_encoder(task, seed=2, **changes),
            "student": make_encoder(task, seed=3, **changes),
        }
        for role, model in models.items():
            model.save_pretrained(tmp_path / role)
        return [Contestant(role, f"the {role}", model, tmp_path / role) for role, model in models.items()]

    return built
