"""Rows of like length in one batch, and an order that a killed run finds again."""

from itertools import pairwise
from random import Random

import pytest

from stillhouse.data.packing import pack
from stillhouse.training.order import ByLength

LENGTHS = Random(0).choices(range(3, 65), k=1003)


def batches(order: ByLength, size: int) -> list[list[int]]:
    rows = list(order)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(groups: list[list[int]]) -> int:
    return sum(max(LENGTHS[row] for row in group) * len(group) for group in groups)


@pytest.mark.parametrize("size", [1, 4, 17, 32, 2000])
def test_every_row_comes_once_an_epoch(size):
    assert sorted(ByLength(LENGTHS, rows_per_step=size, seed=0)) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("size", [4, 17, 32])
def test_little_of_a_batch_is_padding(size):
    assert sum(LENGTHS) >= 0.95 * padded(batches(ByLength(LENGTHS, rows_per_step=size, seed=0), size))
    in_any_order = Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    assert sum(LENGTHS) < 0.75 * padded(batches(in_any_order, size))


def test_batches_are_not_in_order_of_their_length():
    longest = [max(LENGTHS[row] for row in group) for group in batches(ByLength(LENGTHS, rows_per_step=17, seed=0), 17)]
    rises = sum(shorter < longer for shorter, longer in pairwise(longest))
    assert 0.3 < rises / len(longest) < 0.7


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        rows = ByLength(LENGTHS, rows_per_step=8, seed=seed)
        list(rows)  # what was drawn before does not count
        rows.set_epoch(epoch)
        return list(rows)

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_rows_that_are_alike_are_only_shuffled():
    rows = list(ByLength([7] * 100, rows_per_step=10, seed=0))
    assert rows != sorted(rows)


@pytest.mark.parametrize("rows_per_step", [2, 4, 8])
def test_less_than_two_per_cent_of_packed_positions_are_empty_even_where_no_two_documents_fit_together(rows_per_step):
    documents = [min(length, 512) for length in Random(1).choices(range(270, 900), k=1000)]
    rows = [sum(documents[index] for index in row) for row in pack(documents, row_tokens=512)]
    assert sum(rows) < 0.97 * 512 * len(rows)
    order = [rows[row] for row in ByLength(rows, rows_per_step=rows_per_step, seed=0)]
    steps = [order[start : start + rows_per_step] for start in range(0, len(order), rows_per_step)]
    assert sum(rows) > 0.98 * sum(len(step) * max(step) for step in steps)
