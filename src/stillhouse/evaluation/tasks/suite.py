"""The suite `tasks`: every model on the user's own questions."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.files import fingerprint, fingerprint_files, write_atomic
from stillhouse.core.measures import TaskResult
from stillhouse.core.tasks import TasksFound
from stillhouse.evaluation.asking import weights_hash
from stillhouse.evaluation.bench import Bench
from stillhouse.evaluation.tasks.config import LmEvalConfig, MultipleChoiceConfig, TaskConfig
from stillhouse.evaluation.tasks.judge import check_tasks, judge_tasks
from stillhouse.evaluation.tasks.speakers import Speaker


def measure_tasks(bench: Bench, tasks: Sequence[TaskConfig] | None) -> TasksFound:
    """What every model makes of every task. Killed and started again, it goes on behind the last task that was done."""
    speakers = {role: Speaker(model, bench.reads_with(role)) for role, model in bench.models.items()}
    models = fingerprint({role: weights_hash(model) for role, model in bench.models.items()})
    remember = TaskMemory(bench.folder, models)
    return TasksFound(judge_tasks(tasks or (), speakers, remember=remember, progress=bench.progress))


@dataclass(frozen=True)
class TaskMemory:
    """What was found of each task, in a file named by its settings, its questions, and the models that were asked."""

    folder: Path
    models: str

    def __call__(self, task: TaskConfig, work: Callable[[], list[TaskResult]]) -> list[TaskResult]:
        """What the file has, or what the work finds, which is then kept."""
        known = [task.model_dump(mode="json"), fingerprint_files(files_of([task])), self.models]
        file = self.folder / f"{fingerprint(known)}.json"
        if file.exists():
            return list(TasksFound.from_dict(json.loads(file.read_text(encoding="utf-8"))).tasks)
        found = work()
        write_atomic(file, json.dumps(TasksFound(found).to_dict(), ensure_ascii=False))
        return found


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
