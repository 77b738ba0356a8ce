"""How everything of ours is checked while the tests run: every annotation, and shapes where there are any.

The import hook of jaxtyping (see addopts in pyproject.toml) decorates each function with `jaxtyping.jaxtyped`, which checks it
twice over and binds its arguments by hand, so that axes agree: a third of all that end-to-end tests cost. Where no annotation
has a shape, the type checker alone says the same. And what a test calls again and again is checked the first few times only:
its thousandth call tells nothing that its tenth did not.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from jaxtyping import jaxtyped

CALLS_CHECKED = 16
"""Of one function in one test."""
calls: Counter[CodeType] = Counter()
"""Of the code of each function with a shape, since the test began: see conftest.py. A function itself would hold on to all that
it closes over."""


def _is_shaped(annotation: object) -> bool:
    """Whether a tensor with a shape stands anywhere in it. A name that is yet to be defined may be one."""
    if isinstance(annotation, str | type) and not get_args(annotation):
        return isinstance(annotation, str) or issubclass(annotation, jaxtyping.AbstractArray)
    return any(_is_shaped(part) for part in get_args(annotation))


def checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """A function, a dataclass or whatever else the hook decorates, checked."""
    if function is None:
        return partial(checked, typechecker=typechecker)
    if is_dataclass(function) and isinstance(function.__init__, FunctionType):
        function.__init__ = checked(function.__init__, typechecker=typechecker)  # type: ignore[misc]
        return function
    if not isinstance(function, FunctionType):
        return jaxtyped(function, typechecker=typechecker)
    if any(map(_is_shaped, function.__annotations__.values())):
        return _checked_at_first(function, jaxtyped(function, typechecker=typechecker))
    return typechecker(function)


def _checked_at_first(function: FunctionType, whole: Callable[..., Any]) -> Callable[..., Any]:
    """The checked function, for as many calls as tell something; then the function itself."""

    @wraps(whole)
    def called(*args: Any, **options: Any) -> Any:
        if calls[function.__code__] >= CALLS_CHECKED:
            return function(*args, **options)
        calls[function.__code__] += 1
        return whole(*args, **options)

    return called


# The hook asks for it by name.
jaxtyping.jaxtyped = checked
