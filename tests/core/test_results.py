"""Results: what older ones lack, and what each gives."""

import json

import pytest

from stillhouse.core.results import (
    HEADLINE,
    METRICS,
    Cost,
    EvaluationResult,
    HeldOut,
    Interval,
    ModelResult,
    Retention,
    SpeedUp,
)

OLD = {
    "held_out": {"documents": 3, "tokens": 40, "bytes": 160},
    "models": [
        {
            "role": "teacher",
            "name": "t",
            "metrics": {"forward_kl": {"value": 0.0, "low": 0.0, "high": 0.0}},
            "cost": {
                "parameters": 10,
                "parameters_without_embeddings": 6,
                "disk_bytes": 44,
                "prefill_tokens_per_second": {"value": 2.0, "low": 1.0, "high": 3.0},
                "decode_tokens_per_second": {"value": 5.0, "low": 4.0, "high": 6.0},
            },
        }
    ],
    "comparisons": [
        {"metric": "forward_kl", "other": "teacher", "difference": {"value": 0.1, "low": 0.0, "high": 0.2}}
    ],
    "samples": [{"prompt": "a", "continuations": {"teacher": "b"}}],
    "machine": {"cores": "2"},
}


def _model(role, parameters, without_embeddings):
    return ModelResult(role, role, {}, Cost(parameters, without_embeddings, 4 * parameters))


@pytest.fixture
def result():
    return EvaluationResult(
        HeldOut(5, 50),
        [_model("teacher", 100, 60), _model("student", 70, 30)],
        [],
        task="regression",
        retentions=[Retention("student", "spearman", Interval(0.97, 0.96, 0.98))],
        speeds=[SpeedUp("student", "document", Interval(1.6, 1.5, 1.7))],
    )


def test_a_result_from_before_tasks_is_one_of_causal_language_models():
    found = EvaluationResult.from_dict(OLD)
    assert found.task == "causal_lm"
    assert found.model("teacher").cost.decode_tokens_per_second == Interval(5.0, 4.0, 6.0)
    assert found.model("teacher").cost.document_milliseconds is None
    assert (found.retentions, found.speeds, found.held_out.answers) == ([], [], None)


def test_what_was_not_measured_stays_so_through_json(result):
    again = EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.model("student").cost == result.model("student").cost
    assert again.model("student").cost.decode_tokens_per_second is None
    assert (again.task, again.held_out) == ("regression", result.held_out)
    assert again.speed("student") == result.speed("student") == SpeedUp("student", "document", Interval(1.6, 1.5, 1.7))
    assert again.retention("student") == result.retention("student")


def test_what_a_role_has_not_is_none(result):
    assert result.retention("student").share.value == 0.97
    for found in (result.model, result.speed, result.retention):
        assert found("control_hard_labels") is None


def test_sixty_percent_faster_saves_three_eighths_of_the_time(result):
    speed = result.speed("student")
    assert speed.throughput_gained.value == pytest.approx(0.6)
    assert speed.time_saved.value == pytest.approx(0.375)
    for interval in (speed.throughput_gained, speed.time_saved):
        assert interval.low < interval.value < interval.high
    more = speed.throughput_gained
    assert speed.time_saved.low == pytest.approx(more.low / (1 + more.low))


def test_a_share_is_only_kept_of_a_metric_that_grows():
    assert all(METRICS[name].better == "higher" for name in HEADLINE.values())
