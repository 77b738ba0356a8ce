"""Texts to vectors, by any sentence-transformers model: queries and documents each in their own way, where it has two."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import ModelError
from stillhouse.core.files import fingerprint_files
from stillhouse.models.load import refuse_pickled, source_fingerprint

Similarity = Literal["cosine", "dot"]
"""How two embeddings are compared: by direction alone, or by direction and length."""

Vectors = NDArray[np.float32]
"""[texts, width]."""

TEXTS_TOGETHER = 1024
"""Many batches, so that sorting by length leaves little padding."""


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors whose dot product is the similarity: of length 1 where that is the cosine."""

    @property
    def similarity(self) -> Similarity:
        """How two of them are compared."""
        ...

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One vector a query."""
        ...

    def documents(self, texts: Sequence[str]) -> Vectors:
        """One vector a document."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model. Prompts and separate encoders for queries and documents are the model's own."""

    def __init__(
        self, model: Any, *, similarity: Similarity | None = None, dimensions: int | None = None, batch_size: int = 32
    ) -> None:
        width = model.get_embedding_dimension()
        if dimensions is not None and not 1 <= dimensions <= width:
            raise ModelError(f"dimensions is {dimensions}, but this model's embeddings have {width}.")
        self.model = model
        self.similarity: Similarity = similarity or own_similarity(model)
        self.dimensions, self.batch_size = dimensions, batch_size

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One vector a query; one of any length, as far as the model reads."""
        return self._finished(self.model.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """One vector a document, as far as the model reads."""
        return self._finished(self.model.encode_document, texts)

    def _finished(self, encode: Any, texts: Sequence[str]) -> Vectors:
        width = width_of(self)
        if not texts:
            return np.zeros((0, width), dtype=np.float32)
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "show_progress_bar": False,
            "convert_to_numpy": True,
        }
        vectors = np.concatenate([np.asarray(encode(list(some), **options)) for some in together(texts)])
        return shortened(np.asarray(vectors, dtype=np.float32), width, similarity=self.similarity)


def together(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts by who is embedded together. A model sorts them by length and takes them in batches, and a vector's last bits
    depend on its batch: of these some, whoever embeds them, it is the same."""
    for start in range(0, len(texts), TEXTS_TOGETHER):
        yield texts[start : start + TEXTS_TOGETHER]


def width_of(embedder: SentenceEmbedder) -> int:
    """Numbers of each vector."""
    return int(embedder.dimensions or embedder.model.get_embedding_dimension())


def own_similarity(model: Any) -> Similarity:
    """How a model says that its embeddings are to be compared; the cosine where it says nothing that we have."""
    return "dot" if str(model.similarity_fn_name) == "dot" else "cosine"


def shortened(vectors: Vectors, width: int, *, similarity: Similarity) -> Vectors:
    """The first `width` numbers of each vector; of length 1 again only where directions alone are compared."""
    kept = np.ascontiguousarray(vectors[:, :width])
    if similarity == "dot":
        return kept
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.maximum(lengths, 1e-12), dtype=np.float32)


def load_sentence_model(source: str, *, max_tokens: int | None = None) -> Any:
    """The sentence-transformers model in a folder or under a hub id; no code that comes with it is run.

    Raises:
        ModelError: naming it, if it is not there or is none.
    """
    from sentence_transformers import SentenceTransformer

    path = Path(source).expanduser()
    if source.startswith((".", "/", "~")) and not path.exists():
        raise ModelError(f"the model {source!r} is no existing folder.")
    refuse_pickled(source)
    try:
        model = SentenceTransformer(str(path) if path.exists() else source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{source!r} cannot be loaded as a sentence-transformers model: {reason}") from error
    reads = model.max_seq_length
    # A static model reads a text of any length, and cannot be told otherwise.
    if max_tokens is not None and reads != math.inf and (reads or max_tokens + 1) > max_tokens:
        model.max_seq_length = max_tokens
    return model.eval()


def load_embedder(
    source: str,
    *,
    similarity: Similarity | None = None,
    dimensions: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 32,
) -> SentenceEmbedder:
    """What embeds queries and documents by the model that `source` names; its own similarity, if none is given.

    Raises:
        ModelError: as `load_sentence_model`, or if it has fewer dimensions.
    """
    model = load_sentence_model(source, max_tokens=max_tokens)
    return SentenceEmbedder(model, similarity=similarity, dimensions=dimensions, batch_size=batch_size)


def model_fingerprint(source: str) -> str:
    """Hash of a model's files, those in its modules' folders too; of a hub id, as `source_fingerprint`."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return source_fingerprint(source)
    kept = (".safetensors", ".json", ".txt", ".model")
    return fingerprint_files(file for file in path.rglob("*") if file.suffix in kept)
