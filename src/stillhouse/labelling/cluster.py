"""Label on a Ray cluster: actors that each hold the teacher write the shards, and this process looks after them."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from traceback import print_exc
from typing import Any

from stillhouse.core.cluster import AGAIN, MOST_FRUITLESS, Cluster, check_room, connected, nodes, room_in
from stillhouse.core.errors import RunError, StillhouseError
from stillhouse.core.files import PART_SUFFIX, remove
from stillhouse.core.objects import Objects
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.protocols import Teacher
from stillhouse.data.examples import Example
from stillhouse.data.shelf import BOUNDS, TOKENS, Shelf, open_shelf, put_shelf, shelf_at, write_shelf
from stillhouse.labelling.label import HEAD, Factors, Job, Tasks

REST_SECONDS = 2.0
"""How long after the first pass in which nothing is done a lost node is given to be missed."""
MOST_BLOCKS = 4096
"""Of shards that Ray keeps books of: where there are more, an actor is given several at once."""


Place = dict[str, int]
"""Of a task: its number, and where its examples lie among all."""


@dataclass(frozen=True)
class RayCrew:
    """A crew whose members are actors on a cluster. They read the texts beside the store and write shards into it, so a
    folder must be one that all nodes see under this path, as must the teacher's; objects, each puts itself.

    A member or node that is lost costs the shards that it had: Ray Data goes on with the others, and what is missing in the
    end is given out once more. Ray's own restarts would wait for room that a lost node takes along.
    """

    cluster: Cluster
    load: Callable[[], Teacher]
    """Makes a member's teacher, over there."""
    progress: Progress = SILENT

    def __call__(self, job: Job, tasks: Tasks) -> Iterator[tuple[int, Factors]]:
        """Each shard when it is written and found to be whole.

        Raises:
            StillhouseError: if the cluster is not there or has no room.
            RunError: for what went wrong in a member, and if all that try are lost.
        """
        if not tasks:
            return
        texts = Texts(job)
        texts.write(example for shard in tasks.values() for example in shard)
        places, fruitless = _places(tasks), 0
        try:
            with connected(self.cluster):
                check_room(nodes(), self.cluster.actors, gpus=self.cluster.gpus)
                while places:
                    done = set[int]()
                    for number, factors in self._pass(places, job, texts):
                        if number != HEAD and not job.is_done(number, tasks[number]):
                            where = job.folder if job.objects is None else job.objects.url
                            raise RunError(f"shard {number} is not there: do all nodes see {where} as one folder?")
                        done.add(number)
                        yield number, factors
                    places = [place for place in places if place["number"] not in done]
                    fruitless = 0 if done else fruitless + 1
                    if fruitless == MOST_FRUITLESS:
                        raise RunError(AGAIN)
                    time.sleep(REST_SECONDS * fruitless)
        finally:
            texts.remove()

    def _pass(self, places: Sequence[Place], job: Job, texts: "Texts") -> Iterator[tuple[int, Factors]]:
        """What actors say of each task, save of those that were lost with them."""
        import ray.data

        room = room_in(nodes(), self.cluster.actors, gpus=self.cluster.gpus)
        self.progress.say(f"{room.actors} actors on the Ray cluster label: {len(places):,} shards")
        ray.data.DataContext.get_current().max_errored_blocks = -1
        done = ray.data.from_items(list(places), override_num_blocks=min(len(places), MOST_BLOCKS)).map_batches(
            Actor,
            fn_constructor_args=[job, self.load, texts],
            batch_size=1,
            # Three numbers a shard, of which an actor is given those of one, and of one that waits: texts it reads itself.
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=room.actors, initial_size=room.actors, max_tasks_in_flight_per_actor=2
            ),
            ray_remote_args_fn=lambda: {"max_restarts": 0, "max_task_retries": 0},
            **room.each,
        )
        with suppress(ray.exceptions.RayError):  # too many were lost for this pass; what they left is for the next
            for row in done.iter_rows():
                if row["fault"]:
                    raise RunError(row["fault"])
                yield int(row["number"]), json.loads(row["factors"])


@dataclass(frozen=True)
class Texts:
    """What is to be labelled, beside a job's files, where actors find it."""

    job: Job

    @property
    def _folder(self) -> Path:
        return self.job.folder.with_name(f"{self.job.folder.name}.texts{PART_SUFFIX}")

    @property
    def _objects(self) -> Objects | None:
        objects = self.job.objects
        return None if objects is None else Objects(f"{objects.url}.texts{PART_SUFFIX}", key=objects.key)

    def write(self, examples: Iterable[Example]) -> None:
        """One after the other."""
        if self._objects is None:
            write_shelf(examples, self._folder)
        else:
            put_shelf(examples, self._objects)

    def open(self) -> Shelf:
        """They are read when they are asked for."""
        return open_shelf(self._folder) if self._objects is None else shelf_at(self._objects)

    def remove(self) -> None:
        """When nobody needs them any more."""
        remove(self._folder)
        if self._objects is not None:
            for name in (TOKENS, BOUNDS):
                self._objects.remove(name)


def _places(tasks: Tasks) -> list[Place]:
    """Of each task, where its examples lie among all."""
    ends = list(accumulate(map(len, tasks.values()), initial=0))
    return [
        {"number": number, "start": start, "end": end}
        for number, (start, end) in zip(tasks, pairwise(ends), strict=True)
    ]


class Actor:
    """A member of the crew, in a process of its own: it loads the teacher and opens the texts once."""

    def __init__(self, job: Job, load: Callable[[], Teacher], texts: Texts) -> None:
        self.job, self.load, self.texts = job, load, texts.open()

    @cached_property
    def teacher(self) -> Teacher:
        """Loaded with the first task, which can say what is wrong with it."""
        return self.load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One task. What was wrong is said in the row: an error would look like the actor's death."""
        factors, fault = Factors(), ""
        try:
            factors = self._do(*(int(batch[name][0]) for name in ("number", "start", "end")))
        except StillhouseError as error:
            fault = str(error)
        except Exception as error:
            fault = f"an actor failed: {type(error).__name__}: {error}"
            print_exc()  # into Ray's logs
        return {"number": batch["number"], "factors": [json.dumps(factors)], "fault": [fault]}

    def _do(self, number: int, start: int, end: int) -> Factors:
        """Unless another has done it and was lost before it could say so."""
        examples = self.texts[start:end]
        return {} if self.job.is_done(number, examples) else self.job.do(self.teacher, number, examples)
