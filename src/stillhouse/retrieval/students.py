"""Retriever students: some layers of an embedding model, any checkpoint, or a vector a token and nothing else."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import num_layers
from stillhouse.students.build import student_from_layers

SIF = 1e-3
"""Above which share of all tokens one counts for less: Arora et al., 2017, 'A simple but tough-to-beat baseline'."""


def spread_evenly(keep: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Which of `depth` layers: those that are named, or so many from the first to the last, evenly.

    Raises:
        ModelError: if there are not so many.
    """
    kept = tuple(keep) if not isinstance(keep, int) else tuple(_even(keep, depth)) if 0 < keep <= depth else ()
    if not kept or max(kept) >= depth or list(kept) != sorted(set(kept)):
        raise ModelError(
            f"student.keep is {keep}, but the model has {depth} layers. Name a number up to it, or layers in rising order."
        )
    return kept


def _even(keep: int, depth: int) -> Iterable[int]:
    if keep == 1:
        return [depth - 1]
    return [round(number * (depth - 1) / (keep - 1)) for number in range(keep)]


def from_layers(model: Any, keep: int | Sequence[int]) -> Any:
    """A sentence-transformers model with only these of its layers; pooling and all that follows stay.

    Raises:
        ModelError: if its first part is no transformer, or layers cannot be left out.
    """
    if not hasattr(model[0], "model"):
        raise ModelError("student.model has no layers to choose from: it is no transformer. Use kind checkpoint.")
    body = model[0].model
    student = copy.deepcopy(model)
    student[0].model = student_from_layers(body, spread_evenly(keep, num_layers(body)))
    return student.eval()


def cross_encoder_from_layers(model: Any, keep: int | Sequence[int]) -> Any:
    """A cross-encoder with only these of its layers, and its head.

    Raises:
        ModelError: if layers cannot be left out.
    """
    student = copy.deepcopy(model)
    student[0].model = student_from_layers(model[0].model, spread_evenly(keep, num_layers(model[0].model)))
    return student.eval()


def static_student(model: Any, texts: Iterable[str], *, dimensions: int, batch_size: int = 256) -> Any:
    """A static embedding model: each token of a model's vocabulary, embedded by it once and alone; a text is their mean.

    As model2vec does, the vectors are turned to their principal axes, `dimensions` of them kept, and frequent tokens made
    small; how frequent a token is, the `texts` say. Nothing of the model is run any more to embed a text.

    Source: Tulkens and van Dongen, 2024, 'Model2Vec', doi:10.5281/zenodo.17270888; the weights, Arora et al., 2017.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    tokenizer = copy.deepcopy(model.tokenizer.backend_tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vectors = token_vectors(model, batch_size=batch_size)
    if not 1 <= dimensions <= vectors.shape[1]:
        raise ModelError(f"student.dimensions is {dimensions}, but the model's embeddings have {vectors.shape[1]}.")
    counts = np.zeros(len(vectors))
    for encoded in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        np.add.at(counts, encoded.ids, 1)
    weighted = principal(vectors, dimensions) * _frequency_weights(counts)[:, None]
    embedding = StaticEmbedding(tokenizer, embedding_weights=weighted.astype(np.float32))
    return SentenceTransformer(modules=[embedding, Normalize()], device=str(model.device))


def _frequency_weights(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = (counts + 1) / (counts + 1).sum()
    return np.asarray(SIF / (SIF + shares), dtype=np.float64)


@torch.no_grad()
def token_vectors(model: Any, *, batch_size: int = 256) -> NDArray[np.float32]:
    """What a sentence-transformers model makes of each token of its vocabulary alone: [vocab, width]."""
    device, made = model.device, []
    before, after = _around(model.tokenizer)
    for start in range(0, len(model.tokenizer), batch_size):
        ids = range(start, min(start + batch_size, len(model.tokenizer)))
        rows = torch.tensor([[*before, one, *after] for one in ids], device=device)
        output = model({"input_ids": rows, "attention_mask": torch.ones_like(rows)})
        made.append(output["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(made)


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a text stands between."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return list(ids[:first]), list(ids[last:])


def principal(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float64]:
    """The same vectors about their mean, turned so that the first numbers say most, and only `dimensions` of them."""
    centred = vectors.astype(np.float64) - vectors.mean(0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)[:dimensions]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])  # an axis has no direction of its own
    return np.asarray(centred @ (axes * signs)[:, order], dtype=np.float64)
