"""MiniLM's and MiniLMv2's relations: against a loop written from the papers, and their laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from stillhouse.objectives import (
    attention_kl,
    multi_head_relation_kl,
    relation_scores,
    split_into_relation_heads,
    value_relation_kl,
)

from .cases import random_logits, random_rotation

SEEDS = st.integers(0, 2**31)


def states(seed, *, batch=2, heads=4, seq=5, width=6):
    return random_logits(seed, batch, heads, seq, width, scale=1.0)


def everything(batch=2, seq=5):
    return torch.ones(batch, seq, seq, dtype=torch.bool)


def within(lengths, seq):
    """Which tokens may be related in rows of these lengths: real ones, with real ones."""
    real = torch.arange(seq) < torch.tensor(lengths)[:, None]
    return real[:, :, None] & real[:, None, :]


def by_loop(student, teacher, lengths, relation_heads):
    """Token by token, as the papers tell it: heads side by side, cut anew, softmax of scaled products, KL, mean of heads."""
    totals = torch.zeros(student.shape[0], student.shape[2], dtype=student.dtype)
    for row, length in enumerate(lengths):
        wide = [side[row].transpose(0, 1).reshape(side.shape[2], -1)[:length] for side in (student, teacher)]
        for head in range(relation_heads):
            ours, theirs = (side.chunk(relation_heads, dim=-1)[head] for side in wide)
            for token in range(length):
                p = (theirs @ theirs[token] / math.sqrt(theirs.shape[-1])).softmax(-1)
                q = (ours @ ours[token] / math.sqrt(ours.shape[-1])).softmax(-1)
                totals[row, token] += (p * (p / q).log()).sum() / relation_heads
    return totals


@pytest.mark.parametrize("relation_heads", [1, 2, 4, 6, 12])
def test_multi_head_relations_are_those_of_the_loop(relation_heads):
    student, teacher = states(0, heads=4, width=6), states(1, heads=3, width=8)
    found = multi_head_relation_kl(student, teacher, within([5, 3], 5), relation_heads=relation_heads)
    assert_close(found, by_loop(student, teacher, [5, 3], relation_heads))


def test_value_relations_are_multi_head_relations_of_the_heads_themselves():
    student, teacher = states(0, width=3), states(1, width=6)
    allowed = within([5, 3], 5)
    found = value_relation_kl(student, teacher, allowed)
    assert_close(found, by_loop(student, teacher, [5, 3], 4))
    assert_close(found, multi_head_relation_kl(student, teacher, allowed, relation_heads=4))


def test_a_relation_is_attention_of_a_side_with_itself():
    student, teacher = states(0), states(1)
    expected = attention_kl(relation_scores(student), relation_scores(teacher))
    assert_close(value_relation_kl(student, teacher, everything()), expected)
    assert_close(relation_scores(student)[1, 2, 3, 4], student[1, 2, 3] @ student[1, 2, 4] / math.sqrt(6))


@pytest.mark.parametrize("relation_heads", [1, 2, 8, 24])
@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_turning_each_relation_head_changes_nothing(relation_heads, seed):
    student, teacher = states(seed), states(seed + 1)
    cut = split_into_relation_heads(student, relation_heads)
    width = cut.shape[-1]
    rotations = torch.stack([random_rotation(seed + head, width) for head in range(relation_heads)])
    # Back into four heads, as a model would give them.
    turned = split_into_relation_heads(cut @ rotations, 4)
    before = multi_head_relation_kl(student, teacher, everything(), relation_heads=relation_heads)
    after = multi_head_relation_kl(turned, teacher, everything(), relation_heads=relation_heads)
    assert_close(after, before)


@pytest.mark.parametrize(("student_heads", "teacher_heads"), [(4, 12), (12, 4), (1, 6)])
def test_any_number_of_heads_and_any_width_is_accepted(student_heads, teacher_heads):
    student, teacher = states(0, heads=student_heads, width=6), states(1, heads=teacher_heads, width=8)
    values = multi_head_relation_kl(student, teacher, everything(), relation_heads=2)
    assert values.shape == (2, 5)
    assert (values > 0).all()


def test_keys_and_values_shared_by_groups_of_heads_are_split_as_queries_are():
    # Grouped heads: eight of queries and two of keys, against three of keys.
    for ours, theirs in [(states(0, heads=8), states(1, heads=6)), (states(2, heads=2), states(3, heads=3, width=4))]:
        found = multi_head_relation_kl(ours, theirs, everything(), relation_heads=12)
        assert_close(found, by_loop(ours, theirs, [5, 5], 12))


def test_relations_vanish_at_the_teacher_and_not_elsewhere():
    student, teacher = states(0), states(1)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert_close(multi_head_relation_kl(teacher, teacher, everything(), relation_heads=8), zeros, atol=1e-15, rtol=0)
    assert_close(value_relation_kl(teacher, teacher, everything()), zeros, atol=1e-15, rtol=0)
    assert (multi_head_relation_kl(student, teacher, everything(), relation_heads=8) > 1e-3).all()


def test_what_stands_in_padding_changes_nothing_and_gets_no_gradient():
    student, teacher, allowed = states(0), states(1), within([5, 3], 5)
    values = multi_head_relation_kl(student, teacher, allowed, relation_heads=8)
    scrambled, said = student.clone(), teacher.clone()
    scrambled[1, :, 3:], said[1, :, 3:] = 100.0, -100.0
    scrambled.requires_grad_()
    again = multi_head_relation_kl(scrambled, said, allowed, relation_heads=8)
    assert torch.equal(again, values)
    assert (again[1, 3:] == 0).all()
    again.sum().backward()
    assert (scrambled.grad[1, :, 3:] == 0).all()
    assert scrambled.grad.isfinite().all()


def test_more_padding_changes_nothing():
    student, teacher = states(0), states(1)
    longer = [torch.nn.functional.pad(side, (0, 0, 0, 3)) for side in (student, teacher)]
    values = multi_head_relation_kl(*longer, within([5, 5], 8), relation_heads=8)
    assert_close(values[:, :5], multi_head_relation_kl(student, teacher, everything(), relation_heads=8))
    assert (values[:, 5:] == 0).all()


@given(seed=SEEDS, relation_heads=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
@settings(max_examples=20, deadline=None)
def test_splitting_moves_numbers_and_changes_none(seed, relation_heads):
    whole = states(seed)
    cut = split_into_relation_heads(whole, relation_heads)
    assert cut.shape == (2, relation_heads, 5, 24 // relation_heads)
    assert torch.equal(split_into_relation_heads(cut, 4), whole)


@pytest.mark.parametrize("relation_heads", [5, 7, 48])
def test_a_number_of_relation_heads_that_does_not_divide_is_refused_and_those_that_do_are_named(relation_heads):
    message = rf"it is {relation_heads} and one of them is 24 wide\. Possible there: 1, 2, 3, 4, 6, 8, 12, 24\."
    with pytest.raises(ValueError, match=message):
        multi_head_relation_kl(states(0), states(1), everything(), relation_heads=relation_heads)


def test_value_relations_of_different_numbers_of_heads_are_refused_and_the_mend_named():
    with pytest.raises(
        ValueError, match=r"teacher's values have 12 heads and the student's 4\. Use multi_head_relation_kl"
    ):
        value_relation_kl(states(0, heads=4), states(1, heads=12), everything())


def test_gradient_of_relations_agrees_with_finite_differences():
    student, teacher = (states(seed, batch=1, heads=2, seq=3, width=2).requires_grad_() for seed in (0, 1))
    allowed = everything(1, 3).tril()
    assert torch.autograd.gradcheck(
        lambda s, t: multi_head_relation_kl(s, t, allowed, relation_heads=4), (student, teacher)
    )
    assert torch.autograd.gradcheck(lambda s, t: value_relation_kl(s, t, allowed), (student, teacher))


def test_low_precision_relations_lose_nothing_more():
    student, teacher = states(0).bfloat16(), states(1).bfloat16()
    values = multi_head_relation_kl(student, teacher, everything(), relation_heads=8)
    exact = multi_head_relation_kl(student.double(), teacher.double(), everything(), relation_heads=8)
    assert values.dtype == torch.float32
    assert_close(values.double(), exact, rtol=1e-5, atol=1e-7)
