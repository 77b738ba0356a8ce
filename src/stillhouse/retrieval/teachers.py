"""Who scores a passage for a question: a cross-encoder, a bi-encoder, or a language model that has to give the answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stillhouse.core.errors import ModelError
from stillhouse.core.files import fingerprint
from stillhouse.models.answer_logprobs import Answered, answer_logprobs
from stillhouse.models.load import load_causal_lm, refuse_pickled
from stillhouse.retrieval.embed import SentenceEmbedder, Similarity, Vectors, load_embedder, model_fingerprint

Output = Literal["logits", "similarity", "probability", "logprob"]
"""In which unit scores are: logits have no bounds, similarities are dot products or cosines, probabilities lie in [0, 1]."""

Pair = tuple[str, str]
"""A question and a passage."""

Scores = NDArray[np.float32]
"""[pairs]."""


@runtime_checkable
class RankingTeacher(Protocol):
    """Scores passages for questions; more is better, and only scores of the same question need compare."""

    @property
    def output(self) -> Output:
        """In which unit they are."""
        ...

    @property
    def identity(self) -> str:
        """Hash of all that its scores depend on: weights, prompts, lengths, precision, and in which unit they are."""
        ...

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """One number a pair."""
        ...


class CrossEncoderTeacher:
    """Reads a question and a passage together, and says one raw logit: never its sigmoid."""

    output: Output = "logits"

    def __init__(self, source: str, *, max_tokens: int = 256, batch_size: int = 32) -> None:
        from sentence_transformers import CrossEncoder

        self.source, self.max_tokens, self.batch_size = source, max_tokens, batch_size
        refuse_pickled(source)
        try:
            self.model = CrossEncoder(source, max_length=max_tokens, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"teacher.model {source!r} cannot be loaded as a cross-encoder: {_line(error)}") from error
        if self.model.num_labels != 1:
            raise ModelError(
                f"teacher.model {source!r} tells {self.model.num_labels} classes apart, and a teacher of rankings gives one "
                "number. Name a cross-encoder with one label."
            )

    @property
    def identity(self) -> str:
        """Hash of weights, length, precision and unit."""
        dtype = str(next(self.model.parameters()).dtype)
        return fingerprint([model_fingerprint(self.source), self.max_tokens, dtype, self.output])

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """One logit a pair."""
        return raw_logits(self.model, pairs, batch_size=self.batch_size)


def raw_logits(model: Any, pairs: Sequence[Pair], *, batch_size: int = 32) -> Scores:
    """What a cross-encoder's head puts out: sentence-transformers would apply the sigmoid where there is one label."""
    from torch.nn import Identity

    found = model.predict(
        list(pairs), batch_size=batch_size, activation_fn=Identity(), show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(found, dtype=np.float32).reshape(len(pairs))


class BiEncoderTeacher:
    """Embeds question and passage apart, each once, and says how alike they are."""

    output: Output = "similarity"

    def __init__(
        self,
        source: str,
        *,
        similarity: Similarity | None = None,
        max_tokens: int = 256,
        batch_size: int = 32,
        embedder: SentenceEmbedder | None = None,
    ) -> None:
        self.source, self.max_tokens = source, max_tokens
        self.embedder = embedder or load_embedder(
            source, similarity=similarity, max_tokens=max_tokens, batch_size=batch_size
        )
        self._known: dict[str, Mapping[str, Vectors]] = {"queries": {}, "documents": {}}

    @property
    def identity(self) -> str:
        """Hash of weights, prompts, length, precision and similarity."""
        model = self.embedder.model
        settings = [self.max_tokens, dict(model.prompts), self.embedder.similarity, str(next(model.parameters()).dtype)]
        return fingerprint([model_fingerprint(self.source), *settings, self.output])

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """One similarity a pair."""
        queries = _each_once(self.embedder.queries, [query for query, _ in pairs])
        documents = _each_once(self.embedder.documents, [passage for _, passage in pairs])
        return np.asarray([queries[query] @ documents[passage] for query, passage in pairs], dtype=np.float32)


def _each_once(embed: Any, texts: Sequence[str]) -> dict[str, Vectors]:
    different = list(dict.fromkeys(texts))
    return dict(zip(different, embed(different), strict=True))


class AnswerTeacher:
    """A language model: how likely it finds the known answer once it has read the passage, in nats a token.

    Source: Izacard et al., 2022, arXiv:2208.03299, section 2.2, 'perplexity distillation'.
    """

    output: Output = "logprob"

    def __init__(self, source: str, answers: Mapping[str, str], *, max_tokens: int = 512, batch_size: int = 8) -> None:
        """`answers` are those of the questions, by the question's text."""
        self.source, self.answers = source, dict(answers)
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self._loaded = load_causal_lm(source)

    @property
    def identity(self) -> str:
        """Hash of weights, prompt, length and answers."""
        return fingerprint(
            [model_fingerprint(self.source), ANSWER_PROMPT, self.max_tokens, sorted(self.answers.items())]
        )

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """The mean log-probability of an answer's tokens, a pair."""
        rows = [self._row(query, passage) for query, passage in pairs]
        sums = answer_logprobs(self._loaded.model, rows, batch_size=self.batch_size)
        return np.asarray([total / len(row.answer) for total, row in zip(sums, rows, strict=True)], dtype=np.float32)

    def _row(self, query: str, passage: str) -> Answered:
        if query not in self.answers:
            raise ModelError(f"the question {query!r} has no answer, which a teacher of kind answer is asked for.")
        encode = self._loaded.tokenizer.encode
        answer = encode(f" {self.answers[query]}", add_special_tokens=False)
        head, tail = (part.format(question=query) for part in ANSWER_PROMPT)
        around = encode(head), encode(tail, add_special_tokens=False)
        room = max(8, self.max_tokens - len(answer) - sum(map(len, around)))
        middle = encode(passage, add_special_tokens=False)[:room]
        return Answered((*around[0], *middle, *around[1]), tuple(answer))


ANSWER_PROMPT = ("Passage:\n", "\n\nQuestion: {question}\nAnswer:")
"""What stands before and after the passage."""


@dataclass(frozen=True)
class Spread:
    """How a teacher's scores are brought to a unit of their own."""

    mean: float
    deviation: float


def spread_of(scores: Scores) -> Spread:
    """Of all scores that there are. It is to be found once: with another one they would be other scores."""
    return Spread(float(scores.mean()), max(float(scores.std()), 1e-12))


def ensemble(scores: Sequence[Scores], weights: Sequence[float], spreads: Sequence[Spread]) -> Scores:
    """Several teachers' scores of the same pairs as one: each less its mean and over its deviation, averaged by weight, and
    times the deviation of the first, so that scales and temperatures of its own are a beginning.
    """
    if len(scores) != len(weights) or not scores:
        raise ValueError(f"there are {len(scores)} teachers and {len(weights)} weights. Give each one weight.")
    if min(weights) < 0 or not sum(weights):
        raise ValueError(f"the weights of an ensemble are {list(weights)}. Give each 0 or more, and one of them more.")
    total = np.zeros(len(scores[0]))
    for one, weight, spread in zip(scores, weights, spreads, strict=True):
        total += weight * (one - spread.mean) / spread.deviation
    return np.asarray(total / sum(weights) * spreads[0].deviation, dtype=np.float32)


def key_of_pair(pair: Pair) -> bytes:
    """What a pair is found by: 128 bits of SHA-256 over both texts."""
    query, passage = (text.encode() for text in pair)
    return hashlib.sha256(len(query).to_bytes(8, "little") + query + passage).digest()[:16]


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
