"""Orders that are computed: every number once, at any place, and in no order that one could see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.core.permutation import Permutation


@given(num=st.integers(0, 3000), seed=st.text(max_size=5))
def test_every_number_comes_once(num, seed):
    order = Permutation(num, seed)
    found = order.part(0, num)
    assert sorted(found.tolist()) == list(range(num))


@given(num=st.integers(1, 10**15), seed=st.text(max_size=5), data=st.data())
def test_a_place_has_its_number_whatever_else_is_asked_for(num, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, num - 1), min_size=1, max_size=9, unique=True)))
    found = Permutation(num, seed).at(places)
    assert ((found >= 0) & (found < num)).all() and len(set(found.tolist())) == len(places)
    assert [Permutation(num, seed).at(places[n : n + 1])[0] for n in range(len(places))] == found.tolist()


@pytest.mark.parametrize("num", [2, 3, 10, 97])
def test_every_number_comes_at_every_place_equally_often_over_the_seeds(num):
    """Chi-squared of numbers by places: of 9,409 counts at most, with a mean as its degrees of freedom."""
    seeds = 100 * num
    counts = np.zeros((num, num))
    for seed in range(seeds):
        counts[np.arange(num), Permutation(num, f"{seed}, epoch 0").part(0, num)] += 1
    expected, freedom = seeds / num, (num - 1) ** 2
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_are_no_nearer_than_any_others():
    found = Permutation(100_000, "0, epoch 0").part(0, 100_000).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.abs(np.diff(found)).mean() / 100_000 - 1 / 3) < 0.01
