"""Two processes that share a student by DeepSpeed's ZeRO do what one does. Skipped where DeepSpeed is not installed."""

import pytest
import torch
from torch.testing import assert_close

from .test_paired_loss import other_tokenizer  # noqa: F401
from .test_two_ranks import assert_the_same, assert_they_go_on, folder, found_by_two  # noqa: F401
from .two_ranks import OddRows, learnt, steps

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def of_two(folder):  # noqa: F811
    """What each of two processes found: to start them is what takes time."""
    return found_by_two(folder, "deepspeed", ("zero2", "zero3"))


@pytest.mark.parametrize(
    ("kind", "held", "student"),
    [
        ("texts", "zero2", "student"),
        ("texts", "zero3", "student"),
        ("spans", "zero3", "student"),
        ("written", "zero3", "student"),
        ("pairs", "zero3", "untied"),
    ],
)
def test_a_step_has_the_gradient_and_the_log_of_one_process(folder, of_two, kind, held, student):  # noqa: F811
    alone = steps(folder, num_ranks=1, rows_per_micro_batch=4, kind=kind, student=student)
    assert_the_same(alone, [rank[kind, held] for rank in of_two])


def test_in_bfloat16_gradients_are_near_those_in_float32(folder, of_two):  # noqa: F811
    alone, _, _ = steps(folder, num_ranks=1, rows_per_micro_batch=4)
    for one, other in zip(alone, of_two[0]["texts", "in bfloat16"][0], strict=True):
        exact, near = (torch.cat([gradient.flatten() for gradient in step.values()]) for step in (one, other))
        assert 1e-4 < (near - exact).norm() / exact.norm() < 0.05


def test_a_step_that_is_no_number_is_passed_over_as_by_one(folder, of_two):  # noqa: F811
    alone = learnt(folder, folder / "odd", num_ranks=1, rows_type=OddRows)
    for held in ("zero2", "zero3"):
        for name, weight in alone.items():
            assert_close(of_two[0]["odd", held][name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_what_they_have_begun_one_ends_and_the_other_way_round(folder, of_two):  # noqa: F811
    assert_they_go_on(folder, of_two, ("zero2", "zero3"))
