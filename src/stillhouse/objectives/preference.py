"""Objectives on pairs of answers: what a student learns from one that was chosen over another, one number a pair.

A student that has moved away from a reference acts as if it had been rewarded for it: what an answer y earned is its implicit
reward, `beta (log q(y) - log r(y))`, up to a number that all answers to a prompt share. Only the difference between two
answers' rewards, a margin, ever counts, and in it that number is gone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class AnswerPairs:
    """Two answers to each prompt, the chosen one first. Log-probabilities are sums over an answer's tokens, in nats."""

    student_logprobs: Float[Tensor, "pairs 2"]
    """Through these gradients flow."""
    reference_logprobs: Float[Tensor, "pairs 2"]
    """What the student before training gives them."""
    teacher_ratios: Float[Tensor, "pairs 2"] | None = None
    """By how much likelier the teacher finds each than the teacher's own reference does; None without such a reference."""
    scores: Float[Tensor, "pairs 2"] | None = None
    """What the data says that each is worth."""

    @property
    def margins(self) -> Float[Tensor, " pairs"]:
        """By how much more the student has come to like the chosen answer than the other, in nats."""
        return _margin(self.student_logprobs - self.reference_logprobs)

    def target(self, *, beta: float, score_scale: float) -> Float[Tensor, " pairs"]:
        """The teacher's margin: of its own implicit rewards where it has a reference, else of the data's scores."""
        if self.teacher_ratios is not None:
            return beta * _margin(self.teacher_ratios).to(self.student_logprobs.dtype)
        assert self.scores is not None, "this objective reads what a teacher or the data thinks of both answers"
        return score_scale * _margin(self.scores).to(self.student_logprobs.dtype)


def _margin(values: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    return values[:, 0] - values[:, 1]


def dpo(pairs: AnswerPairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Float[Tensor, " pairs"]:
    """-log sigmoid of the student's margin, in nats: direct preference optimisation. log 2 before the first step.

    It learns that one answer was chosen and not by how much, so that it never ends: beta is what holds the student back, and
    with a smaller one it moves farther from where it began. With label_smoothing, a share of the choices counts as mistaken,
    and there is an end.

    Source: Rafailov et al., 2023, arXiv:2305.18290, equation 7; as the last stage of distillation, Tunstall et al., 2023,
    arXiv:2310.16944, section 3.
    """
    _check_beta(beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing must be at least 0 and below 0.5, but it is {label_smoothing}. At 0.5 no choice says anything."
        )
    margins = beta * pairs.margins
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def reward_mse(pairs: AnswerPairs, *, beta: float = 0.1, score_scale: float = 1.0) -> Float[Tensor, " pairs"]:
    """The squared distance of the student's margin from the teacher's: reward distillation. 0 where the student prefers as much
    as the teacher does, and no further.

    The teacher's margin is beta times that of its own implicit reward where teacher.reference names what it was before it was
    tuned, else score_scale times the difference of the data's scores.

    Source: Fisch et al., 2024, arXiv:2405.19316.
    """
    _check_scales(beta, score_scale)
    return (beta * pairs.margins - pairs.target(beta=beta, score_scale=score_scale)).square()


def reward_kl(pairs: AnswerPairs, *, beta: float = 0.1, score_scale: float = 1.0) -> Float[Tensor, " pairs"]:
    """KL between the odds that teacher and student give the chosen answer, in nats: what Bradley and Terry make of a margin. It
    is the cross-entropy of the two sigmoids, less the teacher's own entropy: the same gradient, and 0 at the teacher.

    Of pairs about which the teacher is sure anyway it asks less than reward_mse. The teacher's margin is the same.

    Source: Bradley and Terry, 1952, doi:10.2307/2334029; of rewards, Fisch et al., 2024, arXiv:2405.19316.
    """
    _check_scales(beta, score_scale)
    return bernoulli_kl(beta * pairs.margins, pairs.target(beta=beta, score_scale=score_scale))


def bernoulli_kl(
    student_margins: Float[Tensor, " pairs"], teacher_margins: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """KL(sigmoid(teacher) || sigmoid(student)) in nats."""
    odds = teacher_margins.sigmoid()
    for_it = odds * (logsigmoid(teacher_margins) - logsigmoid(student_margins))
    return for_it + (1 - odds) * (logsigmoid(-teacher_margins) - logsigmoid(-student_margins))


def _check_beta(beta: float) -> None:
    if not 0 < beta <= 100:
        raise ValueError(
            f"beta must be positive and at most 100, but it is {beta}. 0.1 is usual, 0.01 to 0.5 are tried."
        )


def _check_scales(beta: float, score_scale: float) -> None:
    _check_beta(beta)
    if not 0 < score_scale < torch.inf:
        raise ValueError(f"score_scale must be positive, but it is {score_scale}. 1 takes scores as they are.")
