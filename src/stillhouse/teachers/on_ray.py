"""A teacher that actors of a Ray cluster hold, and that others ask in every step while they learn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.batch import Batch
from stillhouse.core.cluster import AGAIN, MOST_FRUITLESS, Cluster, check_room, connected, nodes, room_in
from stillhouse.core.errors import RunError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.core.signals import FactoredLogits, Signals, Wanted
from stillhouse.models.compiled import compiler_at_work, compiler_now, compiling
from stillhouse.models.precision import Precision, computing_in, precision_now
from stillhouse.models.signals import head_of
from stillhouse.teachers.hands import Do, Hand, said_by
from stillhouse.teachers.local import LocalTeacher

Begin = Callable[[Do[Any, Any], Any], Callable[[], Any]]
"""Begins something where the teacher is, and gives what waits for its end; it is done by a function of a module."""


@dataclass(frozen=True)
class Question:
    """All that an answer depends on, besides the teacher."""

    batch: Any
    """Taken apart."""
    wanted: Wanted
    precision: Precision
    compiler: str | None


class RayTeacher:
    """A teacher that is elsewhere. Questions and answers travel, of logits their factors alone: the head comes once, and is
    multiplied here."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._vocab_size: int | None = None
        self._head: FactoredLogits | None = None

    @property
    def vocab_size(self) -> int:
        """Rows of the teacher's head: tokens or classes."""
        if self._vocab_size is None:
            self._vocab_size = self._begin(_vocab_size, None)()
        return self._vocab_size

    def signals(self, batch: Batch, wanted: Wanted) -> Signals:
        """All that is wanted, at every position of the batch; no gradient."""
        return self.begin(batch, wanted)()

    def begin(self, batch: Batch, wanted: Wanted) -> Callable[[], Signals]:
        """Ask, and go on: what comes back waits for the answer, which is computed as a teacher here would compute it."""
        answer = self._begin(answered, Question(apart(batch), wanted, precision_now(), compiler_now()))
        return lambda: self._whole(answer(), batch.ids.device)

    def _whole(self, answer: Any, device: torch.device) -> Signals:
        said: Signals = together(answer, device)
        if not isinstance(said.logits, FactoredLogits):
            return said
        if self._head is None:
            self._head = together(self._begin(_head, None)(), device)
        return replace(said, logits=replace(self._head, hidden=said.logits.hidden))


def answered(teacher: LocalTeacher, question: Question) -> Any:
    """What the teacher says, taken apart and without its head."""
    batch: Batch = together(question.batch, torch.device("cpu"))
    with (
        computing_in(question.precision),
        compiling(question.compiler),
        compiler_at_work(wanted=question.compiler is not None),
    ):
        said = teacher.signals(batch, question.wanted)
    if isinstance(said.logits, FactoredLogits):
        said = replace(said, logits=replace(said.logits, weight=said.logits.weight[:0], bias=None))
    return apart(said)


def _head(teacher: LocalTeacher, _: None) -> Any:
    weight: Any = teacher.model.get_output_embeddings().weight
    return apart(head_of(teacher.model, weight.new_zeros(0, weight.shape[1])))


def _vocab_size(teacher: LocalTeacher, _: None) -> int:
    return teacher.vocab_size


def apart(value: Any) -> Any:
    """Whatever holds tensors, with arrays in their place, which Ray hands over without pickling their numbers."""
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().numpy()
    if isinstance(value, Mapping):
        return {name: apart(one) for name, one in value.items()}
    if is_dataclass(value):
        return type(value), {one.name: apart(getattr(value, one.name)) for one in fields(value)}
    return value


def together(value: Any, device: torch.device) -> Any:
    """What was taken `apart`, on this device."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value, device=device)  # a copy: what Ray hands over may not be written to
    if isinstance(value, dict):
        return {name: together(one, device) for name, one in value.items()}
    if isinstance(value, tuple):
        kind, values = value
        return kind(**together(values, device))
    return value


@dataclass(frozen=True)
class Faculty:
    """Where actors are that each hold the teacher, for every process that asks."""

    address: str
    namespace: str
    """Theirs alone: another run on the cluster has its own."""
    actors: int

    def teacher(self, rank: int) -> RayTeacher:
        """Whom this one of the processes asks. It is in touch with the cluster."""
        import ray

        return RayTeacher(partial(_begun, ray.get_actor(_name(rank % self.actors), namespace=self.namespace)))


@contextmanager
def faculty(
    cluster: Cluster, load: Callable[[], LocalTeacher], *, num_asking: int, progress: Progress = SILENT
) -> Iterator[Faculty]:
    """Actors that each hold the teacher for as long as the block lasts, and no more of them than there are processes that ask.

    In the place of one that is lost Ray begins another, where there is room, and asks it again what the lost one was asked.

    Raises:
        StillhouseError: if the cluster is not there or has no room.
    """
    namespace = f"stillhouse-{uuid4().hex}"
    with connected(cluster, namespace=namespace):
        import ray

        check_room(nodes(), cluster.actors)
        room = room_in(nodes(), cluster.actors)
        if room.actors > num_asking:
            room = room_in(nodes(), num_asking)
        progress.say(f"{room.actors} actors on the Ray cluster teach")
        restarts = {"max_restarts": -1, "max_task_retries": MOST_FRUITLESS}
        held = [  # they end with the last that knows of them
            ray.remote(Hand).options(name=_name(number), **restarts, **room.each).remote(load)
            for number in range(room.actors)
        ]
        yield Faculty(ray.get_runtime_context().gcs_address, namespace, len(held))


@contextmanager
def joined(known: Faculty) -> Iterator[None]:
    """In touch with actors that another process has begun.

    Raises:
        StillhouseError: if their cluster is gone.
    """
    with connected(Cluster(known.address), namespace=known.namespace):
        yield


def _name(number: int) -> str:
    return f"teacher-{number}"


def _begun(actor: Any, do: Do[Any, Any], batch: Any) -> Callable[[], Any]:
    ref = actor.do.remote(do, batch)

    def wait() -> Any:
        said = said_by(ref)
        if said is None:
            raise RunError(AGAIN)
        return said[0]

    return wait
