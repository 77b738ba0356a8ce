"""How everything of ours is checked while the tests run: every annotation, and shapes where there are any.

The import hook of jaxtyping (see addopts in pyproject.toml) decorates each function with `jaxtyping.jaxtyped`, which checks it
twice over and binds its arguments by hand, for the sake of its messages: a third of all that end-to-end tests cost. Here the
type checker looks once, and where an annotation has a shape, at axes that must agree. And what a test calls again and again
is checked the first few times only: its thousandth call tells nothing that its tenth did not. A check is made at the first
call: of some nine thousand functions a test process calls few, and closures are made anew each time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError, jaxtyped

CALLS_CHECKED = 16
"""Of one function in one test."""
calls: Counter[int] = Counter()
"""Of the code of each function since the test began, by its id: see conftest.py. A function itself would hold on to all that
it closes over, and to find code by what it is takes longer than many a call."""


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
    check = partial(_way_for(function), typechecker=typechecker)
    return check(function) if _is_lazy(function) else _checked_at_first(function, check)


def _is_lazy(function: FunctionType) -> bool:
    return bool(function.__code__.co_flags & (CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR))


def _way_for(function: FunctionType) -> Callable[..., Any]:
    """What checks it: jaxtyping itself where a name is yet to be defined, or where others are called before it goes on."""
    annotations = function.__annotations__.values()
    if not any(map(_is_shaped, annotations)):
        return _by_type
    return jaxtyped if _is_lazy(function) or any(isinstance(one, str) for one in annotations) else _by_shape


def _by_type(function: FunctionType, *, typechecker: Callable[[Any], Any]) -> Any:
    return typechecker(function)


def _by_shape(function: FunctionType, *, typechecker: Callable[[Any], Any]) -> Any:
    whole = typechecker(function)

    @wraps(function)
    def shaped(*args: Any, **options: Any) -> Any:
        try:
            with jaxtyped("context"):  # in which an axis has one length
                return whole(*args, **options)
        except BeartypeCallHintViolation as refusal:
            raise TypeCheckError(str(refusal)) from refusal

    return shaped


def _checked_at_first(function: FunctionType, check: Callable[[FunctionType], Any]) -> Callable[..., Any]:
    """The checked function, made at its first call, for as many calls as tell something; then the function itself."""
    code, whole = id(function.__code__), None

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        nonlocal whole
        if calls[code] >= CALLS_CHECKED:
            return function(*args, **options)
        calls[code] += 1
        if whole is None:
            whole = check(function)
        return whole(*args, **options)

    return called


# The hook asks for it by name.
jaxtyping.jaxtyped = checked
