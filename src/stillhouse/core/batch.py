"""A batch of rows: what is read, where each document stands, and what is judged by how much."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

AnyBatch = TypeVar("AnyBatch", bound="Batch")

_NUMBERED = frozenset({"documents", "spans", "teacher_documents", "teacher_spans"})
_WEIGHED = frozenset({"weights", "teacher_weights", "label_weights", "answer_weights"})
"""Which of a batch's tensors say what a token belongs to, and what it, or its row, counts for."""


@dataclass(frozen=True)
class Batch:
    """Rows of documents laid end to end; documents never see each other.

    `weights[:, t]` is what *predicting* token t counts for, so the logits at t - 1 are judged by it. The first token of
    each document is predicted by nothing and weighs 0; so do prompts and padding.
    """

    ids: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    """Position within the document: starts again at 0 with each."""
    documents: Int[Tensor, "batch seq"]
    """Number of the document within its row; -1 for padding."""
    weights: Float[Tensor, "batch seq"]
    draw_logprobs: Float[Tensor, "batch seq"] | None = field(default=None, kw_only=True)
    """Of answers that a model drew token by token, with which probability each token was drawn, in nats; NaN for all others.
    None where nobody drew anything."""
    replayed: Bool[Tensor, " batch"] | None = field(default=None, kw_only=True)
    """Which rows are of other data, mixed in against forgetting. None where nothing is mixed in."""
    by_student: Bool[Tensor, " batch"] | None = field(default=None, kw_only=True)
    """Which rows hold answers that the student wrote, now or before; None where it wrote none."""

    @property
    def real(self) -> Bool[Tensor, "batch seq"]:
        """Where a document's token stands, and not padding."""
        return self.documents >= 0

    @property
    def num_documents(self) -> int:
        """Documents in all rows together."""
        return int((self.documents.amax(-1) + 1).sum())

    @property
    def predicts(self) -> Bool[Tensor, "batch seq"]:
        """Where the logits count: true at t if token t + 1 carries weight."""
        judged = torch.zeros_like(self.weights, dtype=torch.bool)
        judged[:, :-1] = self.weights[:, 1:] > 0
        return judged

    @property
    def targets(self) -> Int[Tensor, " tokens"]:
        """The tokens to be predicted, in the order of `predicts`."""
        return self.ids[:, 1:][self.weights[:, 1:] > 0]

    @property
    def target_weights(self) -> Float[Tensor, " tokens"]:
        """The weight of each of `targets`."""
        return self.weights[:, 1:][self.weights[:, 1:] > 0]

    @property
    def answers(self) -> Int[Tensor, " tokens"]:
        """The document that each of `targets` belongs to, numbered through all rows."""
        rows = torch.arange(len(self.ids), device=self.ids.device)[:, None]
        return (self.documents + self.documents.shape[1] * rows)[:, 1:][self.weights[:, 1:] > 0]

    @property
    def draws(self) -> tuple[Bool[Tensor, " tokens"], Float[Tensor, " tokens"]]:
        """Whether each of `targets` was drawn, and with which probability, in nats; 0 where nobody drew."""
        assert self.draw_logprobs is not None, "nobody drew anything in this batch"
        logprobs = self.draw_logprobs[:, 1:][self.weights[:, 1:] > 0]
        return ~logprobs.isnan(), logprobs.nan_to_num(nan=0.0)

    @property
    def total_weight(self) -> Float[Tensor, ""]:
        """The sum that a mean over this batch is divided by."""
        return self.weights[:, 1:].sum()

    def of_rows(self: AnyBatch, rows: Bool[Tensor, " batch"]) -> AnyBatch:
        """Some of the rows, as wide as they are."""
        return replace(self, **{name: tensor[rows] for name, tensor in self.tensors().items()})

    def to(self: AnyBatch, device: torch.device) -> AnyBatch:
        """The same batch on this device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The batch as the dict of tensors that data loaders move between devices; `as_batch` is its inverse."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class TaggedBatch(Batch):
    """One document a row, judged where it stands: tokens hidden from a masked language model, or tags of tokens.

    `weights[:, t]` is what the answer *at* token t counts for.
    """

    labels: Int[Tensor, "batch seq"]
    """The token that was hidden, or the tag; anything where the weight is 0."""

    @property
    def predicts(self) -> Bool[Tensor, "batch seq"]:
        """Where the logits count: at the tokens that carry weight themselves."""
        return self.weights > 0

    @property
    def targets(self) -> Int[Tensor, " tokens"]:
        """The labels to be predicted, in the order of `predicts`."""
        return self.labels[self.weights > 0]

    @property
    def target_weights(self) -> Float[Tensor, " tokens"]:
        """The weight of each of `targets`."""
        return self.weights[self.weights > 0]

    @property
    def total_weight(self) -> Float[Tensor, ""]:
        """The sum that a mean over this batch is divided by."""
        return self.weights.sum()


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """One document a row, each judged as a whole: its class, or its number."""

    labels: Int[Tensor, " batch"] | Float[Tensor, " batch"]
    """The class, or the number to be estimated."""
    label_weights: Float[Tensor, " batch"]
    """What each document's answer counts for."""
    segments: Int[Tensor, "batch seq"] | None = None
    """Of a pair of texts, 1 where the second stands."""

    @property
    def predicts(self) -> Bool[Tensor, " batch"]:
        """Which documents' logits count."""
        return self.label_weights > 0

    @property
    def targets(self) -> Int[Tensor, " docs"] | Float[Tensor, " docs"]:
        """The labels to be predicted, in the order of `predicts`."""
        return self.labels[self.label_weights > 0]

    @property
    def target_weights(self) -> Float[Tensor, " docs"]:
        """The weight of each of `targets`."""
        return self.label_weights[self.label_weights > 0]

    @property
    def total_weight(self) -> Float[Tensor, ""]:
        """The sum that a mean over this batch is divided by."""
        return self.label_weights.sum()


