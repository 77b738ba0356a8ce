"""Numbers that move over the training."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.objectives import AdaptiveRamp, Pace, Ramp

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


# Ramps that follow a value

VALUES = st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=30)


def walk(ramp, values):
    """Where it stands before the first step and after each."""
    paces = [Pace(ramp.start)]
    for step, value in enumerate(values, start=1):
        paces.append(ramp.after(paces[-1], value=value, progress=step / len(values)))
    return [pace.number for pace in paces]


def by_the_paper(values, start, end, alpha, beta):
    """The update of t as published, loss by loss; before the first is known t only keeps up with the schedule."""
    t, momentum, previous, steps = start, 0.0, None, []
    for step, loss in enumerate(values, start=1):
        scheduled = start + (end - start) * step / len(values)
        if previous is None:
            t = scheduled
        else:
            relative_change = (previous - loss) / (previous + 1e-15)
            momentum = beta * momentum + (1 - beta) * relative_change
            delta = alpha * (1 / (1 + math.exp(-momentum))) * (1 - t)
            t = min(end, max(scheduled, t + delta))
        previous = loss
        steps.append(t)
    return steps


@pytest.mark.parametrize(("start", "end"), [(0.4, 1.0), (0.2, 0.9), (0.0, 0.0)])
@given(values=st.lists(st.floats(0.1, 10), min_size=1, max_size=30), rate=st.floats(0, 1), momentum=st.floats(0, 0.99))
def test_an_adaptive_ramp_takes_the_steps_of_the_paper(start, end, values, rate, momentum):
    ramp = AdaptiveRamp(start, end, rate=rate, momentum=momentum)
    assert walk(ramp, values)[1:] == pytest.approx(by_the_paper(values, start, end, rate, momentum), abs=1e-12)


@given(values=VALUES, until=UNTIL, rate=st.floats(0, 1), momentum=st.floats(0, 0.99))
def test_an_adaptive_ramp_never_turns_back_nor_falls_behind_a_linear_one(values, until, rate, momentum):
    linear = Ramp(0.2, 0.9, until=until)
    walked = walk(AdaptiveRamp(0.2, 0.9, until, rate, momentum), values)
    assert walked == sorted(walked)
    assert all(0.2 <= number <= 0.9 for number in walked)
    assert all(number >= linear.at(step / len(values)) for step, number in enumerate(walked))
    assert walked[-1] == 0.9


@given(values=VALUES, until=UNTIL)
def test_an_adaptive_ramp_of_rate_zero_is_linear(values, until):
    walked = walk(AdaptiveRamp(0.4, 1.0, until, rate=0.0), values)
    assert walked == [Ramp(0.4, 1.0, until=until).at(step / len(values)) for step in range(len(values) + 1)]


def test_the_faster_a_value_falls_the_farther_an_adaptive_ramp_goes():
    ramp, shares = AdaptiveRamp(0.0, 1.0, rate=0.5, momentum=0.5), (0.3, 0.7, 1.0, 2.0)
    falling, slowly, level, rising = (walk(ramp, [share**step for step in range(12)]) for share in shares)
    assert falling[:2] == rising[:2]  # one value alone does not fall
    for step in range(2, 10):
        assert falling[step] > slowly[step] > level[step] > rising[step] >= step / 12


def test_a_ramp_of_fewer_steps_than_one_over_its_rate_is_linear_however_fast_a_value_falls():
    values = [2.0**-step for step in range(400)]
    assert walk(AdaptiveRamp(0.4, 1.0), values) == walk(AdaptiveRamp(0.4, 1.0, rate=0.0), values)


def test_a_value_that_is_infinite_says_nothing_of_a_pace():
    ramp = AdaptiveRamp(0.0, 1.0, rate=0.5, momentum=0.5)
    before = ramp.after(Pace(0.3, trend=0.1, last=2.0), value=1.0, progress=0.1)
    assert ramp.after(before, value=math.inf, progress=0.2) == before


@pytest.mark.parametrize("last", [0.0, -1e-15, 1e-300, 1e300])
def test_no_fall_is_too_steep_to_follow(last):
    ramp = AdaptiveRamp(0.0, 1.0)
    for value in (0.0, 1e300):
        moved = ramp.after(Pace(0.5, last=last), value=value, progress=0.0)
        assert 0.5 <= moved.number <= 0.5 + ramp.rate / 2
        assert math.isfinite(ramp.after(moved, value=1.0, progress=0.0).number)


@pytest.mark.parametrize(("start", "end"), [(0.9, 0.4), (-0.1, 1.0), (0.5, 1.5)])
def test_an_adaptive_ramp_is_refused_where_there_is_no_share_to_raise(start, end):
    with pytest.raises(ValueError, match=f"0 <= start <= end <= 1, but start is {start} and end {end}"):
        AdaptiveRamp(start, end)


@pytest.mark.parametrize(("rate", "momentum"), [(-0.1, 0.9), (1.1, 0.9), (0.1, 1.0), (0.1, -0.1), (math.nan, 0.9)])
def test_an_adaptive_ramp_is_refused_a_pace_that_it_cannot_keep(rate, momentum):
    with pytest.raises(ValueError, match=rf"but they are {rate} and {momentum}\."):
        AdaptiveRamp(0.0, 1.0, rate=rate, momentum=momentum)
