"""Policy gradients, by enumeration: over all answers that could be drawn, their mean is the exact gradient."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import POLICIES, Draws, minillm, objective, reverse_kl, sampled_reverse_kl, sums_after

from .cases import random_logits

VOCAB, STEPS, END = 3, 2, 2
EXACT = {"gamma": 1.0, "length_power": 0.0}


@dataclass(frozen=True)
class World:
    """Logits of both sides after every beginning: none, and each first token."""

    student: torch.Tensor
    teacher: torch.Tensor
    teacher_share: float = 0.0
    temperature: float = 1.0
    """At which is drawn."""
    end: int | None = None

    def answers(self) -> Iterator[tuple[int, ...]]:
        """All that could be said: of two tokens, or ended after one."""
        for answer in product(range(VOCAB), repeat=STEPS):
            if answer[0] != self.end:
                yield answer
        if self.end is not None:
            yield (self.end,)

    def logits(self, side: torch.Tensor, answer: tuple[int, ...]) -> torch.Tensor:
        """At each token of an answer."""
        return side[[0, *(1 + token for token in answer[:-1])]]

    def draw(self, answer: tuple[int, ...]) -> Draws:
        """An answer with the probabilities of both sides, and with which it is drawn."""
        ours, theirs = self.logits(self.student, answer), self.logits(self.teacher, answer)
        q, p = ((side / self.temperature).softmax(-1).detach() for side in (ours, theirs))
        mixture = (self.teacher_share * p + (1 - self.teacher_share) * q).log()
        said = [
            logprobs.gather(-1, torch.tensor(answer)[:, None])[:, 0]
            for logprobs in (ours.log_softmax(-1), theirs.log_softmax(-1), mixture)
        ]
        number = torch.full((len(answer),), 7)
        return Draws(*said, number, torch.ones(len(answer), dtype=torch.bool), reverse_kl(ours, theirs))

    def mean_gradient(self, estimator: Callable[[Draws], torch.Tensor]) -> torch.Tensor:
        """Over all answers, by how likely each is drawn."""
        total = torch.zeros_like(self.student)
        for answer in self.answers():
            draws = self.draw(answer)
            (gradient,) = torch.autograd.grad(estimator(draws).sum(), self.student, materialize_grads=True)
            total += draws.draw_logprobs.sum().exp() * gradient
        return total

    def exact_gradient(self) -> torch.Tensor:
        """Of the reverse KL between whole answers."""
        divergence = torch.zeros((), dtype=torch.float64)
        for answer in self.answers():
            draws = self.draw(answer)
            logprob = draws.student_logprobs.sum()
            divergence = divergence + logprob.exp() * (logprob - draws.teacher_logprobs.sum())
        return torch.autograd.grad(divergence, self.student)[0]

    def gradient_of_each_step(self) -> torch.Tensor:
        """Of the reverse KL at each token, where no beginning depends on the student."""
        total = torch.zeros((), dtype=torch.float64)
        for answer in self.answers():
            draws = self.draw(answer)
            total = total + draws.draw_logprobs.sum().exp() * draws.reverse_kl.sum()
        return torch.autograd.grad(total, self.student)[0]


@pytest.fixture(params=[None, END], ids=["of one length", "with an end"])
def world(request) -> World:
    return World((random_logits(0, 4, VOCAB) / 3).requires_grad_(), random_logits(1, 4, VOCAB) / 3, end=request.param)


def test_all_answers_together_are_certain(world):
    likelihoods = [world.draw(answer).student_logprobs.sum().exp() for answer in world.answers()]
    assert_close(sum(likelihoods), torch.ones((), dtype=torch.float64))
    assert len({len(answer) for answer in world.answers()}) == (1 if world.end is None else 2)


def test_what_comes_after_and_each_step_whole_are_the_exact_gradient(world):
    assert_close(world.mean_gradient(lambda draws: minillm(draws, **EXACT)), world.exact_gradient())


def test_all_that_comes_is_the_exact_gradient(world):
    assert_close(world.mean_gradient(lambda draws: sampled_reverse_kl(draws, gamma=1.0)), world.exact_gradient())


@pytest.mark.parametrize(("teacher_share", "temperature"), [(0.2, 1.0), (0.7, 1.0), (1.0, 1.0), (0.0, 2.0), (0.3, 0.5)])
def test_whatever_is_drawn_from_whole_weights_are_exact(world, teacher_share, temperature):
    helped = replace(world, teacher_share=teacher_share, temperature=temperature)
    assert_close(helped.mean_gradient(lambda draws: minillm(draws, path_power=1.0, **EXACT)), world.exact_gradient())
    one_weight = helped.mean_gradient(lambda draws: minillm(draws, **EXACT))
    assert not torch.allclose(one_weight, world.exact_gradient(), atol=1e-3)


@pytest.mark.parametrize("teacher_share", [0.0, 0.3])
def test_a_token_alone_has_on_average_the_gradient_of_reverse_kl_on_what_was_drawn(world, teacher_share):
    helped = replace(world, teacher_share=teacher_share)
    assert_close(helped.mean_gradient(sampled_reverse_kl), helped.gradient_of_each_step())
    assert not torch.allclose(helped.gradient_of_each_step(), world.exact_gradient(), atol=1e-3)


def test_backpropagation_through_the_drawn_log_ratios_learns_nothing(world):
    """The trap: the value is right on average, and its gradient is that of nothing."""
    naive = lambda draws: draws.student_logprobs - draws.teacher_logprobs  # noqa: E731
    assert_close(world.mean_gradient(naive), torch.zeros_like(world.student))
    assert world.exact_gradient().abs().max() > 0.1


def test_a_token_that_answers_for_itself_twice_has_another_gradient(world):
    """What comes from the token on, rather than after it, beside the step as a whole: its own cost is counted twice."""

    def twice(draws: Draws) -> torch.Tensor:
        costs = draws.costs(100.0)
        return draws.reverse_kl + draws.pulled(costs + sums_after(costs, draws.answers, gamma=1.0))

    assert_close(world.mean_gradient(twice), world.exact_gradient() + world.gradient_of_each_step())
    assert world.gradient_of_each_step().abs().max() > 0.1


def test_without_anything_after_it_minillm_is_reverse_kl(world):
    for answer in world.answers():
        draws = world.draw(answer)
        found = minillm(draws, gamma=0.0)
        assert torch.equal(found, draws.reverse_kl)
        gradients = [
            torch.autograd.grad(each.sum(), world.student, retain_graph=True)[0] for each in (found, draws.reverse_kl)
        ]
        assert torch.equal(*gradients)


@pytest.mark.parametrize("function", [sampled_reverse_kl, minillm])
def test_the_mean_of_the_values_is_the_divergence(world, function):
    total = sum(
        draws.student_logprobs.sum().exp() * function(draws).sum() for draws in map(world.draw, world.answers())
    )
    exact = sum(
        draws.student_logprobs.sum().exp() * (draws.student_logprobs - draws.teacher_logprobs).sum()
        for draws in map(world.draw, world.answers())
    )
    assert_close(total, exact)


def draws_of(lengths, *, seed=0, drawn=None, dtype=torch.float64) -> Draws:
    """Random answers of these lengths."""
    count = sum(lengths)
    ours, theirs = random_logits(seed, count, 5).to(dtype), random_logits(seed + 1, count, 5).to(dtype)
    ids = torch.randint(5, (count, 1), generator=torch.Generator().manual_seed(seed))
    said = [logits.log_softmax(-1).gather(-1, ids)[:, 0] for logits in (ours, theirs)]
    numbers = torch.repeat_interleave(torch.tensor(lengths, dtype=torch.long))
    student = said[0].clone().requires_grad_()
    flags = torch.ones(count, dtype=torch.bool) if drawn is None else drawn
    return Draws(student, said[1], said[0], numbers, flags, reverse_kl(ours, theirs))


def by_loop(values, answers, gamma):
    """The definition."""
    found = []
    for place, answer in enumerate(answers):
        after = [later for later in range(place + 1, len(answers)) if answers[later] == answer]
        found.append(sum(gamma ** (later - place) * values[later] for later in after))
    return found


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    gamma=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_sums_after_a_token_are_those_of_a_loop(lengths, gamma, seed):
    values, answers = random_logits(seed, sum(lengths)), torch.repeat_interleave(torch.tensor(lengths))
    expected = torch.tensor(by_loop(values.tolist(), answers.tolist(), gamma), dtype=values.dtype)
    assert_close(sums_after(values, answers, gamma=gamma), expected)


def gradient(values: torch.Tensor, draws: Draws) -> torch.Tensor:
    return torch.autograd.grad(values.sum(), draws.student_logprobs)[0]


@pytest.mark.parametrize("gamma", [0.3, 0.95, 1.0])
def test_length_power_one_is_the_mean_of_what_comes_after(gamma):
    draws = draws_of([4, 1, 6])
    after = by_loop(draws.costs(100.0).tolist(), draws.answers.tolist(), gamma)
    counts = [3, 2, 1, 0, 0, 5, 4, 3, 2, 1, 0]
    found = gradient(minillm(draws, gamma=gamma), draws)
    expected = [total / max(1, count) for total, count in zip(after, counts, strict=True)]
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", POLICIES)
def test_an_answer_is_learnt_alike_in_any_company(name):
    """To the last bit: how answers are cut into batches must not show."""
    whole = draws_of([4, 1, 6, 3])
    function = objective(name).bind(gamma=0.9)
    values = function(whole)
    together = gradient(values, whole)
    for number in range(4):
        own = whole.answers == number
        alone = Draws(
            whole.student_logprobs[own].detach().requires_grad_(),
            whole.teacher_logprobs[own],
            whole.draw_logprobs[own],
            whole.answers[own],
            whole.drawn[own],
            whole.reverse_kl[own],
        )
        found = function(alone)
        assert torch.equal(found, values[own])
        assert torch.equal(gradient(found, alone), together[own])


def test_what_nobody_drew_has_no_policy_gradient():
    drawn = torch.tensor([False] * 4 + [True] * 6)
    draws = draws_of([4, 6], drawn=drawn)
    draws = replace(draws, draw_logprobs=torch.where(drawn, draws.draw_logprobs, 0.0))
    assert (sampled_reverse_kl(draws, gamma=0.5)[:4] == 0).all()
    assert torch.equal(minillm(draws)[:4], draws.reverse_kl[:4])
    for function in (sampled_reverse_kl, minillm):
        found = gradient(function(draws), draws)
        assert (found[:4] == 0).all() and found[4] != 0


@pytest.mark.parametrize("function", [sampled_reverse_kl, minillm])
def test_what_the_student_draws_alone_counts_for_one(function):
    """Whatever is done with the weights."""
    draws = draws_of([3, 5])
    assert (draws.log_weights(100.0) == 0).all()
    if function is minillm:
        assert torch.equal(minillm(draws, path_power=1.0), minillm(draws, path_power=0.0))
    doubled = replace(draws, draw_logprobs=draws.draw_logprobs + torch.tensor(2.0).log())
    assert_close(gradient(function(doubled, gamma=0.5), doubled), 0.5 * gradient(function(draws, gamma=0.5), draws))


@pytest.mark.parametrize("function", [sampled_reverse_kl, minillm])
def test_a_banned_token_has_a_finite_cost(function):
    draws = draws_of([5], dtype=torch.float32)
    draws = replace(draws, teacher_logprobs=draws.teacher_logprobs.clone().index_fill(0, torch.tensor(2), -torch.inf))
    assert draws.costs(100.0)[2] == 100 and draws.costs(3.0)[2] == 3
    assert gradient(function(draws, gamma=1.0), draws).isfinite().all()


def test_weights_of_a_long_answer_stay_numbers():
    draws = draws_of([2000], dtype=torch.float32)
    for shift in (-1.0, 1.0):
        shifted = replace(draws, draw_logprobs=draws.draw_logprobs + shift)
        found = minillm(shifted, gamma=1.0, path_power=1.0)
        assert found.isfinite().all() and gradient(found, shifted).isfinite().all()


def test_no_answers_have_no_values():
    for function in (sampled_reverse_kl, minillm):
        assert function(draws_of([])).shape == (0,)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sampled_reverse_kl", {"gamma": 1.5}, "gamma must lie between 0 and 1, but it is 1.5"),
        ("minillm", {"gamma": -0.1}, "gamma must lie between 0 and 1"),
        ("minillm", {"path_power": 2}, "path_power must lie between 0 and 1, but it is 2"),
        ("minillm", {"length_power": float("nan")}, "minillm needs 0 <= length_power <= 1, but it is nan"),
        ("minillm", {"ratio_limit": 0}, "ratio_limit must be positive and at most 100 nats, but it is 0"),
        ("sampled_reverse_kl", {"path_power": 1}, r"no parameter 'path_power'. It has gamma \(default 0.0\)"),
    ],
)
def test_a_parameter_out_of_range_is_refused_before_any_draw(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **parameters)
    with pytest.raises(ValueError, match=message):
        objective(name).bind(**parameters)


@pytest.mark.parametrize("name", POLICIES)
def test_a_temperature_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is about the distribution that answers are drawn from.* is 2"):
        objective(name).bind(temperature=2)