@dataclass(frozen=True)
class RankedBatch(LabelledBatch):
    """Several answers to each prompt, one document a row and as many for each, side by side. What a model says of an answer
    is one
    number; those of a prompt's answers are judged together, as the logits of which one is best.
    """

    labels: Int[Tensor, " prompts"]
    """Which of its answers is the best, counted from 0."""
    label_weights: Float[Tensor, " prompts"]
    """What each prompt counts for."""

    def ranked(self, numbers: Float[Tensor, "batch 1"]) -> Float[Tensor, "prompts answers"]:
        """What was said of all answers, prompt by prompt."""
        return numbers.reshape(len(self.labels), -1)


@dataclass(frozen=True)
class PairedBatch(Batch):
    """The same documents in the tokens of two tokenizers: the student's, as in any batch, and the teacher's.

    A span is the smallest piece of text that both cut alike and that is to be predicted. Within a row, spans are numbered
    from 0 in the order of the text, and none has a gap or is missing on one side.
    """

    spans: Int[Tensor, "batch seq"]
    """The span of each of the student's tokens; -1 for none."""
    teacher_ids: Int[Tensor, "batch teacher_seq"]
    teacher_positions: Int[Tensor, "batch teacher_seq"]
    teacher_documents: Int[Tensor, "batch teacher_seq"]
    teacher_spans: Int[Tensor, "batch teacher_seq"]
    """The span of each of the teacher's tokens; -1 for none."""

    @property
    def teacher(self) -> Batch:
        """What the teacher reads."""
        nothing = torch.zeros_like(self.teacher_ids, dtype=self.weights.dtype)
        return Batch(self.teacher_ids, self.teacher_positions, self.teacher_documents, nothing)

    @property
    def span_weights(self) -> Float[Tensor, " spans"]:
        """What each span of all rows counts for: as much as its first token."""
        before = torch.cat([torch.full_like(self.spans[:, :1], -1), self.spans[:, :-1]], dim=1)
        return self.weights[(self.spans >= 0) & (self.spans != before)]


@dataclass(frozen=True)
class ContextBatch(Batch):
    """Documents of which the teacher reads more than the student: both end in the same answers, in the same tokens.

    Row by row and in the same order, both sides hold the same documents, and give weight to the same tokens. So the n-th
    place of `predicts` is the n-th of `teacher.predicts`, wherever the two stand.
    """

    teacher_ids: Int[Tensor, "batch teacher_seq"]
    teacher_positions: Int[Tensor, "batch teacher_seq"]
    teacher_documents: Int[Tensor, "batch teacher_seq"]
    teacher_weights: Float[Tensor, "batch teacher_seq"]

    @property
    def teacher(self) -> Batch:
        """What the teacher reads."""
        return Batch(self.teacher_ids, self.teacher_positions, self.teacher_documents, self.teacher_weights)


