"""Multiple choice, minimal pairs, stereotypes and gaps between groups, on numbers that can be counted by hand."""

import numpy as np
import pytest

from stillhouse.evaluation.tasks.choosing import bbq, group_gaps, minimal_pairs, multiple_choice, weighed
from stillhouse.evaluation.tasks.rows import Choice


def score(result, metric, role="student"):
    return result.scores(role).metrics[metric].value


def test_bytes_decide_where_a_choice_is_longer():
    """The right choice has twice the bytes: less likely as a whole, likelier by the byte."""
    questions = [Choice("Q:", (" aa", " aaaa"), right=1)] * 3
    result = multiple_choice(weighed("set", questions, {"student": [[-3.0, -4.0]] * 3}))
    assert score(result, "accuracy") == 0
    assert score(result, "accuracy_by_bytes") == 1
    assert result.chance == 0.5 and result.headline == "accuracy_by_bytes"


def test_guessing_is_nothing_beyond_chance_and_knowing_all_is_everything():
    questions = [Choice("Q:", (" a", " b", " c", " d"), right=n % 4) for n in range(8)]
    always_first, right = [[0.0, -1, -1, -1]] * 8, [[float(c == n % 4) for c in range(4)] for n in range(8)]
    result = multiple_choice(weighed("set", questions, {"teacher": right, "student": always_first}))
    assert score(result, "accuracy") == 0.25
    assert score(result, "beyond_chance") == 0
    assert score(result, "beyond_chance", "teacher") == 1
    flips = result.scores("student").flips
    assert (flips.lost, flips.won, flips.both_right) == (6, 0, 2)


def test_questions_may_have_fewer_choices_than_others():
    questions = [Choice("Q:", (" a", " b"), right=0), Choice("Q:", (" a", " b", " c"), right=2)]
    result = multiple_choice(weighed("set", questions, {"student": [[-1.0, -2.0], [-3.0, -2.0, -1.0]]}))
    assert score(result, "accuracy") == 1
    assert result.chance == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_what_a_model_cannot_read_is_left_out_for_all_and_said():
    questions = [Choice("", ("good", "bad"))] * 3
    found = {"teacher": [[-1.0, -2.0]] * 3, "student": [[-1.0, -2.0], None, [-3.0, -2.0]]}
    result = minimal_pairs(weighed("set", questions, found))
    assert result.examples == 2
    assert score(result, "accuracy") == 0.5
    assert result.notes == ["left out: 1 longer than a model reads"]


def test_a_tie_is_no_preference_for_the_good_sentence():
    assert score(minimal_pairs(weighed("set", [Choice("", ("g", "b"))], {"student": [[-1.0, -1.0]]})), "accuracy") == 0


def test_a_random_student_is_at_chance():
    random = np.random.default_rng(0)
    questions = [Choice("Q:", (" a", " b", " c", " d"), right=int(n)) for n in random.integers(0, 4, 400)]
    result = multiple_choice(weighed("set", questions, {"student": random.normal(size=(400, 4)).tolist()}))
    for metric, chance in (("accuracy", 0.25), ("beyond_chance", 0.0)):
        found = result.scores("student").metrics[metric]
        assert found.low <= chance <= found.high


def test_a_sure_and_right_model_is_calibrated():
    questions = [Choice("Q:", (" a", " b"))] * 4
    result = multiple_choice(weighed("set", questions, {"student": [[0.0, -50.0]] * 4}))
    assert score(result, "calibration_error") == pytest.approx(0, abs=1e-9)
    assert score(result, "brier") == pytest.approx(0, abs=1e-9)
    (found,) = result.reliability
    assert [one.answers for one in found.bins] == [4]


def test_groups_are_told_apart_and_the_gap_is_between_the_same_two_for_all():
    questions = [Choice("", ("g", "b"), group=name) for name in ("men", "men", "women", "women")]
    teacher, student = [[1.0, 0], [1.0, 0], [1.0, 0], [0.0, 1]], [[0.0, 1], [0.0, 1], [1.0, 0], [1.0, 0]]
    result = minimal_pairs(weighed("set", questions, {"teacher": teacher, "student": student}))
    assert score(result, "group_gap", "teacher") == 0.5
    assert score(result, "group_gap") == -1.0
    assert result.scores("student").change["group_gap"].value == -1.5
    shown = {one.group: one.scored[0].metrics["accuracy"].value for one in result.groups}
    assert shown == {"men": 1.0, "women": 0.5}


def _bbq(condition, *, biased=1, unknown=2):
    right = unknown if condition == "ambig" else 1 - biased
    return Choice("Q:", (" a", " b", " c"), right, about={"condition": condition, "unknown": unknown, "biased": biased})


def test_bias_is_how_much_more_often_a_stereotype_decides():
    """Of two clear answers one by stereotype: no lean. Of two vague ones one by stereotype and one unknown: always, halved."""
    questions = [_bbq("disambig"), _bbq("disambig"), _bbq("ambig"), _bbq("ambig")]
    picks = [0, 1, 1, 2]
    result = bbq(weighed("bbq", questions, {"student": [[float(c == pick) for c in range(3)] for pick in picks]}))
    assert score(result, "accuracy_disambiguated") == 0.5
    assert score(result, "bias_disambiguated") == 0
    assert score(result, "accuracy_ambiguous") == 0.5
    assert score(result, "bias_ambiguous") == 0.5


def test_who_never_names_anybody_has_no_bias():
    questions = [_bbq("ambig")] * 4
    result = bbq(weighed("bbq", questions, {"student": [[0.0, 0.0, 1.0]] * 4}))
    assert score(result, "bias_ambiguous") == 0
    assert score(result, "accuracy_ambiguous") == 1


def test_gaps_are_within_an_item():
    """Item 2 is less likely as a whole, which is nobody's gap."""
    rows = [("men", "1", -1.0), ("women", "1", -2.0), ("men", "2", -5.0), ("women", "2", -6.0)]
    questions = [Choice("The x", (" y",), group=group, about={"item": item}) for group, item, _ in rows]
    result = group_gaps(weighed("set", questions, {"teacher": [[value] for *_, value in rows]}))
    assert result.examples == 2
    assert score(result, "group_gap", "teacher") == pytest.approx(1.0)
    assert score(result, "group: men", "teacher") == pytest.approx(0.5)
