"""Code of the user's own: a recipe may name it, but only whoever runs the recipe can let it run."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from stillhouse.core.errors import StillhouseError

_ALLOWED = ContextVar("allow_plugins", default=False)


@contextmanager
def plugins(*, allowed: bool) -> Iterator[None]:
    """Whether code that a recipe names may run inside the block."""
    before = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(before)


def plugins_allowed() -> bool:
    """Whether somebody has let it run."""
    return _ALLOWED.get()


def refuse_plugins(key: str, value: str, *, does: str) -> None:
    """Raises: StillhouseError unless code may run, naming the key, its value and what it does."""
    if not plugins_allowed():
        raise StillhouseError(
            f"{key} is {value!r}, which {does}, and a recipe alone never runs code. Read that code, then add "
            "--allow-plugins to the command (in Python, `with plugins(allowed=True)` of stillhouse.core.plugins)."
        )


def load_function(name: str, *, key: str) -> Callable[..., Any]:
    """The function that `module:function` names, from wherever Python imports.

    Raises:
        StillhouseError: where that is not allowed, or there is no such function.
    """
    refuse_plugins(key, name, does="runs a function of yours")
    module_name, _, function_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name, None)
    except ImportError as error:
        raise StillhouseError(
            f"{key} is {name!r}, but {module_name} cannot be imported: {error}. Put it where Python finds it (PYTHONPATH), or "
            "mend the name."
        ) from None
    if not callable(found):
        raise StillhouseError(f"{key} is {name!r}, but {module_name} has no function of that name. Mend the name.")
    result: Callable[..., Any] = found
    return result


def check_function_name(name: str, *, key: str) -> str:
    """The name itself, where it is of the form `module:function`.

    Raises:
        ValueError: naming the form.
    """
    module, colon, function = name.partition(":")
    if not colon or not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{key} is {name!r}, which names no function. Write module:function, such as rewards:brevity.")
    return name
