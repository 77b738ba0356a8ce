"""Numbers that move over the training."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.objectives import Ramp

ENDS = st.floats(-100, 100)
UNTIL = st.floats(0.01, 1)
PROGRESS = st.floats(0, 1)
SHAPES = ("linear", "cosine", "step")


@pytest.mark.parametrize("shape", SHAPES)
@given(start=ENDS, end=ENDS, until=UNTIL, progress=PROGRESS)
def test_a_ramp_starts_and_arrives_exactly_and_stays(shape, start, end, until, progress):
    ramp = Ramp(start, end, shape, until)
    assert ramp.at(0) == start
    assert ramp.at(until) == end
    assert ramp.at(max(progress, until)) == end
    assert ramp.at(1) == end


@pytest.mark.parametrize("shape", SHAPES)
@given(until=UNTIL, earlier=PROGRESS, later=PROGRESS)
def test_a_ramp_never_turns_back_nor_leaves_its_ends(shape, until, earlier, later):
    ramp = Ramp(2, 5, shape, until)
    earlier, later = sorted((earlier, later))
    assert 2 <= ramp.at(earlier) <= ramp.at(later) <= 5


def test_shapes_are_what_they_are_called():
    assert [Ramp(0, 8, "linear", 0.5).at(progress) for progress in (0, 0.125, 0.25, 0.5, 0.75)] == [0, 2, 4, 8, 8]
    assert [Ramp(0, 8, "step", 0.5).at(progress) for progress in (0, 0.25, 0.4999, 0.5, 1)] == [0, 0, 0, 8, 8]
    cosine = [Ramp(0, 8, "cosine").at(progress) for progress in (0.25, 0.5, 0.75)]
    assert cosine == pytest.approx([4 - 4 * math.sqrt(0.5), 4, 4 + 4 * math.sqrt(0.5)])


@pytest.mark.parametrize("until", [0, -0.5, 1.5, math.nan])
def test_a_ramp_that_never_arrives_is_refused(until):
    with pytest.raises(ValueError, match=f"above 0 and up to 1, but it is {until}"):
        Ramp(0, 1, until=until)


@pytest.mark.parametrize(("start", "end"), [(math.inf, 1), (0, math.nan)])
def test_a_ramp_between_no_numbers_is_refused(start, end):
    with pytest.raises(ValueError, match=f"start is {start} and end {end}"):
        Ramp(start, end)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_is_a_share(progress):
    with pytest.raises(AssertionError, match="progress is a share"):
        Ramp(0, 1).at(progress)
