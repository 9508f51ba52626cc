"""Run a block so that each ATen operator it reaches goes through a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.torch_state import compiling_nothing
from pytest_torchexport.torch_private.dispatcher import (
    Handle,
    dispatch_mode,
    is_operator,
    overloads_of,
    schema_of,
)

# A native kernel writes to these arguments although its schema does not say so, so it must get the
# original tensors.
_WRITTEN_UNDECLARED = frozenset(["running_mean", "running_var"])


@contextmanager
def dispatched(handle: Handle) -> Iterator[None]:
    """Replace each operator of the block by ``handle(operator, args, kwargs)``.

    If torch has no dispatch mode, the block runs as it is. Run the function once without this
    before: if its first call loads torch._dynamo (``torch.cond`` does), the operators of that call
    are not seen.
    """
    mode = dispatch_mode(handle)
    if mode is None:
        yield
        return
    with compiling_nothing(), mode:
        yield


def as_it_is(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator: the handle that changes nothing."""
    return operator(*args, **kwargs)


def available() -> bool:
    """Return True if this torch has a dispatch mode."""
    return dispatch_mode(as_it_is) is not None


def name_of(func: Any) -> str:
    """Return an operator's plain name: ``add`` for ``aten::add_.Tensor``."""
    return str(schema_of(func).name).rpartition("::")[2].removesuffix("_")


def plain_name(written: str) -> str:
    """Return the plain name of an operator as reports write it: ``copy`` for ``aten.copy_``."""
    return written.removeprefix("aten.").partition(".")[0].removesuffix("_")


def name_of_packet(func: Any) -> str:
    """Return ``aten.add`` for ``aten.add.Tensor``, and ``while_loop`` for what has no overloads."""
    return str(getattr(func, "overloadpacket", func))


def argument_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    """Return an operator's argument, given by place or by name, or its default."""
    for index, item in enumerate(schema_of(func).arguments):
        if item.name == name:
            if index < len(args) and not item.kwarg_only:
                return args[index]
            return kwargs.get(name, item.default_value)
    return None


@functools.lru_cache(maxsize=4096)
def written_to(func: Any) -> frozenset[str]:
    """Return the names of the arguments that the operator writes to."""
    arguments = schema_of(func).arguments
    return frozenset(
        item.name
        for item in arguments
        if item.name in _WRITTEN_UNDECLARED
        or (item.alias_info is not None and item.alias_info.is_write)
    )


def tells_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Return True if numbers of an argument decide a size, or are returned to Python.

    As those of ``nonzero`` and of ``item`` do. Also for an operator that is not torch's own.
    """
    if not is_operator(func) or func.namespace not in ("aten", "prims"):
        return True
    returned = (str(item.type) for item in schema_of(func).returns)
    if any("Tensor" not in kind for kind in returned):
        return True
    kinds = row_of(name_of(func)).kinds
    if "by_mask" in kinds:  # by places, or by a mask
        return any(item.dtype in (torch.bool, torch.uint8) for item in tensors_among(args[1]))
    return "sized_by_numbers" in kinds or torch.Tag.dynamic_output_shape in func.tags


def outs_of(func: Any) -> list[str]:
    """Return the names of the arguments that only take results, as ``out``, in their order."""
    arguments = schema_of(func).arguments
    return [item.name for item in arguments if item.kwarg_only and item.name in written_to(func)]


@functools.lru_cache(maxsize=4096)
def writing_nothing(func: Any) -> Any:
    """Return ``aten.add.Tensor`` for ``aten.add_.Tensor`` and ``aten.add.out``; else ``func``."""
    if not written_to(func):
        return func
    names = overloads_of(func.namespace, name_of(func))
    packet = getattr(getattr(torch.ops, func.namespace), name_of(func), None)
    others = (getattr(packet, name) for name in names)
    fits = (it for it in others if not written_to(it) and _given_to(it) == _given_to(func))
    return next(fits, func)


def _given_to(func: Any) -> list[tuple[str, str]]:
    """Return name and type of an operator's arguments, without those that only take results."""
    arguments = schema_of(func).arguments
    return [(item.name, str(item.type)) for item in arguments if item.name not in outs_of(func)]


def is_float(value: Any) -> bool:
    """Return True for a dense tensor of floats, or of complex numbers."""
    return (
        isinstance(value, torch.Tensor)
        and (value.is_floating_point() or value.is_complex())
        and value.layout == torch.strided
        and value.dtype.itemsize > 1
        and not value.is_quantized
    )


def tensors_among(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors among an operator's arguments or results, also of lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_among(value)


def floats_of(value: Any) -> list[torch.Tensor]:
    """Return the float tensors among an operator's arguments or results."""
    if is_float(value):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in floats_of(item)]
    return []


def with_floats(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return an operator's argument with each float tensor in it replaced."""
    if is_float(value):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(with_floats(function, item) for item in value)
    return value
