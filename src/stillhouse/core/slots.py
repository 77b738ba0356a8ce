"""Templates of a recipe: a text with `{names}` in braces. Nothing else of what Python's braces can do is let in."""

import string


def is_slot(name: str) -> bool:
    """Whether braces with this name stand for the slot of that name, and for nothing inside of it or in some place."""
    return bool(name) and not name.isdigit() and not set(name) & set(".[")


def slots_in(template: str) -> list[str]:
    """The names in a template's braces, each once, in their order.

    Raises:
        ValueError: for braces that do not close, or hold more than a name: a format could ask for any amount of memory.
    """
    found: dict[str, None] = {}
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if form or conversion:
            raise ValueError(
                f"the template {template!r} has braces with more than a name in them. Write {{name}}, and braces that are to "
                "stay twice."
            )
        found[name] = None
    return list(found)
