"""Label on a Ray cluster: actors that each hold the teacher write the shards, and this process looks after them."""

import json
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from traceback import print_exc
from typing import Any

from stillhouse.core.errors import RunError, StillhouseError
from stillhouse.core.files import PART_SUFFIX, remove
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.protocols import Teacher
from stillhouse.data.shelf import open_shelf, write_shelf
from stillhouse.labelling.label import HEAD, Factors, Job, Tasks

INSTALL = "pip install 'stillhouse[ray]'"
CONNECT_SECONDS = 5.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # nor to a terminal that has its own
}
ALONE = {
    # Named after where it began: no node of others can join, and so all of it listens on the loopback address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # labelling is what the machine is there for
}
"""Of a cluster on this machine."""
MOST_FRUITLESS, REST_SECONDS = 3, 2.0
"""Passes in a row in which nothing is done, and how long after the first of them a lost node is given to be missed."""
MOST_BLOCKS = 4096
"""Of shards that Ray keeps books of: where there are more, an actor is given several at once."""


Place = dict[str, int]
"""Of a task: its number, and where its examples lie among all."""


@dataclass(frozen=True)
class Cluster:
    """Where the work goes: `local` begins a cluster on this machine for as long as it lasts, `auto` takes the one that runs
    here, and HOST:PORT one elsewhere."""

    address: str
    actors: int | None = None
    """How many hold a teacher; None takes one for each GPU, or, where there is none, one for each node."""


@dataclass(frozen=True)
class Room:
    """How many actors there are to be, and what each takes of its node."""

    actors: int
    each: dict[str, float]


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster has, of those that are alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_room(nodes: Sequence[Mapping[str, float]], wanted: int | None) -> None:
    """Refuse more actors than there is room for: each has a GPU, or, where there is none, a processor.

    Raises:
        StillhouseError: with the number that there is room for.
    """
    what, numbers = _numbers(nodes)
    if (wanted or 1) > sum(numbers):
        raise StillhouseError(
            f"--actors {wanted or 1}: the cluster has {sum(numbers)} {what}s, and each takes one. Ask for fewer."
        )


def room_in(nodes: Sequence[Mapping[str, float]], wanted: int | None) -> Room:
    """As many actors as are wanted, or as there is room for. Processors of a node are shared out among those that it has."""
    what, numbers = _numbers(nodes)
    if what == "GPU":
        return Room(min(wanted or sum(numbers), sum(numbers)), {"num_gpus": 1})
    actors = min(wanted or len(numbers), sum(numbers))
    return Room(actors, {"num_cpus": max(1, min(numbers) // math.ceil(actors / len(numbers)))})


def _numbers(nodes: Sequence[Mapping[str, float]]) -> tuple[str, list[int]]:
    what = "GPU" if any(node.get("GPU") for node in nodes) else "CPU"
    return what, [int(node[what]) for node in nodes if node.get(what)]


def check_cluster(cluster: Cluster) -> None:
    """Refuse what can be known to be wrong before anything begins.

    Raises:
        StillhouseError: if Ray is not installed, the address leads nowhere, or the number is none.
    """
    if find_spec("ray") is None:
        raise StillhouseError(f"--ray needs Ray. Install it: {INSTALL}.")
    if cluster.actors is not None and cluster.actors < 1:
        raise StillhouseError(f"--actors {cluster.actors}: it should be 1 or more.")
    if cluster.address in ("local", "auto"):
        return
    host, _, port = cluster.address.rpartition(":")
    if not host or not port.isdecimal():
        raise StillhouseError(
            f"--ray {cluster.address!r} is no address. Give local, auto, or HOST:PORT of a head node."
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StillhouseError(
            f"--ray {cluster.address}: nobody answers there ({error}). Start one with `ray start --head`, or say local."
        ) from None


@dataclass(frozen=True)
class RayCrew:
    """A crew whose members are actors on a cluster. They read the texts beside the store's folder and write shards into it, so
    that folder must be one that all nodes see under this path, as must the teacher's.

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
        texts = job.folder.with_name(f"{job.folder.name}.texts{PART_SUFFIX}")
        write_shelf((example for shard in tasks.values() for example in shard), texts)
        places, fruitless = _places(tasks), 0
        try:
            with connected(self.cluster):
                check_room(nodes(), self.cluster.actors)
                while places:
                    done = set[int]()
                    for number, factors in self._pass(places, job, texts):
                        if number != HEAD and not job.is_done(number, tasks[number]):
                            raise RunError(f"shard {number} is not there: do all nodes see {job.folder} as one folder?")
                        done.add(number)
                        yield number, factors
                    places = [place for place in places if place["number"] not in done]
                    fruitless = 0 if done else fruitless + 1
                    if fruitless == MOST_FRUITLESS:
                        raise RunError(
                            "actors are lost again and again before they have done anything: Ray's logs say why. Is stillhouse "
                            "installed on all nodes, and does the teacher fit? The same command goes on."
                        )
                    time.sleep(REST_SECONDS * fruitless)
        finally:
            remove(texts)

    def _pass(self, places: Sequence[Place], job: Job, texts: Path) -> Iterator[tuple[int, Factors]]:
        """What actors say of each task, save of those that were lost with them."""
        import ray.data

        room = room_in(nodes(), self.cluster.actors)
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


def _places(tasks: Tasks) -> list[Place]:
    """Of each task, where its examples lie among all."""
    ends = list(accumulate(map(len, tasks.values()), initial=0))
    return [
        {"number": number, "start": start, "end": end}
        for number, (start, end) in zip(tasks, pairwise(ends), strict=True)
    ]


class Actor:
    """A member of the crew, in a process of its own: it loads the teacher and opens the texts once."""

    def __init__(self, job: Job, load: Callable[[], Teacher], texts: Path) -> None:
        self.job, self.load, self.texts = job, load, open_shelf(texts)

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


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """In touch with the cluster. One that was begun for it ends with it.

    Raises:
        StillhouseError: if it is not there.
    """
    os.environ.update(ENVIRONMENT if cluster.address != "local" else ENVIRONMENT | ALONE)
    import ray
    import ray.data

    answers_terminate = signal.getsignal(signal.SIGTERM)
    _connect(cluster)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, answers_terminate)  # in the place of Ray's
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def _connect(cluster: Cluster) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise StillhouseError(
            f"--ray {cluster.address}: no cluster can be reached ({why}). Say local to begin one."
        ) from None
