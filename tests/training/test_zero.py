"""Two processes that share a student by DeepSpeed's ZeRO do what one does. Skipped where DeepSpeed is not installed."""

import pytest
import torch
from torch.testing import assert_close

from .test_paired_loss import other_tokenizer  # noqa: F401
from .test_two_ranks import assert_the_same, assert_they_go_on, folder, found_by_two  # noqa: F401
from .two_ranks import ADAPTER, ALL_OVER, OddRows, learnt, steps

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")

MORE = ("classes", "mixed", "replayed", "replayed among others")
"""With rows that are too few for both, other data among them, and answers that are learnt more than once."""


@pytest.fixture(scope="module")
def of_two(folder):  # noqa: F811
    """What each of two processes found: to start them is what takes time."""
    for held in ("zero2", "zero3"):
        begun = folder / f"begun-by-one-adapted-{held}"
        assert learnt(folder, begun, num_ranks=1, stops_at=3, adapter=ADAPTER) is None
    return found_by_two(folder, "deepspeed", ("zero2", "zero3"))


@pytest.mark.parametrize(
    ("kind", "held", "student"),
    [
        ("texts", "zero2", "student"),
        ("texts", "zero3", "student"),
        ("spans", "zero3", "student"),
        ("written", "zero3", "student"),
        ("pairs", "zero3", "untied"),
        *[(kind, held, "student") for kind in MORE for held in ("zero2", "zero3")],
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


@pytest.mark.parametrize("held", ["zero2", "zero3"])
def test_an_adapter_is_that_of_one_process_whoever_begins_and_whoever_ends(folder, of_two, held):  # noqa: F811
    alone = learnt(folder, folder / "adapted-alone", num_ranks=1, adapter=ADAPTER)
    ended_by_one = learnt(folder, folder / f"begun-by-two-adapted-{held}", num_ranks=1, adapter=ADAPTER)
    ended_by_two = of_two[0]["adapted", held]
    kept_by_two = learnt(folder, folder / f"begun-by-one-adapted-{held}", num_ranks=1, adapter=ADAPTER)
    assert alone.keys() == ended_by_one.keys() == ended_by_two.keys()
    assert max(weight.abs().max() for name, weight in alone.items() if ".lora_B." in name) > 1e-2
    for name, weight in alone.items():
        assert_close(ended_by_one[name], weight, rtol=1e-3, atol=1e-4, msg=name)
        assert_close(ended_by_two[name], weight, rtol=1e-3, atol=1e-4, msg=name)
        assert torch.equal(kept_by_two[name], ended_by_two[name])


def test_an_adapter_of_embeddings_and_one_that_looks_at_base_weights_are_those_of_one(folder, of_two):  # noqa: F811
    alone = learnt(folder, folder / "all-over-alone", num_ranks=1, adapter=ALL_OVER)
    for name, weight in alone.items():
        assert_close(of_two[0]["all over", "zero3"][name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_a_step_that_is_no_number_is_passed_over_as_by_one(folder, of_two):  # noqa: F811
    alone = learnt(folder, folder / "odd", num_ranks=1, rows_type=OddRows)
    for held in ("zero2", "zero3"):
        for name, weight in alone.items():
            assert_close(of_two[0]["odd", held][name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_what_they_have_begun_one_ends_and_the_other_way_round(folder, of_two):  # noqa: F811
    assert_they_go_on(folder, of_two, ("zero2", "zero3"))
