"""The suite `tasks`: every model on the user's own questions."""

from collections.abc import Sequence
from pathlib import Path

from stillhouse.core.tasks import TasksFound
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.tasks.config import LmEvalConfig, MultipleChoiceConfig, TaskConfig
from stillhouse.evaluation.tasks.judge import check_tasks, judge_tasks
from stillhouse.evaluation.tasks.speakers import Speaker


def measure_tasks(bench: Bench, tasks: Sequence[TaskConfig] | None) -> TasksFound:
    """What every model makes of every task."""
    speakers = {role: Speaker(model, bench.reads_with(role)) for role, model in bench.models.items()}
    return TasksFound(judge_tasks(tasks or (), speakers, progress=bench.progress))


def files_of(tasks: Sequence[TaskConfig] | None) -> list[Path]:
    """Every file that a task is read from."""
    paths: list[Path] = []
    for task in tasks or ():
        paths += [] if isinstance(task, LmEvalConfig) else [task.path]
        paths += [task.answers_path] if isinstance(task, MultipleChoiceConfig) and task.answers_path else []
    return [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]


def check_suite(tasks: Sequence[TaskConfig] | None) -> None:
    """Raises: StillhouseError for a file that cannot be read, or a library that is missing, before any model is loaded."""
    check_tasks(tasks or ())
