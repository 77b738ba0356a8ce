"""Whether two models' answers to one prompt mean alike, by the cosine of their embeddings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.likeness import OutputLikeness
from stillhouse.core.results import Role
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.embeddings import embed
from stillhouse.evaluation.intervals import bootstrapped, ratio
from stillhouse.evaluation.layers import random_pairs
from stillhouse.evaluation.statistics import Embeddings, normalised
from stillhouse.models.load import load_model

Embed = Callable[[Sequence[str]], Embeddings]
"""Texts to embeddings: [texts, width]."""

MOST_TOKENS = 256
"""Tokens of an answer that are embedded."""


def output_likeness(written: Mapping[Role, Sequence[str]], embed_texts: Embed) -> list[OutputLikeness]:
    """Every model but the teacher: its answers beside the teacher's to the same prompts, and to others."""
    found = {role: normalised(embed_texts(texts).astype(np.float64)) for role, texts in written.items()}
    theirs, prompts = found["teacher"], np.arange(len(found["teacher"]))
    result = []
    for role, ours in found.items():
        if role == "teacher":
            continue
        same = (ours * theirs).sum(-1)
        statistics = {"same": ratio(same, np.ones_like(same)), "random": random_pairs(ours, theirs, prompts)}
        sampled = bootstrapped(statistics, set_sizes=[len(prompts)])
        same_found, random = sampled["same"], sampled["random"]
        result.append(
            OutputLikeness(role, same_found.interval(), random.interval(), same_found.minus(random).interval())
        )
    return result


def embedded_by_model(source: str | Path) -> Embed:
    """A sentence embedding model of the user's: with the pooling that its folder names.

    Raises:
        ModelError: if it is no such model.
    """
    loaded = load_model(str(source), "sentence_embedding")
    assert loaded.pooling is not None

    def embed_texts(texts: Sequence[str]) -> Embeddings:
        examples = [_whole(loaded.tokenizer, text, special=True) for text in texts]
        return embed(loaded.model, [to_batch([[one]]) for one in examples], pooling=loaded.pooling or "mean")

    return embed_texts


def embedded_by_states(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Embed:
    """The mean of the teacher's own last states: at hand without a download, and no judge of meaning that was ever trained."""

    def embed_texts(texts: Sequence[str]) -> Embeddings:
        batches = [to_batch([[_whole(tokenizer, text, special=False)]]) for text in texts]
        return embed(teacher, batches, pooling="mean")

    return embed_texts


def _whole(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> Example:
    """A text to read; one without any token is read as the end of a text."""
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])[:MOST_TOKENS]
    if not ids:
        ids = [tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0]
    return Example(tuple(ids), (0.0,) * len(ids))
