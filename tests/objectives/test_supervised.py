"""The hard-label objective."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from stillhouse.objectives import forward_kl, next_token

from .cases import random_logits

TARGETS = torch.tensor([[0, 6, 3], [2, 2, 5]])


def test_next_token_is_the_cross_entropy_of_each_position():
    student = random_logits(0, 2, 3, 7)
    reference = F.cross_entropy(student.flatten(0, 1), TARGETS.flatten(), reduction="none").view(2, 3)
    assert_close(next_token(student, TARGETS), reference)


def test_next_token_adds_up_to_the_log_likelihood_of_the_sequence():
    student, targets = random_logits(0, 3, 7), [4, 0, 6]
    likelihood = 1.0
    for position, token in enumerate(targets):
        likelihood *= student[position].softmax(-1)[token].item()
    assert next_token(student, torch.tensor(targets)).sum().neg().exp().item() == pytest.approx(likelihood)


def test_next_token_is_forward_kl_from_a_teacher_that_allows_only_the_target():
    student = random_logits(0, 2, 3, 7)
    one_hot = torch.where(F.one_hot(TARGETS, 7).bool(), 0.0, -torch.inf).double()
    assert_close(next_token(student, TARGETS), forward_kl(student, one_hot))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_next_token_accepts_any_signed_integer(dtype):
    student = random_logits(0, 2, 3, 7)
    assert_close(next_token(student, TARGETS.to(dtype)), next_token(student, TARGETS))


def test_next_token_computes_in_float32_from_bfloat16():
    student = random_logits(0, 2, 3, 7).bfloat16()
    values = next_token(student, TARGETS)
    assert values.dtype == torch.float32
    assert_close(values.double(), next_token(student.double(), TARGETS), rtol=1e-5, atol=1e-6)


def test_next_token_is_finite_for_logits_of_ten_thousand():
    student = torch.tensor([[1e4, -1e4, 0.0]])
    assert next_token(student, torch.tensor([1])).tolist() == [2e4]
