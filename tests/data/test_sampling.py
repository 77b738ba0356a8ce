"""A few of many: every set equally likely, or every kind in its proportion to the row."""

from collections import Counter
from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data.sampling import Reservoir, reservoir, rows_beside, shared_out, stratified


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_every_set_of_rows_is_equally_likely_to_be_kept():
    """6,000 reservoirs of 2 of 6 rows: 15 sets, and 36.1 is what chi-square with 14 degrees exceeds once in 1,000."""
    found = Counter(tuple(reservoir(range(6), size=2, seed=f"{seed}")) for seed in range(6000))
    assert set(found) == set(combinations(range(6), 2))
    assert chi_square(found.values(), 400) < 36.1


def test_the_algorithm_is_exact_not_only_nearly_so():
    """All that chance can say of 4 rows and room for 2 is 3 * 4 cases: each of the 6 pairs has 2 of them."""

    class Told(Random):
        def randrange(self, stop):
            value = next(said)
            assert value < stop
            return value

    found = Counter()
    for third in range(3):
        for fourth in range(4):
            said = iter([third, fourth])
            kept = Reservoir(2, chance=Told())
            for row in range(4):
                kept.add(row)
            found[tuple(row for _, row in kept.numbered)] += 1
    assert found == dict.fromkeys(combinations(range(4), 2), 2)


@pytest.mark.parametrize("size", [1, 5, 12, 40])
def test_a_reservoir_holds_what_it_has_room_for_in_order_and_reads_once(size):
    rows = iter(range(12))
    kept = reservoir(rows, size=size, seed="0")
    assert len(kept) == min(size, 12) and kept == sorted(set(kept))
    assert not list(rows)
    assert kept == reservoir(range(12), size=size, seed="0")


def test_shares_by_hand():
    # 10 of 17: 8/17 is 4.7, 6/17 3.5, 3/17 1.8; rounded down 4, 3, 1, and the two largest remainders get one more.
    assert shared_out({"a": 8, "b": 6, "c": 3}, total=10) == {"a": 5, "b": 3, "c": 2}
    assert shared_out({"a": 1, "b": 1, "c": 1}, total=2) == {"a": 1, "b": 1, "c": 0}  # of equal ones the first
    assert shared_out({"a": 2, "b": 1}, total=9) == {"a": 2, "b": 1}


@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=8), total=st.integers(1, 100))
def test_shares_add_up_and_are_within_one_of_exact(counts, total):
    shares = shared_out(dict(enumerate(counts)), total=total)
    wanted = min(total, sum(counts))
    assert sum(shares.values()) == wanted
    for kind, count in enumerate(counts):
        assert abs(shares[kind] - wanted * count / sum(counts)) < 1 and shares[kind] <= count


def test_each_kind_is_drawn_in_its_proportion_and_all_of_it_equally_likely():
    rows = [("ab"[n % 3 == 0], n) for n in range(9)]  # 6 of a, 3 of b
    found = Counter()
    for seed in range(2000):
        kept = stratified(lambda: iter(rows), size=3, seed=f"{seed}")
        assert kept == sorted(kept) and Counter("ab"[n % 3 == 0] for n in kept) == {"a": 2, "b": 1}
        found.update(kept)
    assert chi_square((found[n] for n in range(9) if n % 3), 2000 / 3) < 20.5  # 5 degrees, once in 1,000
    assert chi_square((found[n] for n in range(0, 9, 3)), 2000 / 3) < 13.8


def test_rows_beside_others_are_the_share_as_it_was_written():
    assert rows_beside(300, 0.25) == 100 and rows_beside(9, 0.1) == 1 and rows_beside(90, 0.1) == 10
    for seed in range(50):
        num_rows, share = Random(seed).randrange(1, 500), Random(seed).randrange(0, 95) / 100
        num_more = rows_beside(num_rows, share)
        assert abs(num_more - share * (num_rows + num_more)) <= 0.5
