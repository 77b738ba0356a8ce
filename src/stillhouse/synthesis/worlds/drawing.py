"""Prompts by chance: what each text is to have, as a pure function of world, seed and place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from stillhouse.synthesis.worlds.cells import NO_FEATURE, Cell
from stillhouse.synthesis.worlds.world import World


@dataclass(frozen=True)
class Wish:
    """What one text is to have."""

    seed: str
    """Of the text too: the same wish has the same answer."""
    words: tuple[tuple[str, str], ...]
    """Kind and word, in the order of the world's kinds."""
    features: tuple[str, ...]
    length: str
    cell: str = ""
    """For which weak cell it was drawn; empty where nothing but chance decided."""

    @property
    def lineage(self) -> dict[str, Any]:
        """As a record keeps it."""
        kept = {"words": [list(pair) for pair in self.words], "features": list(self.features), "length": self.length}
        return {**kept, "seed": self.seed, **({"cell": self.cell} if self.cell else {})}

    @property
    def cells(self) -> list[Cell]:
        """Each cell that it belongs to."""
        return cells_of(self.lineage)


def cells_of(lineage: Mapping[str, Any]) -> list[Cell]:
    """The cells of a text whose lineage says what it was to have: its length, its features, its words."""
    features = lineage["features"] or [NO_FEATURE]
    return [
        Cell("length", lineage["length"]),
        *(Cell("feature", name) for name in features),
        *(Cell(kind, word) for kind, word in lineage["words"]),
    ]


def draw_wishes(world: World, number: int, *, seed: int, round: int = 0, cells: Sequence[Cell] = ()) -> list[Wish]:
    """So many wishes; of those that are drawn for `cells`, one for each, that many are bound to their cell and free in all
    else. Each depends on the seed, the round and its place alone, so that more of them begin with the same ones.
    """
    return [
        _bound(world, _drawn(world, f"{seed}, round {round}, text {place}"), cells[place] if cells else None)
        for place in range(number)
    ]


def _drawn(world: World, seed: str) -> Wish:
    random = Random(seed)
    words = tuple((kind, word) for kind, part in world.drawn.items() for word in random.sample(part.words, part.draw))
    some = random.sample(sorted(world.features), random.randint(0, world.most_features))
    return Wish(seed, words, tuple(sorted(some)), random.choice(sorted(world.lengths)))


def _bound(world: World, wish: Wish, cell: Cell | None) -> Wish:
    """The wish with what its cell asks for in the place of what chance gave."""
    if cell is None:
        return wish
    match cell.axis:
        case "length":
            return Wish(wish.seed, wish.words, wish.features, cell.name, cell.title)
        case "feature":
            features = () if cell.name == NO_FEATURE else (cell.name,)
            return Wish(wish.seed, wish.words, features, wish.length, cell.title)
        case kind:
            place = next(place for place, (one, _) in enumerate(wish.words) if one == kind)
            words = (*wish.words[:place], (kind, cell.name), *wish.words[place + 1 :])
            return Wish(wish.seed, words, wish.features, wish.length, cell.title)


def prompt_of(world: World, wish: Wish) -> str:
    """What the teacher is asked."""
    slots = _words_of(world, wish)
    asked = [world.features[name].ask for name in wish.features]
    features = world.features_phrase.format(features=" and ".join(asked)) if asked else ""
    return world.prompt.format(**slots, features=features, length=world.lengths[wish.length].ask)


def opening_of(world: World, wish: Wish) -> str:
    """How the text begins; empty where the world leaves that to the teacher."""
    if not world.openings:
        return ""
    return Random(f"{wish.seed}, opening").choice(world.openings).format(**_words_of(world, wish))


def _words_of(world: World, wish: Wish) -> dict[str, str]:
    return {kind: ", ".join(word for one, word in wish.words if one == kind) for kind in world.drawn}
