"""What a recipe may say about numbers that move, and what is built from it."""

import pytest
from pydantic import ValidationError

from stillhouse.objectives import AdaptiveRamp, Ramp
from stillhouse.training.config import ObjectiveConfig


def _ramp_of_t(**ramp):
    chosen = ObjectiveConfig.model_validate({"name": "taid", "t": {"start": 0.4, "end": 1.0, **ramp}})
    return chosen.build(student_layers=2, teacher_layers=4).ramps["t"]


def test_a_ramp_is_what_the_recipe_says_with_the_defaults_of_its_own_shape():
    assert _ramp_of_t() == Ramp(0.4, 1.0)
    assert _ramp_of_t(shape="cosine", until=0.5) == Ramp(0.4, 1.0, "cosine", 0.5)
    assert _ramp_of_t(shape="adaptive") == AdaptiveRamp(0.4, 1.0, 1.0, rate=5e-4, momentum=0.99)
    chosen = ObjectiveConfig.model_validate({"name": "taid", "t": {"start": 0.4, "end": 1.0, "shape": "adaptive"}})
    assert chosen.model_dump()["t"] | {"rate": 5e-4, "momentum": 0.99} == chosen.model_dump()["t"]
    paced = {"until": 0.5, "rate": 0.01, "momentum": 0.9}
    assert _ramp_of_t(shape="adaptive", **paced) == AdaptiveRamp(0.4, 1.0, **paced)


@pytest.mark.parametrize("name", ["weight", "temperature"])
def test_a_number_that_is_no_share_cannot_adapt(name):
    ramp = {"start": 0.5, "end": 1.0, "shape": "adaptive"}
    with pytest.raises(ValidationError, match=f"forward_kl's {name} cannot follow an adaptive ramp"):
        ObjectiveConfig.model_validate({"name": "forward_kl", name: ramp})


@pytest.mark.parametrize(
    ("ramp", "fault"),
    [
        ({"shape": "adaptive", "end": 0.2}, "it needs 0 <= start <= end <= 1, but start is 0.4 and end 0.2"),
        ({"shape": "cosine", "rate": 0.1}, "a ramp of shape cosine has no rate\\."),
        ({"rate": 0.0, "momentum": 0.5}, "a ramp of shape linear has no rate and no momentum\\."),
        ({"shape": "adaptive", "rate": 1.5}, "less than or equal to 1"),
        ({"shape": "adaptive", "momentum": 1.0}, "less than 1"),
    ],
)
def test_a_pace_that_cannot_be_kept_is_refused(ramp, fault):
    with pytest.raises(ValidationError, match=fault):
        _ramp_of_t(**ramp)
