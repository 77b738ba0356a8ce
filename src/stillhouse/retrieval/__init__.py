"""Find the passages that answer a question: documents, embeddings, indexes, BM25, hard negatives and teachers' scores."""

from stillhouse.retrieval.documents import Corpus, Passage, read_corpus
from stillhouse.retrieval.hits import Hit, Retriever

__all__ = ["Corpus", "Hit", "Passage", "Retriever", "read_corpus"]
