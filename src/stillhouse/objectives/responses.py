"""Answers compared otherwise than by one divergence: as raw logits, in two parts, or with a moving target.

Below, p is the teacher and q the student. Tokens banned on one side or both are treated as in `divergences`.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stillhouse.objectives.logprobs import (
    at_least_float32,
    check_same_vocabulary,
    kl,
    log_total,
    paired_logprobs,
    to_logprobs,
)


def logit_mse(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """Mean over the vocabulary of the squared difference of logits, per position, in squared logits.

    Asks for the teacher's logits themselves, with the constant that a softmax cannot see: right for a regression head,
    and for a classifier whose scale is to be kept. Of a token that one side alone bans the value is infinite.

    Source: Ba and Caruana, 2014, arXiv:1312.6184.
    """
    differences, counted = _logit_differences(student_logits, teacher_logits)
    return _mean_square(differences, counted)


def centred_logit_mse(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
) -> Float[Tensor, "*batch"]:
    """The variance over the vocabulary of the difference of logits, per position: `logit_mse` without the constant.

    Twice what T^2 KL(p || q) tends to as the temperature T grows, so it looks at all tokens alike, however rare.

    Source: Hinton et al., 2015, arXiv:1503.02531, section 2.1.
    """
    differences, counted = _logit_differences(student_logits, teacher_logits)
    infinite = differences == torch.inf
    finite = differences.masked_fill(infinite, 0.0)
    centre = finite.sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp(min=1)  # [*batch, 1]
    centred = (finite - centre).masked_fill(~counted, 0.0).masked_fill(infinite, torch.inf)
    return _mean_square(centred, counted)


def decoupled_kd(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    target_ids: Int[Tensor, "*batch"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Float[Tensor, "*batch"]:
    """alpha KL(target or not) + beta KL(among the rest) per position, in nats; the rest is renormalised on both sides.

    Forward KL is the same sum with alpha = 1 and beta = 1 - p(target): it listens to how a sure teacher ranks the wrong
    answers hardly at all. For classifiers; compare a sweep over beta at equal gradient norm.

    Raises: ValueError unless alpha and beta are finite, 0 or more, and not both 0.
    Source: Zhao et al., 2022, arXiv:2203.08679.
    """
    if not (alpha >= 0 and beta >= 0 and 0 < alpha + beta < math.inf):
        raise ValueError(
            f"decoupled_kd needs two finite weights of 0 or more, and not both 0, but alpha is {alpha} and beta {beta}. "
            "1 and 8 are the usual choice."
        )
    check_same_vocabulary(student_logits, teacher_logits)
    student, student_rest = _target_and_rest(student_logits, target_ids)
    teacher, teacher_rest = _target_and_rest(teacher_logits, target_ids)
    # A weight of 0 leaves a part out, even where the part is infinite.
    parts = [(alpha, teacher, student), (beta, teacher_rest, student_rest)]
    weighted = [weight * kl(theirs, ours) for weight, theirs, ours in parts if weight]
    return torch.stack(weighted).sum(0)


def taid(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    t: float = 0.4,
) -> Float[Tensor, "*batch"]:
    """KL(p_t || q) per position, in nats, where p_t = softmax((1 - t) student + t teacher) is held fixed.

    A target that stays within the student's reach: nothing is asked at t = 0, forward KL at t = 1. Raise t from 0.4 to 1
    over the training (shape: adaptive is the paper's), for a teacher far larger than its student. The gradient is q - p_t,
    not that of the value shown, as the student's own share of the target is not learnt from.

    Raises: ValueError unless 0 <= t <= 1.
    Source: Shing et al., 2025, arXiv:2501.16937.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"taid needs 0 <= t <= 1, but t is {t}. 0 asks nothing of the student, 1 is forward_kl.")
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    # Of log-probabilities rather than logits: the same distribution, and a constant costs no digits. The two ends are
    # taken apart as 0 * -inf is NaN.
    shares = [(1 - t, student_logprobs.detach()), (t, teacher_logprobs)]
    target = torch.stack([share * logprobs for share, logprobs in shares if share]).sum(0)
    return kl(to_logprobs(target), student_logprobs)


def adaptive_kl(
    student_logits: Float[Tensor, "*batch vocab"],
    teacher_logits: Float[Tensor, "*batch vocab"],
    *,
    mu: float = 0.5,
) -> Float[Tensor, "*batch"]:
    """Forward and reverse KL per position, in nats, each as heavy as the gap it mends: at the head, or in the tail.

    The head is the teacher's most likely tokens, as few as hold a mass of mu; a gap is sum |p - q| there. Early on, forward
    KL fits the head and reverse KL the tail: where one lags, its KL gets the larger share. The shares are held fixed.

    Raises: ValueError unless 0 < mu < 1.
    Source: Wu et al., 2024, arXiv:2404.02657.
    """
    if not 0 < mu < 1:
        raise ValueError(f"adaptive_kl needs 0 < mu < 1, but mu is {mu}. 0.5 is the usual choice.")
    student_logprobs, teacher_logprobs = paired_logprobs(student_logits, teacher_logits)
    head_share = _head_gap_share(student_logprobs.detach(), teacher_logprobs.detach(), mu)
    forward, reverse = kl(teacher_logprobs, student_logprobs), kl(student_logprobs, teacher_logprobs)
    return _share_of(head_share, forward) + _share_of(1 - head_share, reverse)


def _share_of(share: Float[Tensor, "*batch"], values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The product, where nothing of something infinite is nothing rather than NaN."""
    return torch.where(share == 0, 0.0, share * values)


def _logit_differences(
    student_logits: Float[Tensor, "*batch vocab"], teacher_logits: Float[Tensor, "*batch vocab"]
) -> tuple[Float[Tensor, "*batch vocab"], Bool[Tensor, "*batch vocab"]]:
    """Student minus teacher, infinite where one side alone bans a token, and which tokens both allow: those that count."""
    check_same_vocabulary(student_logits, teacher_logits)
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits)
    student_bans, teacher_bans = student == -torch.inf, teacher == -torch.inf
    either = student_bans | teacher_bans
    differences = student.masked_fill(either, 0.0) - teacher.masked_fill(either, 0.0)
    return differences.masked_fill(student_bans ^ teacher_bans, torch.inf), ~either


def _mean_square(
    differences: Float[Tensor, "*batch vocab"], counted: Bool[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    return differences.square().sum(-1) / counted.sum(-1).clamp(min=1)


def _target_and_rest(
    logits: Float[Tensor, "*batch vocab"], target_ids: Int[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch vocab"]]:
    """Log-probabilities of the target and of all else together, and those of all else renormalised, without the target."""
    logprobs, targets = to_logprobs(logits), target_ids.long().unsqueeze(-1)
    rest = logprobs.scatter(-1, targets, -torch.inf)
    return torch.cat([logprobs.gather(-1, targets), log_total(rest)], -1), to_logprobs(rest)


def _head_gap_share(
    student_logprobs: Float[Tensor, "*batch vocab"], teacher_logprobs: Float[Tensor, "*batch vocab"], mu: float
) -> Float[Tensor, "*batch"]:
    """Which part of sum |p - q| lies in the teacher's head of mass mu."""
    teacher_probs, order = teacher_logprobs.exp().sort(-1, descending=True)
    gaps = (teacher_probs - student_logprobs.exp().gather(-1, order)).abs()
    in_head = teacher_probs.cumsum(-1) - teacher_probs < mu  # what comes before has not reached mu
    head_gap, gap = gaps.masked_fill(~in_head, 0.0).sum(-1), gaps.sum(-1)
    return head_gap / gap.masked_fill(gap == 0, 1.0)
