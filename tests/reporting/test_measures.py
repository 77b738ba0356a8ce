"""Questions, likeness and calibration in the report: everything that was measured is shown, and nothing is if nothing was."""

import re
from dataclasses import replace

import numpy as np
import pytest

from stillhouse.core.likeness import CURVES, CalibrationFound, LayerLikeness, LayerPair, OutputLikeness, SimilarityFound
from stillhouse.core.measures import Bin, GroupScored, Reliability, Scored, TaskResult
from stillhouse.core.results import EvaluationResult, Flips, Interval
from stillhouse.core.suite_results import RESULTS, found_by
from stillhouse.core.suites import ALWAYS, SuiteName
from stillhouse.core.tasks import TasksFound
from stillhouse.reporting.html import render_report
from stillhouse.reporting.tasks import BLIND_SPOTS, task_line

HALF = Interval(0.5, 0.4, 0.6)
ROLES = ("teacher", "student", "student_before", "control_hard_labels")
BINS = [Bin(40, 0.3, Interval(0.25, 0.1, 0.4)), Bin(60, 0.9, Interval(0.8, 0.7, 0.9))]


def task(name="piqa <b>", **changes):
    scored = [
        Scored(
            role,
            {"accuracy_by_bytes": HALF, "beyond_chance": Interval(0.0, -0.1, 0.1)},
            retained={} if role == "teacher" else {"accuracy_by_bytes": Interval(0.8, 0.7, 0.9)},
            flips=None if role == "teacher" else Flips(40, 12, 7, 41, 0.359),
        )
        for role in ROLES
    ]
    groups = [GroupScored(group, 50, [Scored(role, {"accuracy_by_bytes": HALF}) for role in ROLES]) for group in "ab"]
    reliability = [Reliability(role, name, HALF, HALF, BINS) for role in ROLES]
    made = TaskResult(name, "multiple_choice", 100, "accuracy_by_bytes", scored, 0.5, ["a note"], groups, reliability)
    return replace(made, **changes)


SUITES = {
    "tasks": TasksFound([task()]),
    "similarity": SimilarityFound(
        17,
        3000,
        [Scored(role, dict.fromkeys(CURVES, HALF)) for role in ROLES],
        [
            LayerLikeness(
                role,
                512,
                np.linspace(-0.1, 1, 12).reshape(4, 3).tolist(),
                [LayerPair(layer, layer, HALF, HALF, HALF) for layer in range(3)],
            )
            for role in ROLES[1:]
        ],
        [OutputLikeness(role, HALF, HALF, HALF) for role in ROLES[1:]],
        16,
        "the mean of the teacher's own last states",
    ),
    "calibration": CalibrationFound(
        17, 100, [Reliability(role, "the text's next token", HALF, HALF, BINS) for role in ROLES]
    ),
}


@pytest.fixture
def measured(result):
    return replace(result, suites={name: found.to_dict() for name, found in SUITES.items()})


def test_what_a_suite_found_is_read_back_as_it_was(measured):
    read = EvaluationResult.from_dict(measured.to_dict())
    assert {name: found.to_dict() for name, found in found_by(read).items()} == {
        name: found.to_dict() for name, found in SUITES.items()
    }
    assert found_by(read)["tasks"].tasks[0].scores("student").flips.changed == 19


def test_what_only_another_version_knows_is_left_out(measured):
    assert "other" not in found_by(replace(measured, suites={**measured.suites, "other": {"x": 1}}))


def test_every_suite_has_a_result_and_every_number_a_line():
    assert set(SUITES) <= RESULTS.keys()
    assert {*RESULTS, *ALWAYS} == set(SuiteName.__args__)
    for name, found in SUITES.items():
        lines = [number.line(name) for number in found.numbers()]
        assert lines and all({"evaluated", "metric", "suite", "value", "low", "high"} <= line.keys() for line in lines)


def test_the_report_shows_all_of_it_and_escapes_what_is_not_ours(inputs, measured):
    page = render_report(**{**inputs, "result": measured})
    for section in ("tasks", "similarity", "calibration"):
        assert f'id="{section}"' in page
    assert "<b>piqa" not in page and "piqa <b>" not in page and "piqa &lt;b&gt;" in page
    assert page.count('class="nearest"') == 6  # two maps of three layers
    assert "McNemar" in page and "12 / 7" in page
    text = re.sub(r"<[^>]+>", " ", page)
    assert BLIND_SPOTS["multiple_choice"].rstrip(".") in text
    assert "framed" in text.casefold()


def test_without_suites_no_section_is_there(inputs):
    page = render_report(**inputs)
    assert not any(f'id="{section}"' in page for section in ("tasks", "similarity", "calibration"))


def test_contamination_is_told_in_the_data_section(inputs):
    sets = [
        {"name": "held out", "texts": 20, "looked_for": 18, "found": 1, "example": "the old fox <had> crossed"},
        {"name": "piqa", "texts": 5, "looked_for": 5, "found": 0, "example": ""},
    ]
    data = {**inputs["data"], "contamination": {"words": 13, "shortest": 8, "sets": sets}}
    page = render_report(**{**inputs, "data": data})
    assert "Seen in training, too" in page
    assert "1 of 18, 5.6" in page and "2 too short to tell" in page and "0 of 5, 0.0" in page
    assert "fox &lt;had&gt;" in page


@pytest.mark.parametrize(
    ("flips", "said"),
    [(Flips(1, 2, 3, 4, 0.5), "p = 0.5"), (Flips(1, 90, 3, 4, 1e-9), "p < 0.001")],
)
def test_a_sentence_says_what_is_kept_and_what_changed(flips, said):
    found = task("piqa")
    student = replace(found.scores("student"), flips=flips)
    line = task_line(replace(found, scored=[found.scored[0], student]))
    assert said in line and "guessing gives 50 %" in line and "keeps 80 %" in line


def test_a_student_that_was_not_asked_has_no_sentence():
    found = task()
    assert task_line(replace(found, scored=found.scored[:1])) == ""
