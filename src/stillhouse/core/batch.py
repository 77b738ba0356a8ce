"""A batch of packed rows: what is read, where each document stands, and how much each token counts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    def total_weight(self) -> Float[Tensor, ""]:
        """The sum that a mean over this batch is divided by."""
        return self.weights[:, 1:].sum()
