"""Prompts for a teacher, from templates with slots."""

import itertools
import random
import string
from collections.abc import Mapping, Sequence


def filled_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]], *, seed: int) -> list[str]:
    """Every way to fill every template, each once, in an order that depends on the seed alone.

    Raises:
        ValueError: if a template names a slot that there is not.
    """
    prompts = [
        template.format(**dict(zip(names, words, strict=True)))
        for template in templates
        for names in [_slot_names(template, slots)]
        for words in itertools.product(*(slots[name] for name in names))
    ]
    unique = list(dict.fromkeys(prompts))
    random.Random(seed).shuffle(unique)
    return unique


def _slot_names(template: str, slots: Mapping[str, Sequence[str]]) -> list[str]:
    names = list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))
    unknown = [name for name in names if name not in slots]
    if unknown:
        raise ValueError(f"the template {template!r} names {unknown}, but the slots are {sorted(slots)}.")
    return names
