"""By what means a recipe is run: in this process alone, in several that train together, by actors of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.commands.launch.config import check_launch, held_by
from stillhouse.commands.launch.launcher import Launcher
from stillhouse.commands.recipe import Recipe
from stillhouse.commands.retrieval.kind import is_of_retrieval
from stillhouse.commands.stages.labelling import check_spread
from stillhouse.commands.stages.teaching import check_taught_on_ray
from stillhouse.commands.stories.kind import is_of_stories
from stillhouse.core.cluster import Cluster
from stillhouse.core.errors import StillhouseError
from stillhouse.training.sharding import Held, TeacherHeld


@dataclass(frozen=True)
class Means:
    """What the command line says beside the recipe: arms are trained by `num_ranks` processes, if a number is given, each of
    which holds the student whole or a part of it, and so the teacher; which labels and writes as `actors` of a `ray` cluster,
    if one is named, and answers there in every step if it is held `on_ray`."""

    num_ranks: int | None = None
    launch_config: str | None = None
    held: Held = "whole"
    teacher_held: TeacherHeld = "whole"
    ray: str | None = None
    actors: int | None = None

    @property
    def launch(self) -> Launcher | None:
        """What trains an arm, if it is not this process."""
        ranks = self.num_ranks
        return None if ranks is None else Launcher(ranks, self.launch_config, self.held, self.teacher_held)

    @property
    def cluster(self) -> Cluster | None:
        """Where the teacher is, if it is not here."""
        return None if self.ray is None else Cluster(self.ray, self.actors)

    def __str__(self) -> str:
        """The options, as they were given."""
        flags = {"--sharded": self.held == "sharded", "--sharded-teacher": self.teacher_held == "sharded"}
        flags["--teacher-on-ray"] = self.teacher_held == "on_ray"
        values = {
            "--launch": self.num_ranks,
            "--launch-config": self.launch_config,
            "--ray": self.ray,
            "--actors": self.actors,
        }
        given = [f"{name} {value}" for name, value in values.items() if value is not None]
        return " ".join([*given, *(name for name, is_given in flags.items() if is_given)])

    @property
    def student_held(self) -> Held:
        """As a file of the user's says, if there is one."""
        return self.held if self.launch_config is None else held_by(Path(self.launch_config))

    def check_options(self, values: Mapping[str, Any]) -> None:
        """Refuse options that mean nothing without each other, or nothing for this kind of recipe.

        Raises:
            StillhouseError: naming the first.
        """
        if self.launch_config is not None and self.num_ranks is None:
            raise StillhouseError("--launch-config says how --launch N shares the work. Give both.")
        if self.teacher_held == "sharded" and self.num_ranks is None:
            raise StillhouseError("--sharded-teacher shares the teacher among the processes of --launch N. Give both.")
        if self.teacher_held == "on_ray":
            self._check_on_ray(values)
        if self.held == "sharded":
            self._check_held()
        if self.actors is not None and self.ray is None:
            raise StillhouseError("--actors says how many hold the teacher on the cluster of --ray ADDRESS. Give both.")

    def check(self, recipe: Recipe) -> None:
        """Refuse what cannot be done so, before anything is loaded.

        Raises:
            StillhouseError: naming what is to be changed.
        """
        if self.num_ranks is not None:
            check_launch(
                recipe, self.num_ranks, config=self.launch_config, held=self.held, teacher_held=self.teacher_held
            )
        if self.teacher_held == "on_ray":
            check_taught_on_ray(recipe)
        if self.cluster is not None:
            check_spread(recipe, self.cluster, teacher_held=self.teacher_held)

    def _check_on_ray(self, values: Mapping[str, Any]) -> None:
        if self.ray is None:
            raise StillhouseError(
                "--teacher-on-ray lets the teacher answer on the cluster of --ray ADDRESS while the student learns. Give both."
            )
        if is_of_stories(values) or is_of_retrieval(values):
            raise StillhouseError(
                f"data.kind is {values['data']['kind']!r}, of which --ray alone lets actors do what the teacher does. Leave "
                "--teacher-on-ray out."
            )

    def _check_held(self) -> None:
        if self.num_ranks is None:
            raise StillhouseError("--sharded shares the student among the processes of --launch N. Give both.")
        if self.launch_config is not None:
            raise StillhouseError(
                "--launch-config says itself whether weights are shared, by distributed_type: FSDP. Leave --sharded "
                "out, or the file."
            )


BY_ITSELF = Means()
"""In this process, on its device."""
