"""A Ray cluster: where it is, what room it has, and how one is in touch with it."""

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from stillhouse.core.errors import StillhouseError

INSTALL = "pip install 'stillhouse[ray]'"
CONNECT_SECONDS = 5.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # nor to a terminal that has its own
}
ALONE = {
    # Named after where it began: no node of others can join, and so all of it listens on the loopback address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # the teacher's work is what the machine is there for
}
"""Of a cluster on this machine."""
MOST_FRUITLESS = 3
"""Times in a row in which nothing is done before all are lost that try."""
AGAIN = (
    "actors are lost again and again before they have done anything: Ray's logs say why. Is stillhouse installed on all nodes, "
    "and does the teacher fit? The same command goes on."
)


@dataclass(frozen=True)
class Cluster:
    """Where the work goes: `local` begins a cluster on this machine for as long as it lasts, `auto` takes the one that runs
    here, and HOST:PORT one elsewhere."""

    address: str
    actors: int | None = None
    """How many hold a teacher; None takes one for each GPU, or, where there is none, one for each node."""
    gpus: int = 1
    """That each of them takes, where there are any."""


@dataclass(frozen=True)
class Room:
    """How many actors there are to be, and what each takes of its node."""

    actors: int
    each: dict[str, float]


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster has, of those that are alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_room(nodes: Sequence[Mapping[str, float]], wanted: int | None, *, gpus: int = 1) -> None:
    """Refuse more actors than there is room for: each has its GPUs, of one node, or, where there are none, a processor.

    Raises:
        StillhouseError: with the number that there is room for.
    """
    what, numbers = _numbers(nodes)
    each = gpus if what == "GPU" else 1
    if (wanted or 1) > sum(number // each for number in numbers):
        takes = "one" if each == 1 else f"{each} of one node"
        raise StillhouseError(
            f"--actors {wanted or 1}: the cluster has {sum(numbers)} {what}s, and each takes {takes}. Ask for fewer."
        )


def room_in(nodes: Sequence[Mapping[str, float]], wanted: int | None, *, gpus: int = 1) -> Room:
    """As many actors as are wanted, or as there is room for. Processors of a node are shared out among those that it has."""
    what, numbers = _numbers(nodes)
    if what == "GPU":
        most = sum(number // gpus for number in numbers)
        return Room(min(wanted or most, most), {"num_gpus": gpus})
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


@contextmanager
def connected(cluster: Cluster, *, namespace: str | None = None) -> Iterator[None]:
    """In touch with the cluster. One that was begun for it ends with it. Actors that have names have them in the `namespace`.

    Raises:
        StillhouseError: if it is not there.
    """
    os.environ.update(ENVIRONMENT if cluster.address != "local" else ENVIRONMENT | ALONE)
    import ray
    import ray.data

    answers_terminate = signal.getsignal(signal.SIGTERM)
    _connect(cluster, namespace)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, answers_terminate)  # in the place of Ray's
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()


def _connect(cluster: Cluster, namespace: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": namespace}
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
