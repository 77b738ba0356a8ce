"""The held-out documents in which a student departs most from its teacher, token by token."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stillhouse.core.batch import Batch
from stillhouse.core.departures import Choice, Departure, Departures, TokenDeparture
from stillhouse.core.signals import FactoredLogits
from stillhouse.data.examples import Example
from stillhouse.data.packing import to_batch
from stillhouse.evaluation.answers import Choices
from stillhouse.evaluation.intervals import Sums
from stillhouse.models.signals import factored_logits
from stillhouse.objectives import forward_kl

MOST_EXAMPLES = 40
MOST_TOKENS = 160
"""Of one example: the longest stretch that is shown, around the token where the two are farthest apart."""
CHOICES = 3
FEWEST_TOKENS = 4
"""An example with fewer tokens to predict says little of how far two models are apart."""


@torch.no_grad()
def language_departures(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kl_nats: Sums,
    tokens: Sums,
    agreements: Sums,
) -> Departures:
    """The documents with the largest KL a token; the sums are those of the student over the documents, in their order."""
    first_pieces = {example.document: example for example in reversed(examples)}
    documents = list(dict.fromkeys(example.document for example in examples))
    means = np.where(tokens >= FEWEST_TOKENS, kl_nats / np.maximum(tokens, 1), -1.0)
    farthest = [int(place) for place in np.argsort(-means, kind="stable")[:MOST_EXAMPLES] if means[place] >= 0]
    found = [
        Departure(
            document=place,
            nats=float(means[place]),
            agreement=float(agreements[place] / tokens[place]),
            tokens=_tokens(student, teacher, first_pieces[documents[place]], tokenizer),
        )
        for place in farthest
    ]
    return Departures(len(documents), found)


def texts_of(batches: Sequence[Batch], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What every row says."""
    rows = (row[real].tolist() for batch in batches for row, real in zip(batch.ids, batch.real, strict=True))
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in rows]


def answer_departures(student: Choices, teacher: Choices, texts: Sequence[str], labels: Sequence[str]) -> Departures:
    """The texts on whose class a student and its teacher are farthest apart, with what is right and what both answer."""

    def name(label: int, probability: float | None = None) -> str:
        known = labels[label] if label < len(labels) else str(label)
        return known if probability is None else f"{known} ({probability:.0%})"

    farthest = [int(place) for place in np.argsort(-student.kl_nats, kind="stable")[:MOST_EXAMPLES]]
    found = [
        Departure(
            document=int(student.document[place]),
            nats=float(student.kl_nats[place]),
            agreement=float(student.agrees[place]),
            tokens=[],
            text=texts[int(student.document[place])],
            answers={
                "right": name(int(student.target[place])),
                "teacher": name(int(teacher.chosen[place]), float(teacher.confidence[place])),
                "student": name(int(student.chosen[place]), float(student.confidence[place])),
            },
        )
        for place in farthest
    ]
    return Departures(len(texts), found)


def _tokens(
    student: PreTrainedModel, teacher: PreTrainedModel, example: Example, tokenizer: PreTrainedTokenizerBase
) -> list[TokenDeparture]:
    """Every token of the example with what both say there; of a long one a stretch."""
    batch = to_batch([[example]])
    says = [_dense(factored_logits(model, batch), batch.predicts, len(tokenizer)) for model in (student, teacher)]
    nats = forward_kl(says[0], says[1]).tolist()
    choices = [_choices(logits, tokenizer) for logits in says]
    # What predicts a token stands one before it.
    judged = [int(place) + 1 for place in torch.nonzero(batch.predicts[0])[:, 0]]
    told = {place: number for number, place in enumerate(judged)}
    texts = token_texts(example.ids, tokenizer)

    def token(place: int) -> TokenDeparture:
        number = told.get(place)
        if number is None:
            return TokenDeparture(texts[place], None, [], [])
        return TokenDeparture(texts[place], nats[number], choices[1][number], choices[0][number])

    return [token(place) for place in _stretch(len(example.ids), judged, nats)]


def _dense(logits: FactoredLogits, predicts: Tensor, vocab_size: int) -> Tensor:
    return logits.at(predicts).first(vocab_size).dense().float()


def _choices(logits: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[list[Choice]]:
    """The likeliest tokens at each place, each with its probability."""
    probs, ids = logits.softmax(-1).topk(min(CHOICES, logits.shape[-1]), dim=-1)
    return [
        [Choice(str(tokenizer.decode([number])), round(prob, 4)) for number, prob in zip(some, of_them, strict=True)]
        for some, of_them in zip(ids.tolist(), probs.tolist(), strict=True)
    ]


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token. One that holds a part of a character adds nothing, and the last part the whole of it."""
    texts = list[str]()
    for place in range(len(ids)):
        # A window: decoding from the start for each token would take quadratic time.
        start = max(0, place - 8)
        before, after = (str(tokenizer.decode(list(ids[start:end]))) for end in (place, place + 1))
        whole = after if not after.endswith("\ufffd") else before
        texts.append(whole[len(before) :] if whole.startswith(before) else str(tokenizer.decode([ids[place]])))
    return texts


def _stretch(length: int, judged: Sequence[int], nats: Sequence[float]) -> range:
    """At most MOST_TOKENS places, around the farthest."""
    if length <= MOST_TOKENS:
        return range(length)
    farthest = judged[int(np.argmax(nats))]
    start = min(max(0, farthest - MOST_TOKENS // 2), length - MOST_TOKENS)
    return range(start, start + MOST_TOKENS)
