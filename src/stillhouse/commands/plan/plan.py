"""What a plan says of any recipe: how much there is to do, memory moment by moment, disk, seconds, and what makes it fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch

from stillhouse.commands.means import BY_ITSELF, Means
from stillhouse.core.config import Config, parse_recipe, with_overrides
from stillhouse.core.errors import StillhouseError
from stillhouse.core.memory import peak_bytes

NUMBER, MOMENTS = 4, 8
"""Bytes of a parameter in float32, as everything is loaded, and of the two that AdamW keeps of each that learns."""

CHECKPOINTS = 3
"""Two are kept, and a third is written before the oldest goes."""

MOST_CHANGES = 3
"""That are named where something does not fit."""

PROGRAM = "program and data"
AnyRecipe = TypeVar("AnyRecipe", bound=Config)


@dataclass(frozen=True)
class Memory:
    """Bytes of each part, and which of them are there at once."""

    parts: Mapping[str, int]
    moments: Mapping[str, Sequence[str]]
    """The parts that are there in each moment of a run."""

    def at(self, moment: str) -> int:
        """Bytes of all that is there in a moment."""
        return sum(self.parts.get(name, 0) for name in self.moments[moment])

    @property
    def most(self) -> int:
        """Of all moments, the largest."""
        return max(map(self.at, self.moments))


@dataclass(frozen=True)
class Change:
    """Keys of a recipe with other values, and the memory that it then takes."""

    overrides: tuple[str, ...]
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take."""

    amount: Sequence[str]
    """How much there is to do, in lines."""
    memory: Memory
    peak: int
    """The most memory at once: as a rehearsal measured, or by shapes."""
    room: int
    disk: Mapping[str, int]
    seconds: Mapping[str, float]
    """Of each stage; empty where nothing was rehearsed."""
    changes: Sequence[Change]
    share: float = 1.0
    """Of one processor, that the rehearsal was given."""
    counted_seconds: float | None = None
    """By counting operations, where nothing was rehearsed."""

    @property
    def total_seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def program_bytes() -> int:
    """What this process holds now: Python and its libraries, and no model. Nothing of it is on a GPU."""
    return 0 if torch.cuda.is_available() else peak_bytes()


def refuse_means(means: Means, kind: str) -> None:
    """Refuse several processes and actors where nobody reckons with them.

    Raises:
        StillhouseError: naming the kind of data.
    """
    if means != BY_ITSELF:
        raise StillhouseError(
            f"data.kind is {kind!r}, which is planned for one process alone. Leave {means} out, and take the plan for that."
        )


def refuse_rehearsal(reason: str) -> NoReturn:
    """A rehearsal would be paid for, or take as long as the run.

    Raises:
        StillhouseError: always.
    """
    raise StillhouseError(f"this recipe cannot be rehearsed: {reason}. Add --no-rehearsal for memory and disk alone.")


def changes_that_fit(
    recipe: AnyRecipe,
    kinds: Sequence[Sequence[str]],
    *,
    room: int,
    needs: Callable[[AnyRecipe], int],
    most: int = MOST_CHANGES,
) -> list[Change]:
    """Up to three changes with which a recipe needs no more than there is room for: each by itself, or, where none is enough,
    all that help, together. Of each of the `kinds` there are overrides that save more and more."""

    found = list(_as_far_as_they_must(recipe, kinds, room, needs))
    alone = [change for change in found if change.memory <= room]
    if alone:
        return alone[:most]
    together, overrides = recipe, list[str]()
    before = needs(recipe)
    for (text,) in (change.overrides for change in found):
        changed = _possible(together, text)
        if changed is not None and (after := needs(changed)) < before:
            together, before = changed, after
            overrides.append(text)
        if before <= room or len(overrides) == most:
            break
    return [Change(tuple(overrides), before)] if overrides else []


def _as_far_as_they_must(
    recipe: AnyRecipe, kinds: Sequence[Sequence[str]], room: int, needs: Callable[[AnyRecipe], int]
) -> Iterator[Change]:
    """Of each kind the first change with which the recipe fits, or the last."""
    for kind in kinds:
        found = None
        for text in kind:
            changed = _possible(recipe, text)
            found = found if changed is None else Change((text,), needs(changed))
            if found is not None and found.memory <= room:
                break
        if found is not None:
            yield found


def halved(key: str, value: int, *, least: int, times: int = 3) -> list[str]:
    """Overrides that set a number to its half, its quarter, and so on, as far as it may fall."""
    return [f"{key}={value // 2**power}" for power in range(1, times + 1) if value // 2**power >= least]


def divided(key: str, value: int) -> list[str]:
    """Overrides that set a number to each one below it that divides it."""
    return [f"{key}={number}" for number in range(value - 1, 0, -1) if value % number == 0]


def _possible(recipe: AnyRecipe, override: str) -> AnyRecipe | None:
    try:
        return with_override(recipe, override)
    except StillhouseError:
        return None


def with_override(recipe: AnyRecipe, override: str) -> AnyRecipe:
    """The same recipe with one key changed, as on the command line."""
    return parse_recipe(type(recipe), with_overrides(recipe.model_dump(mode="json"), [override]))
