import math

import pytest

from stillhouse.core.results import Interval
from stillhouse.reporting import formatting


@pytest.mark.parametrize(
    ("interval", "unit", "written"),
    [
        (Interval(0.7132, 0.695, 0.731), "share", "71.3 % [69.5, 73.1]"),
        (Interval(0.71, 0.66, 0.76), "share", "71 % [66, 76]"),
        (Interval(0.4812, 0.461, 0.503), "nats", "0.48 nats [0.46, 0.50]"),
        (Interval(1.0, 1.0, 1.0), "share", "100 %"),
        (Interval(0.0, 0.0, 0.0), "nats", "0 nats"),
        (Interval(2 / 3, 2 / 3 - 1e-16, 2 / 3 + 1e-16), "share", "66.67 %"),
        (Interval(12.345, 11.9, 12.8), "", "12.3 [11.9, 12.8]"),
        (Interval(float("nan"), float("nan"), float("nan")), "nats", "n/a nats [n/a, n/a]"),
    ],
)
def test_an_interval_is_written_no_finer_than_it_is_known(interval, unit, written):
    assert formatting.interval_text(interval, unit) == written


def test_a_bound_that_is_not_zero_does_not_look_like_zero():
    assert formatting.bounds_text(Interval(0.031, 0.0012, 0.06), "nats") == "[0.001, 0.060]"


def test_a_difference_between_percentages_is_counted_in_points():
    assert formatting.difference_text(Interval(0.051, 0.034, 0.068), "share") == "5.1 points [3.4, 6.8]"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.84, "0.8 s"),
        (42.4, "42 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (3599.9, "1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, written):
    assert formatting.duration(seconds) == written


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (134_515_008, "", "135 M"),
        (1_711_376_384, "", "1.71 B"),
        (162_800_000, "B", "163 MB"),
        (999_900, "B", "1.00 MB"),
        (512, "B", "512 B"),
        (0, "B", "0 B"),
    ],
)
def test_sizes_have_three_digits_and_a_prefix(value, unit, written):
    assert formatting.si(value, unit) == written


def test_minus_zero_is_zero():
    assert formatting.number(-0.0004, 2) == "0.00"


def test_short_numbers_keep_small_learning_rates_readable():
    assert [formatting.short(value) for value in (0, 2.5, 0.1, 1.5e-4, 5e-5, 20_000)] == [
        "0",
        "2.5",
        "0.1",
        "1.5e-4",
        "5e-5",
        "20 k",
    ]


def test_clean_text_keeps_what_people_write_and_replaces_what_steers_machines():
    assert formatting.clean("naïve 日本語 👩‍🔬 हिन्दी\n\ttab") == "naïve 日本語 👩‍🔬 हिन्दी\n\ttab"
    assert formatting.clean("\x1b[31m \u202e \ud800 \x00 \u2028") == "\ufffd[31m \ufffd \ufffd \ufffd \ufffd"


def test_what_one_document_cannot_bound_is_unknown():
    assert formatting.interval_text(Interval(0.1111, -math.inf, math.inf), "share") == "11.11 % [unknown]"
    assert "infinite" in formatting.interval_text(Interval(0.5, 0.25, math.inf), "nats"), "one end is still told"


def test_a_number_of_too_many_digits_for_a_table_has_an_exponent():
    assert formatting.number(139_039_270_340_610_107_386_034_999.0) == "1.4e26"
    assert formatting.number(-2.5e12, 2) == "-2.5e12" and formatting.number(999_999_999_999.0) == "999,999,999,999"
