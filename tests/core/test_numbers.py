"""Numbers in files are the numbers that memory would have held, in order or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core import numbers, sorting
from stillhouse.core.numbers import Counting, Numbers, counted, counting, places_of
from stillhouse.core.sorting import Index, firsts, in_order, ranked

RELAXED = settings(deadline=None)  # a slow disk is no fault
SOME = st.lists(st.integers(0, 50), max_size=60)
KEYS = st.lists(st.sampled_from([bytes([n % 3]) * 15 + bytes([n]) for n in range(40)]), max_size=60)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """So that a few numbers are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "BLOCK", 4)
        patch.setattr(sorting, "BLOCK", 4)
        patch.setattr(sorting, "RUN", 4)
        patch.setattr(sorting, "isqrt", lambda num: 0)
        patch.setattr(sorting, "PAGE", 3)
        yield


@RELAXED
@given(given=SOME, other=SOME, data=st.data())
def test_numbers_are_read_as_they_were_put_down(given, other, data):
    found = counting(given)
    assert [*found] == given == found.array().tolist() and len(found) == len(given)
    assert (found.sum(), found.max()) == (sum(given), max(given, default=0))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(given))] * 2)))
    assert [*found[start:stop]] == given[start:stop] and found[start:stop] == given[start:stop]
    assert [*found.then(counting(other))] == [*given, *other]
    assert [*found.then(counting(other))[start:]] == [*given, *other][start:]
    assert [*found.each(lambda block: 2 * block)] == [2 * number for number in given]
    places = data.draw(st.lists(st.integers(0, len(given) - 1), max_size=9)) if given else []
    assert found.at(np.array(places, np.int64)).tolist() == [given[place] for place in places]
    assert [*found.those(counting(places))] == [given[place] for place in places] == [found[place] for place in places]
    assert [*places_of(found.each(lambda block: block > 20))] == [n for n, one in enumerate(given) if one > 20]


@RELAXED
@given(given=st.lists(st.tuples(st.integers(0, 9), st.integers(-9, 9)), max_size=20), some=st.integers(0, 5))
def test_rows_of_numbers_are_rows_however_they_come(given, some):
    found = Counting(np.int32)
    for row in given[:some]:
        found.add(row)
    found.add_all(np.array(given[some:], np.int32).reshape(-1, 2))
    assert len(found) == len(given) and [*found.numbers()] == [list(row) for row in given]


def test_numbers_that_lie_far_apart_are_not_all_read():
    asked = []

    def part(start, stop):
        asked.append((start, stop))
        return np.arange(start, stop)

    assert Numbers(10**9, part).at(np.array([10**8, 5])).tolist() == [10**8, 5]
    assert asked == [(10**8, 10**8 + 1), (5, 6)]


@RELAXED
@given(given=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=2)), max_size=60))
def test_records_come_in_the_order_of_their_fields(given):
    kind = np.dtype([("number", ">u8"), ("text", "S2")])
    found = in_order(counted([np.array(given, kind)] if given else [], kind), kind)
    assert [*found] == sorted((number, text.rstrip(b"\0")) for number, text in given)


@RELAXED
@given(given=SOME)
def test_ranks_are_those_of_a_stable_sort(given):
    found = ranked(counting(given))
    assert [*found] == np.argsort(given, kind="stable").tolist()
    assert [*ranked(found)] == np.argsort([*found]).tolist(), "where each has gone"


@RELAXED
@given(keys=KEYS, others=KEYS)
def test_keys_are_found_where_they_stand(keys, others):
    stored, index = counting(keys, "S16"), Index(counting(keys, "S16"))
    assert [*firsts(stored)] == [n for n, key in enumerate(keys) if key not in keys[:n]]
    for key in others:
        assert (key in index) == (key in keys)
        assert index.find(key) == max((n for n, one in enumerate(keys) if one == key), default=None)
