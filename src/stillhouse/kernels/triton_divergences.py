"""Closed forms for a GPU: a program a token, three walks over its vocabulary, nothing held but both sides' logits.

The first walk finds both sides' logsumexp, the second the value and what the softmax takes from the gradient, the third
writes the slope. Twins of `slopes`, which says what each number is; what is not here, a GPU has from there.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from stillhouse.kernels.slopes import ClosedForm, Softened, ValueAndSlope

BLOCK_TOKENS = 4096
"""Tokens of the vocabulary that a program looks at together: two sides of them fit into its registers."""

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
@no_type_check
def _log_total(logits, cooling, vocab: tl.constexpr, block: tl.constexpr):
    """Log of the summed exponentials of one row at a temperature, in one walk."""
    largest, total = -float("inf"), 0.0
    for start in range(0, vocab, block):
        token = start + tl.arange(0, block)
        values = tl.load(logits + token, mask=token < vocab, other=-float("inf")) * cooling
        now = tl.maximum(largest, tl.max(values, 0))
        total = total * tl.exp(largest - now) + tl.sum(tl.exp(values - now), 0)
        largest = now
    return largest + tl.log(total)


@triton.jit
@no_type_check
def _value_and_pull(student, teacher, share, kind: tl.constexpr):
    """Each token's part of the value, and q g, from both sides' log-probabilities."""
    q, p = tl.exp(student), tl.exp(teacher)
    if kind == "forward_kl":
        return p * (teacher - student), -p
    if kind == "reverse_kl":
        gap = q * (student - teacher)
        return gap, gap
    if kind == "total_variation":
        excess = q - p
        return tl.abs(excess) / 2, q * ((excess > 0).to(tl.float32) - (excess < 0).to(tl.float32)) / 2
    mixture = tl.maximum(share * p + (1 - share) * q, _TINY)
    from_teacher, from_student = p * (teacher - tl.log(mixture)), q * (student - tl.log(mixture))
    if kind == "jsd":
        return share * from_teacher + (1 - share) * from_student, (1 - share) * from_student
    if kind == "skewed_forward_kl":
        return from_teacher, (share - 1) * p * q / mixture
    return from_student, from_student - (1 - share) * q * q / mixture


@triton.jit
@no_type_check
def _divergence(
    student, teacher, value, slope, cooling, share, kind: tl.constexpr, vocab: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    student += row * vocab
    teacher += row * vocab
    slope += row * vocab
    student_total = _log_total(student, cooling, vocab, block)
    teacher_total = _log_total(teacher, cooling, vocab, block)
    divergence, pulled = 0.0, 0.0
    for start in range(0, vocab, block):
        token = start + tl.arange(0, block)
        inside = token < vocab
        ours = tl.load(student + token, mask=inside, other=0.0) * cooling - student_total
        theirs = tl.load(teacher + token, mask=inside, other=0.0) * cooling - teacher_total
        part, pull = _value_and_pull(ours, theirs, share, kind)
        divergence += tl.sum(tl.where(inside, part, 0.0), 0)
        pulled += tl.sum(tl.where(inside, pull, 0.0), 0)
    tl.store(value + row, divergence)
    for start in range(0, vocab, block):
        token = start + tl.arange(0, block)
        inside = token < vocab
        ours = tl.load(student + token, mask=inside, other=0.0) * cooling - student_total
        theirs = tl.load(teacher + token, mask=inside, other=0.0) * cooling - teacher_total
        part, pull = _value_and_pull(ours, theirs, share, kind)
        tl.store(slope + token, pull - tl.exp(ours) * pulled, mask=inside)


def _launch(student: Softened, teacher: Softened, kind: str, share: float = 0.0) -> ValueAndSlope:
    """`share` is the teacher's part of the mixture."""
    ours, theirs = student.given.contiguous(), teacher.given.contiguous()
    num_tokens, vocab_size = ours.shape
    value: Float[Tensor, " tokens"] = ours.new_empty(num_tokens)
    slope = torch.empty_like(ours)
    if num_tokens:
        _divergence[(num_tokens,)](
            ours, theirs, value, slope, 1 / student.temperature, share, kind=kind, vocab=vocab_size, block=BLOCK_TOKENS
        )
    return value, slope


def forward_kl(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """KL(p || q)."""
    return _launch(student, teacher, "forward_kl")


def reverse_kl(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """KL(q || p)."""
    return _launch(student, teacher, "reverse_kl")


def jsd(student: Softened, teacher: Softened, _targets: Tensor | None, *, beta: float = 0.5) -> ValueAndSlope:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""
    return _launch(student, teacher, "jsd", beta)


def skewed_forward_kl(
    student: Softened, teacher: Softened, _targets: Tensor | None, *, alpha: float = 0.1
) -> ValueAndSlope:
    """KL(p || m), m = alpha p + (1 - alpha) q."""
    return _launch(student, teacher, "skewed_forward_kl" if alpha else "forward_kl", alpha)


def skewed_reverse_kl(
    student: Softened, teacher: Softened, _targets: Tensor | None, *, alpha: float = 0.1
) -> ValueAndSlope:
    """KL(q || m), m = (1 - alpha) p + alpha q."""
    return _launch(student, teacher, "skewed_reverse_kl" if alpha else "reverse_kl", 1 - alpha)


def total_variation(student: Softened, teacher: Softened, _targets: Tensor | None) -> ValueAndSlope:
    """Half the sum of |q - p|."""
    return _launch(student, teacher, "total_variation")


CLOSED_FORMS: dict[str, ClosedForm] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skewed_forward_kl": skewed_forward_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
    "total_variation": total_variation,
}
