"""The suites that a recipe can name."""

from collections.abc import Mapping
from typing import get_args

from stillhouse.core.task import Task
from stillhouse.evaluation.behaviour import check_behaviour, measure_behaviour
from stillhouse.evaluation.behaviour import files_of as behaviour_files
from stillhouse.evaluation.bench import Suite
from stillhouse.evaluation.confidence import calibration
from stillhouse.evaluation.similarity import similarity
from stillhouse.evaluation.tasks.suite import check_suite, files_of, measure_tasks

SUITES: Mapping[str, Suite] = {
    "behaviour": Suite(
        "everyone is asked, and watched", ["causal_lm"], measure_behaviour, behaviour_files, check_behaviour
    ),
    "tasks": Suite("everyone is asked", ["causal_lm"], measure_tasks, files_of, check_suite),
    "similarity": Suite("everyone is held beside the teacher", get_args(Task), similarity),
    "calibration": Suite("is anyone as sure as right", ["causal_lm", "sequence_classification"], calibration),
}
"""By the names that a recipe calls them."""
