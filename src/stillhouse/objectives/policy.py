"""Objectives that are policy gradients: what a student learns from tokens that it drew itself, one number a token.

Over whole answers y, reverse KL is the mean of `sum_t c_t` under the student, where `c_t = log q(y_t) - log p(y_t)` is what
a token costs. Which answers are drawn depends on the student, too, so that backpropagation through the costs alone has the
wrong gradient: its mean is zero. The right one says how likely each token should be, by what it costs and what comes after:

    sum_t (c_t + c_{t+1} + ...) grad log q(y_t)

The token's own cost may be averaged over the whole vocabulary instead, which is exactly `reverse_kl` there; then `c_t` must
not count a second time, and only what comes *after* the token is left to be sampled.

Tokens drawn from another distribution b than the student's own count for w = q / b.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MOST_LOG_WEIGHT = 40.0
"""Beyond it nothing can be learnt anyway, and thousands of costs, so weighted and added up, are still numbers in float32."""


@dataclass(frozen=True)
class Draws:
    """Tokens to learn from, answer after answer, each answer's in the order in which they were drawn."""

    student_logprobs: Float[Tensor, " tokens"]
    """What the student gives each token now, in nats. Through this, and `reverse_kl`, gradients flow."""
    teacher_logprobs: Float[Tensor, " tokens"]
    draw_logprobs: Float[Tensor, " tokens"]
    """With which probability each was drawn, in nats: with what the student gave it, or a mixture."""
    answers: Int[Tensor, " tokens"]
    """The answer that each belongs to."""
    drawn: Bool[Tensor, " tokens"]
    """Which were drawn at all; nobody drew the data's own."""
    reverse_kl: Float[Tensor, " tokens"] | None = None
    """Between the whole distributions at each token, for an objective that reads them."""

    def costs(self, limit: float) -> Float[Tensor, " tokens"]:
        """log q - log p of each token that was drawn, cut at the limit on both sides; 0 for the others. No gradient."""
        return self._where_drawn(self.student_logprobs.detach() - self.teacher_logprobs, limit)

    def log_weights(self, limit: float) -> Float[Tensor, " tokens"]:
        """log q - log b: by how much the student would draw each more often than it was drawn. No gradient."""
        return self._where_drawn(self.student_logprobs.detach() - self.draw_logprobs, limit)

    def pulled(self, pull: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        """Zero, with `pull` times the gradient of log q at each token."""
        surrogate = self.student_logprobs - self.student_logprobs.detach()
        return torch.where(pull == 0, 0.0, pull.detach() * surrogate)

    def _where_drawn(self, ratios: Tensor, limit: float) -> Tensor:
        return torch.where(self.drawn, ratios, 0.0).clamp(-limit, limit)


def sampled_reverse_kl(draws: Draws, *, gamma: float = 0.0, ratio_limit: float = 100.0) -> Float[Tensor, " tokens"]:
    """log q - log p of the drawn token, in nats, with the policy gradient of reverse KL: on-policy distillation. Needs of the
    teacher no more than the probability of that token. Its mean is reverse KL; a single value may be negative.

    With gamma 0 a token answers for its own cost alone, and the mean gradient is that of reverse_kl at every token, with more
    noise. With gamma 1 it answers for all that comes after, too, and, where the student draws alone, the mean gradient is that
    of the reverse KL between whole answers. Costs beyond ratio_limit, as of a token that the teacher bans, are cut. Tokens
    that nobody drew count 0.

    Source: Lu and Thinking Machines Lab, 2025, "On-Policy Distillation"; the gradient after Williams, 1992,
    doi:10.1007/BF00992696.
    """
    _check(gamma=gamma, ratio_limit=ratio_limit)
    costs, weights = draws.costs(ratio_limit), _weights(draws.log_weights(ratio_limit))
    return weights * costs + draws.pulled(weights * (costs + sums_after(costs, draws.answers, gamma=gamma)))


def minillm(
    draws: Draws,
    *,
    gamma: float = 0.95,
    length_power: float = 1.0,
    path_power: float = 0.0,
    ratio_limit: float = 100.0,
) -> Float[Tensor, " tokens"]:
    """Reverse KL at each token over the whole vocabulary, in nats, and with it the policy gradient of what comes after the
    token: reverse KL between whole answers, with less noise than from drawn tokens alone.

    A step later counts gamma times as much; gamma 0 leaves reverse_kl. The sum of what comes after is divided by the number of
    those tokens to the length_power: 1 is MiniLLM's mean, without which long answers weigh more, 0 leaves the sum. Where the
    teacher helped to draw, a token counts for w = q / b; path_power 1 multiplies in the weights of all other tokens that
    matter, which is exact on average and the noisier the longer an answer is, 0 leaves them out, as MiniLLM does. Only with
    gamma 1, length_power 0 and, where the teacher helps, path_power 1 is the mean gradient that of the reverse KL between
    whole answers. Costs beyond ratio_limit are cut.

    Source: Gu et al., 2024, arXiv:2306.08543, section 2.2.
    """
    _check(gamma=gamma, path_power=path_power, ratio_limit=ratio_limit)
    if not 0 <= length_power <= 1:
        raise ValueError(f"minillm needs 0 <= length_power <= 1, but it is {length_power}. 1 is the usual choice.")
    assert draws.reverse_kl is not None, "minillm reads reverse_kl of the draws"
    costs, own = draws.costs(ratio_limit), draws.log_weights(ratio_limit)
    before = _sums_before(own, draws.answers)
    later = sums_after(_weights(path_power * (before + own)) * costs, draws.answers, gamma=gamma)
    count = sums_after(draws.drawn.to(costs.dtype), draws.answers, gamma=1.0).clamp(min=1)
    pull = _weights((1 - path_power) * own) * later / count**length_power
    return _weights(path_power * before) * draws.reverse_kl + draws.pulled(pull)


def sums_after(
    values: Float[Tensor, " tokens"], answers: Int[Tensor, " tokens"], *, gamma: float
) -> Float[Tensor, " tokens"]:
    """What comes after each token in its answer: the sum over u > t of gamma^(u - t) values[u].

    Sums of 1, 2, 4, 8 and so on tokens are made of each other, so that a long answer takes few steps.
    """
    sums, step = values, 1
    while step < len(values):
        sums, step = sums + gamma**step * _later(sums, answers, step), 2 * step
    return gamma * _later(sums, answers, 1)


def _sums_before(values: Float[Tensor, " tokens"], answers: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    return sums_after(values.flip(0), answers.flip(0), gamma=1.0).flip(0)


def _later(values: Tensor, answers: Tensor, step: int) -> Tensor:
    """The value so many tokens on, and 0 where the answer has ended by then."""
    found = torch.zeros_like(values)
    found[:-step] = torch.where(answers[step:] == answers[:-step], values[step:], 0.0)
    return found


def _weights(logs: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Of a product of many ratios, too, a number that float32 has."""
    return logs.clamp(max=_MOST_LOG_WEIGHT).exp()


def _check(*, ratio_limit: float, **shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, but it is {value}.")
    if not 0 < ratio_limit <= 100:
        raise ValueError(
            f"ratio_limit must be positive and at most 100 nats, but it is {ratio_limit}. 100 cuts only what is banned."
        )
