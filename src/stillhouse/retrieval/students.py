"""Retriever students: some layers of an embedding model, any checkpoint, or a vector a token and nothing else."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

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


def fitted(student: Any, texts: Sequence[str], embeddings: NDArray[np.floating[Any]], *, ridge: float) -> Any:
    """A static student whose embeddings of `texts` are as near as they get to these, another model's of the same texts.

    A static embedding is linear in its tokens' vectors, so that the nearest solve a least-squares problem: what an embedding of
    many texts says about a token, all at once, instead of what the model makes of the token alone. `ridge` holds each vector to
    what it was; a token that no text has stays as it is. What is wanted is first turned into the student's own axes, as it must
    be where widths differ, which changes no cosine.

    Raises:
        ModelError: if the student is no static model.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    module = student[0]
    if not isinstance(module, StaticEmbedding):
        raise ModelError("only a static student can be fitted: this one has layers. Use imitation.kind embeddings.")
    before = module.embedding.weight.detach().cpu().numpy().astype(np.float64)
    shares = token_shares(module.tokenizer, texts, vocabulary=len(before))
    made = np.asarray(shares @ before)
    wanted = turned_towards(made, embeddings.astype(np.float64))
    vectors = before + ridge_solution(shares, wanted - made, ridge=ridge)
    found = copy.deepcopy(student)
    with torch.no_grad():
        found[0].embedding.weight.copy_(torch.from_numpy(vectors))
    return found.eval()


def token_shares(tokenizer: Any, texts: Sequence[str], *, vocabulary: int) -> csr_array:
    """Of each text, which share of its tokens each one is: [texts, vocabulary]."""
    encoded = [one.ids for one in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    ends = np.cumsum([0, *(len(ids) for ids in encoded)])
    ids = np.concatenate([np.asarray(one, dtype=np.int64) for one in encoded])
    values = np.repeat(1 / np.maximum(np.diff(ends), 1), np.diff(ends))
    shares = csr_array((values, ids, ends), shape=(len(texts), vocabulary))
    shares.sum_duplicates()
    return shares


def turned_towards(made: NDArray[np.float64], embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """The embeddings in as many numbers as `made` has, those that keep most of them, turned and scaled as a whole to lie
    as near to `made` as they can: cosines between them stay. [texts, width]

    Source: Schönemann, 1966, 'A generalized solution of the orthogonal Procrustes problem'.
    """
    width = made.shape[1]
    _, axes = np.linalg.eigh(embeddings.T @ embeddings)
    kept = embeddings @ axes[:, ::-1][:, :width]
    kept = np.pad(kept, ((0, 0), (0, width - kept.shape[1])))
    left, _, right = np.linalg.svd(kept.T @ made)
    turned = kept @ (left @ right)
    return np.asarray(turned * (turned * made).sum() / max(float((turned**2).sum()), 1e-12))


def ridge_solution(
    shares: csr_array, wanted: NDArray[np.float64], *, ridge: float, tolerance: float = 1e-6, most_steps: int = 500
) -> NDArray[np.float64]:
    """What minimises |shares @ change - wanted|^2 + ridge |change|^2, by conjugate gradients, all columns at once, with the
    diagonal as the preconditioner: [vocabulary, width]."""
    diagonal = (np.asarray((shares * shares).sum(0)) + ridge)[:, None]
    change = np.zeros((shares.shape[1], wanted.shape[1]))
    left = np.asarray(shares.T @ wanted)
    first = np.sqrt((left**2).sum(0))
    towards = near = left / diagonal
    size = (left * near).sum(0)
    for _ in range(most_steps):
        if (np.sqrt((left**2).sum(0)) <= tolerance * first).all():
            break
        through = np.asarray(shares.T @ (shares @ towards)) + ridge * towards
        step = size / np.maximum((towards * through).sum(0), 1e-300)
        change, left = change + step * towards, left - step * through
        near = left / diagonal
        before, size = size, (left * near).sum(0)
        towards = near + size / np.maximum(before, 1e-300) * towards
    return change


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
