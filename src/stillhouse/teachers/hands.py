"""Who writes a teacher's batches: a model of this process, or actors on a cluster that each hold it."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from traceback import print_exc
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from transformers import PreTrainedTokenizerBase

from stillhouse.core.cluster import AGAIN, MOST_FRUITLESS, Cluster, check_room, connected, nodes, room_in
from stillhouse.core.errors import RunError, StillhouseError
from stillhouse.core.progress import SILENT, Progress
from stillhouse.models.generate import Speaker

Batch = TypeVar("Batch")
Said = TypeVar("Said")
Entered = TypeVar("Entered")

Advance = Callable[[int], None]
Write = Callable[[Speaker, PreTrainedTokenizerBase, Batch, Advance], Said]
"""What is written to a batch, by whichever process holds the model: it depends on these two and the batch alone, so it is the
same wherever that is. Whoever cares is told of each token as it comes. For actors it is a function of a module."""

Do = Callable[[Any, Batch], Said]
"""What an actor does with a batch and what it has loaded: a function of a module."""

EACH_HAS = 2
"""Batches that an actor is given: one to write, and one that waits."""
LOOK_SECONDS = 5.0
"""After which somebody looks whether there is room for an actor at all, while none has begun."""


@runtime_checkable
class Spoken(Protocol):
    """A model that can write, with its tokenizer: one that is loaded here, or that another engine runs."""

    @property
    def model(self) -> Speaker:
        """Who writes."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What it reads in."""


@dataclass(frozen=True)
class Voice:
    """Just these two."""

    model: Speaker
    tokenizer: PreTrainedTokenizerBase


def unheard(num_tokens: int) -> None:
    """Nobody is told."""


@runtime_checkable
class Hands(Protocol):
    """Whoever writes batches."""

    @property
    def at_once(self) -> int:
        """Batches that may be under way at the same time."""

    def __call__(
        self, write: Write[Batch, Said], batches: Mapping[int, Batch], *, advance: Advance = unheard
    ) -> Iterator[tuple[int, Said]]:
        """What is written to each batch, by its number, as it comes. Only a model of this process tells of each token."""


class OwnHands:
    """A model of this process: one batch after another."""

    at_once = 1

    def __init__(self, model: Speaker, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self, write: Write[Batch, Said], batches: Mapping[int, Batch], *, advance: Advance = unheard
    ) -> Iterator[tuple[int, Said]]:
        """In the order of the batches."""
        for number, batch in batches.items():
            yield number, write(self.model, self.tokenizer, batch, advance)


