"""How much of a world its texts have: words of each kind, features, lengths, and what comes together."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import Any

from stillhouse.synthesis.records import Record
from stillhouse.synthesis.worlds.drawing import cells_of
from stillhouse.synthesis.worlds.world import World


def coverage_of(world: World, records: Sequence[Record]) -> dict[str, Any]:
    """Of what was asked for and of what is kept: how many different words of each kind, of how many there are; each feature
    and length; combinations of words, and pairs of features and lengths."""
    kept = [record for record in records if not record.dropped]
    sides = {"asked": records, "kept": kept}
    return {
        "words": {
            kind: {"there_are": len(part.words), **{side: _different(of, kind) for side, of in sides.items()}}
            for kind, part in world.drawn.items()
        },
        "cells": {side: _cells(of) for side, of in sides.items()},
        "word_combinations": {
            # Of words of every kind that is drawn; nobody expects to cover them.
            "there_are": prod(len(part.words) ** part.draw for part in world.drawn.values()),
            **{side: len({tuple(map(tuple, r.lineage["words"])) for r in of}) for side, of in sides.items()},
        },
        "feature_combinations": {
            "there_are": _num_combinations(world),
            **{side: len({(*r.lineage["features"], r.lineage["length"]) for r in of}) for side, of in sides.items()},
        },
    }


def _different(records: Sequence[Record], kind: str) -> int:
    return len({word for record in records for one, word in record.lineage["words"] if one == kind})


def _cells(records: Sequence[Record]) -> dict[str, int]:
    """Texts in each cell of features and lengths."""
    found = Counter(
        cell.title for record in records for cell in cells_of(record.lineage) if cell.axis in ("feature", "length")
    )
    return dict(sorted(found.items()))


def _num_combinations(world: World) -> int:
    """Sets of features that a text may be asked to have, each at every length."""
    sets = sum(len(list(combinations(world.features, size))) for size in range(world.most_features + 1))
    return sets * len(world.lengths)
