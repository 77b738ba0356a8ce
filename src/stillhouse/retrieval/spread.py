"""Teachers and embedders that actors on a cluster hold: they score and embed what one process would, batch by batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from stillhouse.retrieval.embed import SentenceEmbedder, Similarity, Vectors, together, width_of
from stillhouse.retrieval.teachers import BiEncoderTeacher, Output, Pair, Scores
from stillhouse.teachers.hands import RayActors

Said = TypeVar("Said")


class Loaded:
    """What an actor has in memory: models by number, each loaded when it is first asked."""

    def __init__(self, loaders: Sequence[Callable[[], Any]]) -> None:
        self._loaders, self._there = loaders, dict[int, Any]()

    def __getitem__(self, number: int) -> Any:
        if number not in self._there:
            self._there[number] = self._loaders[number]()
        return self._there[number]


def loading(loaders: Sequence[Callable[[], Any]]) -> Callable[[], Loaded]:
    """What actors that hold all of these load."""
    return partial(Loaded, tuple(loaders))


def in_order(found: Iterator[tuple[int, Said]]) -> Iterator[Said]:
    """What comes under the numbers 0, 1, ... in their order: what is early waits."""
    early, turn = dict[int, Said](), 0
    for number, said in found:
        early[number] = said
        while turn in early:
            yield early.pop(turn)
            turn += 1


class SpreadTeacher:
    """A teacher that actors hold under a number. A block of pairs is scored by one of them, as sums depend on who is read
    together."""

    def __init__(self, actors: RayActors, number: int) -> None:
        self.actors, self.number = actors, number

    @cached_property
    def _about(self) -> tuple[Output, str]:
        ((_, about),) = self.actors.said(partial(_about, self.number), {0: None})
        return about

    @property
    def output(self) -> Output:
        """As an actor says."""
        return self._about[0]

    @property
    def identity(self) -> str:
        """As an actor says."""
        return self._about[1]

    def scores(self, pairs: Sequence[Pair]) -> Scores:
        """One number a pair, by one actor."""
        (found,) = self.scores_of_each([pairs])
        return found

    def scores_of_each(self, blocks: Sequence[Sequence[Pair]]) -> Iterator[Scores]:
        """Of each block, in their order."""
        return in_order(self.actors.said(partial(_scores, self.number), dict(enumerate(blocks))))


class SpreadEmbedder:
    """An embedder that actors hold under a number, or that of a bi-encoder. Texts that one process embeds together are embedded
    by one of them."""

    def __init__(self, actors: RayActors, number: int = 0) -> None:
        self.actors, self.number = actors, number

    @cached_property
    def _about(self) -> tuple[Similarity, int]:
        ((_, about),) = self.actors.said(partial(_similarity, self.number), {0: None})
        return about

    @property
    def similarity(self) -> Similarity:
        """As an actor says."""
        return self._about[0]

    def queries(self, texts: Sequence[str]) -> Vectors:
        """One vector a query."""
        return self._embedded(_queries, texts)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """One vector a document."""
        return self._embedded(_documents, texts)

    def _embedded(self, embed: Callable[[int, Loaded, Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self._about[1]), dtype=np.float32)
        batches: Mapping[int, Sequence[str]] = dict(enumerate(together(texts)))
        return np.concatenate(list(in_order(self.actors.said(partial(embed, self.number), batches))))


# What actors do.


def _about(number: int, loaded: Loaded, _: None) -> tuple[Output, str]:
    return loaded[number].output, loaded[number].identity


def _scores(number: int, loaded: Loaded, pairs: Sequence[Pair]) -> Scores:
    found: Scores = loaded[number].scores(pairs)
    return found


def _embedder(number: int, loaded: Loaded) -> SentenceEmbedder:
    found: SentenceEmbedder | BiEncoderTeacher = loaded[number]
    return found.embedder if isinstance(found, BiEncoderTeacher) else found


def _similarity(number: int, loaded: Loaded, _: None) -> tuple[Similarity, int]:
    return _embedder(number, loaded).similarity, width_of(_embedder(number, loaded))


def _queries(number: int, loaded: Loaded, texts: Sequence[str]) -> Vectors:
    return _embedder(number, loaded).queries(texts)


def _documents(number: int, loaded: Loaded, texts: Sequence[str]) -> Vectors:
    return _embedder(number, loaded).documents(texts)
