"""What the suite `tasks` found: every model on the user's own questions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from stillhouse.core.measures import TaskResult
from stillhouse.core.suites import Number


@dataclass(frozen=True)
class TasksFound:
    """Everything of the suite `tasks`."""

    tasks: Sequence[TaskResult]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TasksFound":
        """The inverse of `to_dict`; what an older result did not have is left at its default."""
        return TypeAdapter(cls).validate_python(values)

    def numbers(self) -> Iterator[Number]:
        """Every number, and of each model but the teacher what share it keeps and by how much it differs."""
        for task in self.tasks:
            for one in task.scored:
                yield from (Number(one.role, name, found, task.name) for name, found in one.metrics.items())
                changes = one.change.items()
                yield from (Number(f"{one.role} minus teacher", name, found, task.name) for name, found in changes)
                kept = one.retained.items()
                yield from (Number(f"{one.role}", f"{name}, share kept", found, task.name) for name, found in kept)
            for group in task.groups:
                on = f"{task.name}: {group.group}"
                for one in group.scored:
                    yield from (Number(one.role, name, found, on) for name, found in one.metrics.items())
