"""Prompts for a teacher, from templates with slots."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence

from stillhouse.core.slots import is_slot, slots_in

MOST_PROMPTS = 10_000_000
"""All are made before the first is asked: more would fill the memory."""


def filled_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]], *, seed: int) -> list[str]:
    """Every way to fill every template, each once, in an order that depends on the seed alone.

    Raises:
        ValueError: if a template names a slot that there is not, or there would be too many prompts.
    """
    check_templates(templates, slots)
    named = {template: slots_in(template) for template in templates}
    prompts = [
        template.format(**dict(zip(names, words, strict=True)))
        for template, names in named.items()
        for words in itertools.product(*(slots[name] for name in names))
    ]
    unique = list(dict.fromkeys(prompts))
    random.Random(seed).shuffle(unique)
    return unique


def check_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]]) -> None:
    """Refuse what cannot be filled, without filling it.

    Raises:
        ValueError: as `filled_templates`.
    """
    number = 0
    for template in dict.fromkeys(templates):
        names = slots_in(template)
        unknown = [name for name in names if name not in slots or not is_slot(name)]
        if unknown:
            raise ValueError(f"the template {template!r} names {unknown}, but the slots are {sorted(slots)}.")
        number += math.prod(len(slots[name]) for name in names)
    if number > MOST_PROMPTS:
        raise ValueError(
            f"the templates make {number:,} prompts, and at most {MOST_PROMPTS:,} can be. Give fewer words."
        )