class RayActors(AbstractContextManager[Any]):
    """Actors on a Ray cluster, each with what it loads in memory from its first batch until the end. The cluster is asked for
    when there is something to do.

    An actor or node that is lost costs the batches that it had, two at most, which others are given; another actor is begun in
    its place where there is room. Ray's own restarts would wait for room that a lost node takes along.
    """

    def __init__(
        self, cluster: Cluster, load: Callable[[], Any], *, does: str = "work", progress: Progress = SILENT
    ) -> None:
        self.cluster, self.load, self.does, self.progress = cluster, load, does, progress
        self.at_once = EACH_HAS * (cluster.actors or EACH_HAS)
        self._held = ExitStack()
        self._begun = False
        self._each: dict[str, float] = {}
        self._starting: dict[Any, Any] = {}
        """Actors that have not begun yet, by what they will say then."""
        self._there: list[Any] = []

    def __enter__(self: Entered) -> Entered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """All actors end; where there is more to do, others begin."""
        self._held.close()
        self._begun, self._starting, self._there = False, {}, []

    def said(self, do: Do[Batch, Said], batches: Mapping[int, Batch]) -> Iterator[tuple[int, Said]]:
        """As they come, whoever does them.

        Raises:
            StillhouseError: if the cluster is not there or has no room.
            RunError: for what went wrong in an actor, and if all that try are lost.
        """
        if not batches:
            return
        self._begin()
        import ray  # told by now how quiet it is to be

        waiting, given = deque(batches), dict[Any, tuple[Any, int]]()
        fruitless = 0
        while waiting or given:
            for actor in self._free(given):
                if waiting:
                    number = waiting.popleft()
                    given[actor.do.remote(do, batches[number])] = actor, number
            done, _ = ray.wait([*given, *self._starting], timeout=LOOK_SECONDS)
            if not done and not self._there:
                check_room(nodes(), None, gpus=self.cluster.gpus)
            fruitless += self._welcome(done, fruitless)
            for ref in done:
                if ref not in given:  # it began, or was lost with another batch of its actor's
                    continue
                actor, said = given[ref][0], said_by(ref)
                if said is None:
                    lost = {other: number for other, (who, number) in given.items() if who is actor}
                    waiting.extendleft(sorted(lost.values(), reverse=True))
                    given = {other: one for other, one in given.items() if other not in lost}
                    fruitless += 1
                    self._replace(actor, fruitless)
                else:
                    fruitless = 0
                    yield given.pop(ref)[1], said[0]

    def _free(self, given: Mapping[Any, tuple[Any, int]]) -> list[Any]:
        """Who can be given one more batch, once for each; those who have none come first."""
        has = [sum(who is actor for who, _ in given.values()) for actor in self._there]
        return [
            actor
            for number in range(EACH_HAS)
            for actor, least in zip(self._there, has, strict=True)
            if least <= number
        ]

    def _welcome(self, done: Collection[Any], fruitless: int) -> int:
        """Those who have begun, and somebody else for those who could not: how many that were."""
        lost = 0
        for ref in [ref for ref in done if ref in self._starting]:
            actor = self._starting.pop(ref)
            if said_by(ref) is None:
                lost += 1
                self._replace(actor, fruitless + lost)
            else:
                self._there.append(actor)
        return lost

    def _begin(self) -> None:
        """In touch with the cluster, with all actors on their way."""
        if self._begun:
            return
        self._held.enter_context(connected(self.cluster))
        check_room(nodes(), self.cluster.actors, gpus=self.cluster.gpus)
        room = room_in(nodes(), self.cluster.actors, gpus=self.cluster.gpus)
        self._each, self.at_once, self._begun = room.each, EACH_HAS * room.actors, True
        self.progress.say(f"{room.actors} actors on the Ray cluster {self.does}")
        for _ in range(room.actors):
            self._hire()

    def _hire(self) -> None:
        import ray

        actor = ray.remote(Hand).options(max_restarts=0, max_task_retries=0, **self._each).remote(self.load)
        self._starting[actor.begin.remote()] = actor

    def _replace(self, actor: Any, fruitless: int) -> None:
        """Somebody else for an actor that is lost.

        Raises:
            RunError: if too many were lost since the last batch was done.
        """
        import ray

        self._there = [one for one in self._there if one is not actor]
        ray.kill(actor)  # lost to us: it may be there all the same
        if fruitless > MOST_FRUITLESS * max(1, self.at_once // EACH_HAS):
            raise RunError(AGAIN)
        self._hire()


def said_by(ref: Any) -> tuple[Any] | None:
    """What an actor says; None where it was lost before it could.

    Raises:
        RunError: for what went wrong there.
    """
    import ray

    try:
        fault, said = ray.get(ref)
    except ray.exceptions.RayError:
        return None
    if fault:
        raise RunError(fault)
    return (said,)


class RayHands(RayActors):
    """Actors that write, each with the teacher in memory: rounds of questions and answers do not load it again."""

    def __init__(self, cluster: Cluster, load: Callable[[], Spoken], *, progress: Progress = SILENT) -> None:
        super().__init__(cluster, load, does="write", progress=progress)

    def __call__(
        self, write: Write[Batch, Said], batches: Mapping[int, Batch], *, advance: Advance = unheard
    ) -> Iterator[tuple[int, Said]]:
        """As they come, whoever writes them.

        Raises:
            StillhouseError: if the cluster is not there or has no room.
            RunError: for what went wrong in an actor, and if all that try are lost.
        """
        return self.said(partial(_written, write), batches)


def _written(write: Write[Batch, Said], loaded: Spoken, batch: Batch) -> Said:
    return write(loaded.model, loaded.tokenizer, batch, unheard)


class Hand:
    """One who works, in a process of its own."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._loaded: Any = None

    def begin(self) -> tuple[str, int]:
        """Says that it is there. What it works with is loaded with the first batch, which can say what is wrong with it."""
        return "", os.getpid()

    def do(self, do: Do[Any, Any], batch: Any) -> tuple[str, Any]:
        """One batch. What was wrong is said in words: an error would look like the actor's death."""
        try:
            loaded = self._loaded = self._loaded or self._load()
            return "", do(loaded, batch)
        except StillhouseError as error:
            return str(error), None
        except Exception as error:
            print_exc()  # into Ray's logs
            return f"an actor failed: {type(error).__name__}: {error}", None
