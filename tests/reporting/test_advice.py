from dataclasses import replace

from stillhouse.core.results import Comparison, Interval
from stillhouse.reporting.advice import advise


def titles(result, *, curves=None, data=None, stages=()):
    return [advice.title for advice in advise(result, curves=curves or {}, data=data or {}, stages=stages)]


def curve(values):
    return {"student": [{"step": step, "forward_kl": value} for step, value in enumerate(values)]}


def test_a_loss_that_still_falls_suggests_more_training(result):
    assert "Train longer" in titles(result, curves=curve([100 - step for step in range(60)]))


def test_noise_is_not_a_fall(result):
    noisy = [1.0 + 0.5 * (-1) ** step - 0.0006 * step for step in range(60)]
    assert "Train longer" not in titles(result, curves=curve(noisy))


def test_a_flat_loss_with_low_agreement_suggests_a_larger_student(result):
    assert "Keep more layers, or use more varied text" in titles(result, curves=curve([1.0] * 60))


def test_a_missing_control_comes_first(result):
    models = [model for model in result.models if not model.role.startswith("control")]
    assert titles(replace(result, models=models))[0] == "Train a control: evaluation.control: hard_labels"


def test_a_student_that_is_only_worse_is_not_recommended(result):
    rows = [Comparison("forward_kl", "control_hard_labels", Interval(0.2, 0.1, 0.3))]
    assert "Use the control instead of this student" in titles(replace(result, comparisons=rows))


def test_a_student_better_than_its_teacher_is_doubted(result):
    rows = [Comparison("bits_per_byte", "teacher", Interval(-0.2, -0.3, -0.1))]
    assert "Evaluate on text from elsewhere" in titles(replace(result, comparisons=rows))


def test_filters_that_drop_much_and_stages_that_take_long_are_named(result):
    data = {"synthesised": {"documents": 10, "dropped": {"too_short": 30, "repetitive": 1}}}
    stages = [{"name": "label", "seconds": 90}, {"name": "train", "seconds": 10}]
    found = titles(result, data=data, stages=stages)
    assert "Look at what the filters removed" in found
    assert "To go faster, look at the stage `label` first" in found
