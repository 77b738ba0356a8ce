"""What every stage is given: one recipe at work in one run folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stillhouse.commands.metrics_log import MetricsLog
from stillhouse.commands.parts import Parts
from stillhouse.commands.parts.identity import plain
from stillhouse.commands.recipe import Recipe
from stillhouse.core.files import fingerprint
from stillhouse.core.progress import Progress
from stillhouse.core.run import RunFolder
from stillhouse.teachers.on_ray import Faculty
from stillhouse.training.sharding import Held, TeacherHeld


@runtime_checkable
class Launch(Protocol):
    """Trains an arm in several processes."""

    @property
    def num_ranks(self) -> int:
        """How many."""

    def __call__(self, shop: Any, role: str, faculty: Faculty | None = None) -> dict[str, Any]:
        """What training took; they ask the teacher of actors that hold it, where there are any."""


class Workshop:
    """A recipe, its run folder, the parts that it is made of, and the log of its numbers."""

    def __init__(self, recipe: Recipe, run: RunFolder, progress: Progress) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.parts, self.metrics = Parts(recipe, run, progress), MetricsLog(run)
        self.launch: Launch | None = None
        self.rank, self.num_ranks = 0, 1
        """Of the processes that train together, which this is, and how many there are."""
        self.held: Held = "whole"
        self.teacher_held: TeacherHeld = "whole"
        """Whether each of them holds the student whole, and the teacher."""
        self.faculty: Faculty | None = None
        """Actors that hold the teacher, where another process has begun them."""

    def once(
        self,
        name: str,
        title: str,
        *,
        made_from: list[Any],
        work: Callable[[], dict[str, Any]],
        makes: Sequence[Path] = (),
        asked: Sequence[Any] = (),
    ) -> dict[str, Any]:
        """Do a stage under this title, unless it is done: what it returned, now or then. Where something else is `asked` of
        it than then, it is done again.

        Raises:
            StaleError: if it was done from something else than now.
        """

        def announced() -> dict[str, Any]:
            self.progress.stage(name, title)
            return work()

        wanted = fingerprint(plain(asked)) if asked else ""
        return self.run.stage(name, made_from=fingerprint(plain(made_from)), work=announced, makes=makes, asked=wanted)
