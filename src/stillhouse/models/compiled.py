"""Layers compiled by torch, each by itself: what runs between them, and who listens there, is as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import layers_of

BACKEND = "inductor"
"""Torch's own, by which layers are compiled: to C++ for a processor, to Triton for a GPU."""

GRAPHS = 32
"""Of layers of one family that are kept: with a gradient and without, for one row and for several, masked or not, for each kind
of layer that it mixes and each width. What would need one more runs as it is, uncompiled."""

_COMPILER: ContextVar[str | None] = ContextVar("compiler", default=None)


@contextmanager
def compiling(backend: str | None) -> Iterator[None]:
    """Within the block, models whose signals are read run compiled layers, if a backend is named."""
    token = _COMPILER.set(backend)
    try:
        yield
    finally:
        _COMPILER.reset(token)


def compiler_now() -> str | None:
    """By what layers are compiled at this place; None where they are not."""
    return _COMPILER.get()


@contextmanager
def compiler_at_work(*, wanted: bool) -> Iterator[None]:
    """Around a training whose layers are compiled, or not.

    Raises:
        ModelError: what the compiler finds wrong, in a line.
    """
    if not wanted:
        yield
        return
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    try:
        with config.patch(recompile_limit=GRAPHS):
            yield
    except TorchDynamoException as error:
        said = next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)
        raise ModelError(
            f"training.compile is true, but torch cannot compile the layers: {said} Leave it out."
        ) from error


def check_compiler() -> None:
    """Refuse a machine on which nothing can be compiled.

    Raises:
        ModelError: saying what is missing.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if torch.accelerator.is_available() and find_spec("triton") is None:
        raise ModelError(
            "training.compile is true, but Triton is not installed: `pip install triton`. Or leave it out."
        )
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ModelError(
            "training.compile is true, but there is no C++ compiler here: install one, such as g++, or say in CXX where it is. "
            "Or leave it out."
        ) from None


@contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Around one forward pass of a model, where layers are to be compiled. All of one family share what was compiled, for any
    number and length of rows; hooks on a layer, and whoever computes it again for its gradient, stay outside.

    Raises:
        ModelError: if its layers cannot be told.
    """
    backend = _COMPILER.get()
    if backend is None:
        yield
        return
    layers = list(_layers(model))
    before = [getattr(layer, "_gradient_checkpointing_func", None) for layer in layers]
    for layer, again in zip(layers, before, strict=True):
        if again is not None and getattr(layer, "gradient_checkpointing", False) and layer.training:
            layer._gradient_checkpointing_func = partial(_checkpointed, again, layer, backend)
        else:
            layer.forward = partial(_run, layer, partial(_compiled(type(layer).forward, backend), layer))
    try:
        yield
    finally:
        for layer, again in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if again is not None:
                layer._gradient_checkpointing_func = again


def _checkpointed(
    again: Callable[..., Any], layer: nn.Module, backend: str, function: "partial[Any]", *args: Any
) -> Any:
    """What transformers does with a layer to be computed again, which then is compiled both times."""
    whole = getattr(
        function.func, "__func__", None
    )  # of the layer as a whole, in versions that checkpoint around its hooks
    bound = () if whole is None else (layer,)
    compiled = partial(_compiled(whole or function.func, backend), *bound, *function.args, **function.keywords)
    return again(partial(_run, layer, compiled), *args)


def _run(layer: nn.Module, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a layer does, without transformers' ears inside of it, for attention: they hear nothing here, and where they are
    asked nothing can be compiled."""
    hooks = [(module, module._forward_hooks) for module in layer.modules() if module is not layer]
    heard = [(module, found) for module, found in hooks if any(map(_is_ear, found.values()))]
    for module, found in heard:
        module._forward_hooks = type(found)((key, hook) for key, hook in found.items() if not _is_ear(hook))
    try:
        return compiled(*args, **kwargs)
    finally:
        for module, found in heard:
            module._forward_hooks = found


def _is_ear(hook: Callable[..., Any]) -> bool:
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


@cache
def _compiled(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """A family's own, for rows of any shape: one function for all layers, and none of them is kept by it."""
    return torch.compile(forward, dynamic=True, backend=backend)


def _layers(model: PreTrainedModel) -> Any:
    try:
        return layers_of(model)
    except ModelError:
        raise ModelError(
            f"training.compile is true, but what the layers of {type(model).__name__} are cannot be told. Leave it out."
        ) from None