@dataclass(frozen=True)
class PreferenceBatch(Batch):
    """Pairs of answers to the same prompts, one document a row: of pair n, row 2 n has the chosen answer and the next row the
    rejected one.

    `weights` are those of the chosen answers alone, which is what objectives on tokens learn.
    """

    answer_weights: Float[Tensor, "batch seq"]
    """Where either answer stands: more than 0 at each of its tokens, its end included."""
    reference_logprobs: Float[Tensor, " batch"] | None = field(default=None, kw_only=True)
    """How likely each answer is to the student before training, in nats: the sum over its tokens."""
    teacher_ratios: Float[Tensor, " batch"] | None = field(default=None, kw_only=True)
    """By how much likelier each answer is to the teacher than to the teacher's own reference, in nats."""
    scores: Float[Tensor, " batch"] | None = field(default=None, kw_only=True)
    """What the data says that each answer is worth; None where it does not say so of all."""

    @property
    def num_pairs(self) -> int:
        """Pairs of answers."""
        return int(self.real.any(-1).sum()) // 2

    @property
    def answer_places(self) -> Bool[Tensor, "batch seq"]:
        """Where the logits predict a token of an answer, chosen or not."""
        judged = torch.zeros_like(self.answer_weights, dtype=torch.bool)
        judged[:, :-1] = self.answer_weights[:, 1:] > 0
        return judged

    @property
    def answer_tokens(self) -> Int[Tensor, " tokens"]:
        """The tokens of all answers, in the order of `answer_places`."""
        return self.ids[:, 1:][self.answer_weights[:, 1:] > 0]

    @property
    def answer_rows(self) -> Int[Tensor, " tokens"]:
        """The row of each of `answer_tokens`."""
        return (self.answer_weights[:, 1:] > 0).nonzero()[:, 0]


def as_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """The batch that these tensors were made from."""
    if "answer_weights" in tensors:
        return PreferenceBatch(**tensors)
    if "teacher_weights" in tensors:
        return ContextBatch(**tensors)
    if "teacher_ids" in tensors:
        return PairedBatch(**tensors)
    if "label_weights" in tensors:
        kind = LabelledBatch if len(tensors["label_weights"]) == len(tensors["ids"]) else RankedBatch
        return kind(**tensors)
    return TaggedBatch(**tensors) if "labels" in tensors else Batch(**tensors)


def emptied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch of the same shape in which nothing is real and nothing counts, for a process that takes part without rows."""
    return {
        name: torch.full_like(tensor, -1) if name in _NUMBERED else tensor * 0 if name in _WEIGHED else tensor
        for name, tensor in tensors.items()
    }


def one_document_a_row(batch: Batch) -> Batch:
    """The same documents, each in a row of its own and padded on the right; the batch itself if it is so already.

    Only packed text is ever laid out otherwise.
    """
    if not (batch.documents > 0).any():
        return batch
    real = batch.real
    numbers = batch.documents + batch.documents.shape[1] * torch.arange(len(real), device=real.device)[:, None]
    _, rows = numbers[real].unique(return_inverse=True)
    places = (rows, batch.positions[real])
    shape = (int(rows.max()) + 1, int(places[1].max()) + 1)

    def moved(values: Tensor, padding: int) -> Tensor:
        return values.new_full(shape, padding).index_put(places, values[real])

    documents = moved(torch.zeros_like(batch.documents), -1)
    positions = torch.arange(shape[1], device=real.device).expand(shape)
    replayed = batch.replayed
    if replayed is not None:
        row_numbers = torch.arange(len(real), device=real.device)[:, None].expand(real.shape)
        replayed = replayed[row_numbers[real].new_zeros(shape[0]).index_put((rows,), row_numbers[real])]
    return Batch(moved(batch.ids, 0), positions, documents, moved(batch.weights, 0), replayed=replayed)
