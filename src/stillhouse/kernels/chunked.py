"""From hidden states and heads to losses and gradients, never holding more than a chunk of logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stillhouse.core.signals import FactoredLogits, SampledTokens, SparseLogprobs
from stillhouse.kernels.blocks import Block
from stillhouse.kernels.heads import HeadGradients, precision_of, project, through_cap
from stillhouse.kernels.terms import Said, Term, check_answer, weighted_sums, weighted_total

CHUNK_ELEMENTS = 43 * 2**17
"""Logits held at once for each model: 21.5 MiB in float32. More positions a product are faster, as each reads the whole
head, but two chunks, a block's forms and the products' own room are to stay under 64 MiB."""

BLOCK_ELEMENTS = 2**18
"""Logits whose forms are found at once: 1 MiB each in float32, a dozen of which a CPU's cache holds. Of half as many, the
calls take longer than the arithmetic; twice as many are hardly faster."""

STRIDE_ELEMENTS = 16
"""By how much two rows of logits lie further apart than the vocabulary is wide. A vocabulary is often a multiple of 1,024,
and rows so far apart would all claim the same lines of a CPU's cache."""

Teacher = FactoredLogits | SparseLogprobs | SampledTokens | None


def chunked_losses(
    student: FactoredLogits,
    teacher: Teacher,
    *,
    terms: Sequence[Term],
    target_ids: Int[Tensor, " tokens"],
    token_weights: Float[Tensor, "*terms tokens"],
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Sum over tokens of the weighted terms, and each term's own sum (without its weight, without gradient). What a token
    counts for may be one number for all terms or differ from term to term.

    The same value and gradient as building all logits, to rounding. The gradient is found during the forward pass, chunk
    by chunk, so memory does not grow with the number of tokens; under `no_grad` it is not found at all. It can be asked
    for once.

    Raises: ModelError where a term cannot be had from what the teacher said.
    """
    check_answer(terms, teacher, vocab_size=student.vocab_size)
    chunk = chunk_tokens or max(1, CHUNK_ELEMENTS // student.vocab_size)
    weights = token_weights.expand(len(terms), -1)
    work = _Work(teacher, tuple(terms), target_ids, weights, chunk, torch.is_grad_enabled())
    return _ChunkedLosses.apply(student.hidden, student.weight, student.bias, student, work)


@dataclass(frozen=True)
class _Work:
    """What the loss needs and no gradient flows to."""

    teacher: Teacher
    terms: tuple[Term, ...]
    target_ids: Tensor
    token_weights: Tensor
    chunk_tokens: int
    learns: bool
    """Whether anybody will ask for a gradient: inside `forward` below, torch no longer says."""

    def pieces(self) -> Iterator[slice]:
        """All tokens, in as few chunks as may be, of like length."""
        num_tokens = len(self.target_ids)
        num_chunks = max(1, -(-num_tokens // self.chunk_tokens))
        return _slices(num_tokens, -(-num_tokens // num_chunks))

    def rows(self, logits: Tensor) -> Iterator[slice]:
        """One chunk's tokens, a block at a time. A GPU has no use for small ones."""
        block_elements = BLOCK_ELEMENTS if logits.device.type == "cpu" else logits.numel()
        return _slices(len(logits), max(1, block_elements // logits.shape[-1]))

    def said(self, piece: slice, buffer: Tensor) -> Said:
        """What the teacher says about the tokens of this piece; logits are written over the buffer."""
        if isinstance(self.teacher, FactoredLogits):
            return project(self.teacher, self.teacher.hidden[piece], out=buffer)
        return _part(self.teacher, piece)


class _ChunkedLosses(torch.autograd.Function):
    """Builds a chunk's logits, leaves the gradient at them in their place, and multiplies it back at once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: FactoredLogits, work: _Work
    ) -> tuple[Tensor, Tensor]:
        gradients = HeadGradients.of(hidden, weight, bias, wanted=ctx.needs_input_grad[:3], learns=work.learns)
        precision = precision_of(head, work.teacher)
        term_weights = torch.tensor([term.weight for term in work.terms], dtype=precision, device=hidden.device)
        sums = torch.zeros_like(term_weights)
        ours, theirs = _buffers(head, work, precision)
        for piece in work.pieces():
            num_tokens = piece.stop - piece.start
            logits = project(head, hidden[piece], out=ours[:num_tokens])
            values = _values(logits, work.said(piece, theirs[:num_tokens]), head, work, piece, learns=gradients.wanted)
            sums += weighted_sums(values, work.token_weights[:, piece].to(precision))
            gradients.add(logits, head, piece)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums)
        return weighted_total(sums, term_weights), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        assert found is not None, "the gradient of chunked_losses can be asked for once"
        return (*found.scaled(upstream[0]), None, None)


def _values(
    logits: Tensor, said: Said, head: FactoredLogits, work: _Work, piece: slice, *, learns: bool
) -> Float[Tensor, "terms tokens"]:
    """Each term at each token of this piece. Where a gradient is wanted, that of their weighted sum replaces the logits."""
    targets, weights = work.target_ids[piece], work.token_weights[:, piece].to(logits.dtype)
    values = logits.new_empty(len(work.terms), len(targets))
    for rows in work.rows(logits):
        if learns:
            block = Block(logits[rows], _part(said, rows), targets[rows])
            values[:, rows], slope = block.slope(work.terms, weights[:, rows])
            logits[rows] = through_cap(slope, logits[rows], head)
        else:
            found = [term.values(logits[rows], _part(said, rows), targets[rows]) for term in work.terms]
            values[:, rows] = torch.stack(found)
    return values


def _part(said: Said, rows: slice) -> Said:
    """What is said about some of the tokens."""
    match said:
        case SparseLogprobs():
            return replace(said, ids=said.ids[rows], logprobs=said.logprobs[rows], tail=said.tail[rows])
        case SampledTokens():
            return replace(said, ids=said.ids[rows], weights=said.weights[rows], entropy=said.entropy[rows])
        case _:
            return None if said is None else said[rows]


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, max(1, step)))


def _buffers(student: FactoredLogits, work: _Work, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Room for one chunk of the student's logits and one of the teacher's, [tokens, vocab] each; every chunk reuses them."""
    num_rows = max((piece.stop - piece.start for piece in work.pieces()), default=0)

    def room(head: FactoredLogits) -> Tensor:
        return head.hidden.new_empty(num_rows, head.vocab_size + STRIDE_ELEMENTS, dtype=precision)[:, : head.vocab_size]

    ours = room(student)
    return ours, room(work.teacher) if isinstance(work.teacher, FactoredLogits) else ours[:, :0]
