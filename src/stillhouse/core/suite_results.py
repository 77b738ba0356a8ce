"""What each suite found, by its name: read back from a run, for whoever reports it."""

from collections.abc import Mapping

from stillhouse.core.behaviour_results import BehaviourResult
from stillhouse.core.likeness import CalibrationFound, SimilarityFound
from stillhouse.core.results import EvaluationResult
from stillhouse.core.suites import SuiteResult
from stillhouse.core.tasks import TasksFound

RESULTS: Mapping[str, type[SuiteResult]] = {
    "behaviour": BehaviourResult,
    "tasks": TasksFound,
    "similarity": SimilarityFound,
    "calibration": CalibrationFound,
}
"""What a suite's result is read into."""


def found_by(result: EvaluationResult) -> dict[str, SuiteResult]:
    """What every suite of an evaluation found, by its name; one that this version does not know is left out."""
    return {name: RESULTS[name].from_dict(values) for name, values in result.suites.items() if name in RESULTS}
