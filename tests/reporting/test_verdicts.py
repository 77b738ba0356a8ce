from dataclasses import replace

import pytest

from stillhouse.core.results import Comparison, Interval
from stillhouse.reporting.verdicts import best_roles, findings, headline, kept, lead, verdict


def test_the_first_sentence_says_size_speed_and_agreement(result):
    assert kept(result) == (
        "The student has 68 % of the teacher's parameters, runs 1.7x as fast, "
        "and agrees with its teacher on 71.3 % of tokens [69.5, 73.1]."
    )


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Interval(0.05, 0.04, 0.06), "[69.5, 73.1]; trained without the teacher's signals, it would agree on 66.1 %."),
        (Interval(0.00, -0.01, 0.01), "[69.5, 73.1]; no gain from the teacher's signals was shown."),
        (Interval(-0.05, -0.06, -0.04), "it would agree on 66.1 %, which is better."),
    ],
)
def test_the_lead_is_honest_without_what_follows_it(with_difference, difference, said):
    assert lead(with_difference("top1_agreement", "control_hard_labels", difference)).endswith(said)


def test_the_lead_says_when_there_was_no_control(result):
    models = [model for model in result.models if not model.role.startswith("control")]
    assert lead(replace(result, models=models)).endswith("; no control was trained to compare it with.")


def test_a_gain_is_said_with_its_interval(result):
    text = headline(result)
    assert "it would agree on 66.1 % of tokens [64.3, 67.9]: the teacher's signals gained 5.2 points [4.0, 6.4]" in text
    assert "Before training it agreed on 41.2 % of tokens [39.4, 43.0]: training gained 30.1 points" in text


def test_an_interval_that_includes_zero_is_no_gain(with_difference):
    result = with_difference("top1_agreement", "control_hard_labels", Interval(0.004, -0.012, 0.020))
    assert "no gain from the teacher's signals was shown: 0.4 points [-1.2, 2.0] includes 0" in headline(result)
    assert findings(result)[0].outcome == "mixed"  # the KL still shows a gain, and the finding says so
    assert "On KL from teacher, the teacher's signals gained" in headline(result)


def test_a_student_worse_than_its_control_is_called_worse(with_difference):
    result = with_difference("top1_agreement", "control_hard_labels", Interval(-0.03, -0.05, -0.01))
    assert "the student is worse than this control by 3 points [1, 5]" in headline(result)


def test_training_that_did_harm_is_said_to_have_done_harm(with_difference):
    result = with_difference("top1_agreement", "student_before", Interval(-0.10, -0.12, -0.08))
    assert "training made the student worse by 10 points [8, 12]" in headline(result)


def test_a_metric_that_disagrees_with_the_headline_is_named(with_difference):
    result = with_difference("bits_per_byte", "control_hard_labels", Interval(0.02, 0.01, 0.03))
    assert "On bits per byte, the student is worse than this control by 0.020 bits [0.010, 0.030]" in headline(result)
    assert findings(result)[0].outcome == "mixed"


def test_without_a_control_nothing_is_credited_to_the_teacher(result):
    models = [model for model in result.models if not model.role.startswith("control")]
    assert "No control was trained" in headline(replace(result, models=models))


def test_of_two_strangers_nothing_is_said_of_a_training(result):
    models = [model for model in result.models if model.role in ("teacher", "student")]
    strangers = replace(result, models=models, made_here=False)
    assert "No third model stands beside the two" in headline(strangers)
    assert "control" not in headline(strangers) + lead(strangers)


def test_a_control_that_was_never_compared_shows_no_gain(result):
    text = headline(replace(result, comparisons=[]))
    assert "the difference was not measured, so no gain was shown" in text
    assert "gained" not in text


def test_a_difference_that_is_not_a_number_is_no_gain():
    nan = float("nan")
    assert verdict(Comparison("top1_agreement", "student_before", Interval(nan, nan, nan))).outcome == "none"


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (Interval(31.5, 30.6, 32.4), "shows no difference in speed"),
        (Interval(20.0, 19.0, 21.0), "runs 0.64x as fast"),
        (Interval(62.4, 61.0, 63.0), "runs 2.0x as fast"),
    ],
)
def test_speed_is_claimed_only_outside_the_intervals(result, speed, said):
    student = result.model("student")
    slow = replace(student, cost=replace(student.cost, decode_tokens_per_second=speed))
    models = [slow if model.role == "student" else model for model in result.models]
    assert said in kept(replace(result, models=models))


@pytest.mark.parametrize("metric", ["forward_kl", "bits_per_byte", "perplexity", "a_new_one"])
def test_the_headline_falls_back_on_whatever_was_measured(result, metric):
    models = [replace(model, metrics={metric: Interval(1.05, 1.01, 1.09)}) for model in result.models]
    rows = [Comparison(metric, "control_hard_labels", Interval(-0.2, -0.3, -0.1))]
    text = headline(replace(result, models=models, comparisons=rows))
    assert "1.05" in text
    assert ("gained" in text) == (metric != "a_new_one")  # which side is better is not known for an unknown metric


def test_best_is_shared_only_where_no_difference_was_shown(result):
    assert best_roles(result, "top1_agreement") == {"student"}
    assert best_roles(result, "bits_per_byte") == {"student", "control_hard_labels"}


def test_a_student_alone_is_described_without_a_teacher(result):
    alone = replace(result, models=[result.model("student")], comparisons=[])
    assert kept(alone) == "The student agrees with its teacher on 71.3 % of tokens [69.5, 73.1]."
    assert kept(replace(result, models=[])) == "No student was measured."
