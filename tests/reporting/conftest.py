"""A result such as a real run of a few minutes gives, with the numbers of no real run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import exp
from random import Random
from typing import Any

import pytest

from stillhouse.core.results import (
    HEADLINE,
    Comparison,
    Cost,
    EvaluationResult,
    HeldOut,
    Interval,
    ModelResult,
    Retention,
    Role,
    Sample,
    SpeedUp,
)
from stillhouse.core.task import Task

RECIPE = """\
teacher: {kind: local, model: SmolLM2-135M-Instruct}
student: {kind: from_layers, keep: 18, method: greedy}
data: {kind: synthesised, documents: 120}
objectives:
- {name: forward_kl, weight: 0.9, temperature: 2.0}
- {name: next_token, weight: 0.1}
training: {steps: 300, learning_rate: 0.0002}
evaluation: {control: hard_labels}
"""

PROMPT = "Once upon a time, a small fox found a copper kettle at the edge of the wood. "
TEACHER_TEXT = (
    "It was old and dented, but when the fox breathed on it, it began to hum. The fox listened for a long while, and "
    "then it carried the kettle home, where its mother was stacking firewood for the winter."
)
STUDENT_TEXT = (
    "It was old and dented, but when the fox breathed on it, it shone like the morning. The fox was so happy that it "
    "ran home to show its mother, and together they made tea for all of the animals."
)
CONTROL_TEXT = (
    'It was old and it was a kettle. The fox said, "I will take it home." The fox took it home and the fox was happy '
    "and the kettle was happy and the fox was happy."
)
BEFORE_TEXT = "It the the old, old old of the kettle of of the, and the fox the the. and, and the the the"


def interval(value: float, half_width: float) -> Interval:
    return Interval(value, value - half_width, value + half_width)


def model(role: Role, name: str, values: tuple[float, ...], *, parameters: int, speed: float) -> ModelResult:
    bits, perplexity, kl, agreement = values
    metrics = {
        "bits_per_byte": interval(bits, 0.02),
        "perplexity": interval(perplexity, 0.04 * perplexity),
        "forward_kl": interval(kl, 0.03 * kl),
        "top1_agreement": interval(agreement, 0.018) if agreement < 1 else interval(1.0, 0.0),
    }
    cost = Cost(
        parameters, parameters - 28_311_552, 2 * parameters, interval(11 * speed, 0.4 * speed), interval(speed, 0.9)
    )
    return ModelResult(role, name, metrics, cost)


def make_result() -> EvaluationResult:
    models = [
        model("teacher", "SmolLM2-135M-Instruct", (0.912, 9.41, 0.0, 1.0), parameters=134_515_008, speed=31.2),
        model("student_before", "18 of 30 layers", (1.544, 44.9, 2.31, 0.412), parameters=92_046_528, speed=51.8),
        model("student", "fox-92M", (0.981, 11.2, 0.287, 0.713), parameters=92_046_528, speed=51.9),
        model("control_hard_labels", "18 of 30 layers", (1.004, 11.9, 0.402, 0.661), parameters=92_046_528, speed=51.7),
    ]
    comparisons = [
        Comparison("bits_per_byte", "teacher", interval(0.069, 0.008)),
        Comparison("bits_per_byte", "student_before", interval(-0.563, 0.02)),
        Comparison("forward_kl", "student_before", interval(-2.02, 0.06)),
        Comparison("top1_agreement", "student_before", interval(0.301, 0.015)),
        Comparison("bits_per_byte", "control_hard_labels", interval(-0.004, 0.009)),
        Comparison("perplexity", "control_hard_labels", interval(-0.2, 0.41)),
        Comparison("forward_kl", "control_hard_labels", interval(-0.115, 0.011)),
        Comparison("top1_agreement", "control_hard_labels", interval(0.052, 0.012)),
    ]
    return EvaluationResult(
        held_out=HeldOut(documents=64, tokens=13_120, bytes=55_800),
        models=models,
        comparisons=comparisons,
        samples=make_samples(),
        machine={"processor": "2 cores, x86_64", "python": "3.11.7", "torch": "2.9.0", "threads": "2"},
    )


def make_samples() -> list[Sample]:
    continuations: dict[Role, str] = {
        "teacher": TEACHER_TEXT,
        "student": STUDENT_TEXT,
        "student_before": BEFORE_TEXT,
        "control_hard_labels": CONTROL_TEXT,
    }
    prompts = [
        PROMPT,
        "The lighthouse keeper had not spoken to anyone for a year, until ",
        "Explain why the sky is blue.\n",
    ]
    return [Sample(prompt, continuations) for prompt in prompts]


def make_curve(terms: Mapping[str, tuple[float, float]], *, seed: int, steps: int = 300) -> list[dict[str, float]]:
    """Losses that fall from the first to the second number of each term, with noise."""
    noise = Random(seed)
    lines = []
    for step in range(1, steps + 1):
        line = {
            "step": float(step),
            "tokens": 2048.0 * step,
            "learning_rate": 2e-4 * min(1.0, step / 20) * (1 - step / steps),
        }
        for name, (first, last) in terms.items():
            line[name] = (last + (first - last) * exp(-step / 45)) * (1 + 0.06 * noise.gauss(0, 1))
        lines.append(line)
    return lines


def make_inputs() -> dict[str, Any]:
    scores = [0.71] + [0.05 + 0.11 * abs((layer * 7) % 11 - 5) / 5 for layer in range(1, 29)] + [0.52]
    return {
        "title": "fox-92M",
        "result": make_result(),
        "curves": {
            "student": make_curve({"forward_kl": (2.4, 0.31), "next_token": (3.9, 2.35), "loss": (2.55, 0.51)}, seed=1),
            "control_hard_labels": make_curve({"next_token": (3.9, 2.38), "loss": (3.9, 2.38)}, seed=2),
        },
        "recipe_yaml": RECIPE,
        "layers": {
            "method": "greedy",
            "kept": [0, 1, 2, 3, 5, 7, 8, 10, 12, 13, 15, 17, 18, 21, 23, 26, 28, 29],
            "teacher_layers": 30,
            "start_kl_nats": 2.31,
            "alternatives": {"block_influence": 2.92, "uniform": 8.21},
            "calibration_tokens": 1024,
            "scores": scores,
        },
        "data": {
            "synthesised": {
                "documents": 120,
                "tokens": 24_310,
                "seconds": 131.4,
                "dropped": {"too_short": 9, "repetitive": 4, "duplicate": 2},
            },
            "train_documents": 96,
            "train_tokens": 19_420,
            "held_out_documents": 24,
            "labels": {"signal": "last_hidden", "bytes": 22_369_536, "bytes_per_token": 1152, "seconds": 14.2},
        },
        "stages": [
            {"name": "synthesize", "seconds": 131.4},
            {"name": "label", "seconds": 14.2},
            {"name": "train student", "seconds": 201.7},
            {"name": "train control", "seconds": 176.0},
            {"name": "evaluate", "seconds": 38.9},
        ],
    }


ENCODER_TASKS: tuple[Task, ...] = (
    "masked_lm",
    "sequence_classification",
    "regression",
    "token_classification",
    "sentence_embedding",
)
ROLES: tuple[Role, ...] = ("teacher", "student_before", "student", "control_hard_labels")

# Teacher, before, student, control.
VALUES: dict[str, tuple[float, float, float, float]] = {
    "accuracy": (0.912, 0.334, 0.886, 0.861),
    "macro_f1": (0.903, 0.21, 0.871, 0.848),
    "span_f1": (0.88, 0.05, 0.842, 0.811),
    "matthews_correlation": (0.861, 0.02, 0.822, 0.791),
    "cross_entropy": (0.31, 1.12, 0.38, 0.43),
    "forward_kl": (0.0, 0.88, 0.071, 0.182),
    "top1_agreement": (1.0, 0.34, 0.933, 0.894),
    "calibration_error": (0.021, 0.11, 0.024, 0.052),
    "spearman": (0.862, 0.41, 0.841, 0.832),
    "pearson": (0.871, 0.39, 0.849, 0.838),
    "mean_squared_error": (0.61, 2.9, 0.74, 0.78),
    "teacher_spearman": (1.0, 0.52, 0.961, 0.902),
    "teacher_pearson": (1.0, 0.5, 0.968, 0.911),
    "teacher_cosine": (0.934, 0.21, 0.871, 0.402),
    "teacher_cka": (1.0, 0.44, 0.93, 0.72),
}
METRICS_OF: dict[Task, tuple[str, ...]] = {
    "masked_lm": ("accuracy", "cross_entropy", "forward_kl", "top1_agreement"),
    "sequence_classification": (
        *("accuracy", "macro_f1", "matthews_correlation", "cross_entropy", "forward_kl", "top1_agreement"),
        "calibration_error",
    ),
    "regression": ("spearman", "pearson", "mean_squared_error", "teacher_spearman", "teacher_pearson"),
    "token_classification": ("macro_f1", "accuracy", "span_f1", "cross_entropy", "forward_kl", "top1_agreement"),
    "sentence_embedding": ("spearman", "pearson", "teacher_spearman", "teacher_cosine", "teacher_cka"),
}
HELD_OUT: dict[Task, HeldOut] = {
    "masked_lm": HeldOut(640, 81_920, answers=12_300),
    "token_classification": HeldOut(640, 81_920, answers=44_100),
    "sequence_classification": HeldOut(640, 81_920),
    "regression": HeldOut(640, 81_920),
    "sentence_embedding": HeldOut(1_200, 18_920, answers=640),
}


def around(name: str, value: float) -> Interval:
    is_exact = ((name.startswith("teacher_") or name == "top1_agreement") and value == 1) or value == 0
    return interval(value, 0.0 if is_exact else 0.03 * value)


def encoder_result(task: Task) -> EvaluationResult:
    """Half the layers, 61 % faster, and most of the teacher kept."""
    names, headline = METRICS_OF[task], HEADLINE[task]

    def cost(role: Role) -> Cost:
        parameters = 22_713_216 if role == "teacher" else 17_389_824
        milliseconds = 7.71 if role == "teacher" else 4.79
        return Cost(
            parameters,
            parameters - 11_920_896,
            4 * parameters,
            document_milliseconds=interval(milliseconds, 0.2),
        )

    models = [
        ModelResult(
            role, name, {metric: around(metric, VALUES[metric][ROLES.index(role)]) for metric in names}, cost(role)
        )
        for role, name in zip(ROLES, ("MiniLM-L6", "3 of 6 layers", "mini-3", "3 of 6 layers"), strict=True)
    ]
    comparisons = [
        Comparison(metric, role, interval(VALUES[metric][2] - VALUES[metric][ROLES.index(role)], 0.012))
        for role in ROLES
        if role != "student"
        for metric in names
    ]
    retentions = [
        Retention(role, headline, interval(VALUES[headline][ROLES.index(role)] / VALUES[headline][0], 0.009))
        for role in ROLES[1:]
    ]
    return EvaluationResult(
        held_out=HELD_OUT[task],
        models=models,
        comparisons=comparisons,
        machine={"processor": "2 cores, x86_64", "torch": "2.9.0"},
        task=task,
        retentions=retentions,
        speeds=[SpeedUp(role, "document", interval(1.61, 0.03)) for role in ROLES[1:]],
    )


@pytest.fixture(params=ENCODER_TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    """Every task but causal language modelling."""
    found: Task = request.param
    return found


@pytest.fixture
def of_task() -> Callable[[Task], EvaluationResult]:
    """A small result of any task but causal language modelling."""
    return encoder_result


@pytest.fixture
def result() -> EvaluationResult:
    return make_result()


@pytest.fixture
def inputs() -> dict[str, Any]:
    """Everything that `write_report` takes, complete."""
    return make_inputs()


@pytest.fixture
def with_difference() -> Callable[..., EvaluationResult]:
    """The same result with one paired difference replaced."""

    def replaced(metric: str, other: Role, difference: Interval) -> EvaluationResult:
        base = make_result()
        others = [row for row in base.comparisons if (row.metric, row.other) != (metric, other)]
        return replace(base, comparisons=[*others, Comparison(metric, other, difference)])

    return replaced
