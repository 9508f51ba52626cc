"""Run a block so that each ATen operator it reaches goes through a function."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.outcomes.operator_table import Row, row_of
from pytest_torchexport.outcomes.torch_state import compiling_nothing
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.dispatcher import (
    Handle,
    dispatch_mode,
    is_operator,
    schema_of,
)

# A native kernel writes to these arguments although its schema does not say so, so it must get the
# original tensors.
_WRITTEN_UNDECLARED = frozenset(["running_mean", "running_var"])


@contextmanager
def dispatched(handle: Handle) -> Iterator[None]:
    """Replace each operator of the block by ``handle(operator, args, kwargs)``.

    Run the function once without this before: if its first call loads torch._dynamo (``torch.cond``
    does), the operators of that call are not seen.
    """
    with compiling_nothing(), dispatch_mode(handle):
        yield


@dataclass(eq=False, slots=True)
class Operation:
    """One operator that is about to run, and its arguments.

    ``number`` counts those of its name in a run, from 1. ``where``: the user's line, if somebody
    looked.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    number: int = 0
    where: SourceLine | None = None

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    @property
    def name(self) -> str:
        """``add`` for ``aten::add_.Tensor``; empty for torch.cond and its kin."""
        return name_of(self.func) if is_operator(self.func) else ""

    @property
    def row(self) -> Row:
        return row_of(self.name)

    @property
    def may_draw(self) -> bool:
        """True if it draws random numbers, or does so for some arguments."""
        return is_operator(self.func) and torch.Tag.nondeterministic_seeded in self.func.tags

    @property
    def leaves_memory(self) -> bool:
        """True if it returns memory that it does not initialize."""
        return "uninitialized" in self.row.kinds and self.func.namespace == "aten"

    @property
    def operand(self) -> Any:
        return self.args[0]

    def argument(self, name: str) -> Any:
        return next((value for own, value in self.arguments if own == name), None)

    @property
    def arguments(self) -> list[tuple[str, Any]]:
        """Every argument by name, those that were not given with their default."""
        return [
            (name, self.args[index])
            if index < len(self.args) and not by_keyword
            else (name, self.kwargs.get(name, default))
            for index, (name, default, by_keyword) in enumerate(_parameters(self.func))
        ]

    @property
    def written(self) -> list[Any]:
        """The arguments that it writes to: of a batch norm its statistics, if it is trained."""
        names = written_to(self.func)
        if names & _WRITTEN_UNDECLARED and not self.argument("training"):
            names -= _WRITTEN_UNDECLARED
        return [value for name, value in self.arguments if name in names] if names else []

    @property
    def floats(self) -> list[torch.Tensor]:
        return floats_of((self.args, self.kwargs))


def operations(run: Callable[[Operation], Any]) -> AbstractContextManager[None]:
    """Replace each operator of the block by ``run(operation)``, numbered from 1 by its name."""
    counts: Counter[str] = Counter()

    def handle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = Operation(func, args, kwargs)
        counts[operation.name] += 1
        operation.number = counts[operation.name]
        return run(operation)

    return dispatched(handle)


@functools.lru_cache(maxsize=4096)
def _parameters(func: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Return name, default and whether it is keyword-only of each argument of an operator."""
    arguments = schema_of(func).arguments
    return tuple((item.name, item.default_value, item.kwarg_only) for item in arguments)


@functools.lru_cache(maxsize=4096)
def name_of(func: Any) -> str:
    """Return an operator's plain name: ``add`` for ``aten::add_.Tensor``."""
    return str(schema_of(func).name).rpartition("::")[2].removesuffix("_")


def plain_name(written: str) -> str:
    """Return the plain name of an operator as reports write it: ``copy`` for ``aten.copy_``."""
    return written.removeprefix("aten.").partition(".")[0].removesuffix("_")


def name_of_packet(func: Any) -> str:
    """Return ``aten.add`` for ``aten.add.Tensor``, and ``while_loop`` for what has no overloads."""
    return str(getattr(func, "overloadpacket", func))


@functools.lru_cache(maxsize=4096)
def written_to(func: Any) -> frozenset[str]:
    arguments = schema_of(func).arguments
    return frozenset(
        item.name
        for item in arguments
        if item.name in _WRITTEN_UNDECLARED
        or (item.alias_info is not None and item.alias_info.is_write)
    )


def is_float(value: Any) -> bool:
    """Return True for a dense tensor of floats, or of complex numbers."""
    return (
        isinstance(value, torch.Tensor)
        and (value.is_floating_point() or value.is_complex())
        and value.layout == torch.strided
        and value.dtype.itemsize > 1
        and not value.is_quantized
    )


def tensors_among(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors among an operator's arguments or results."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_among(item)


def floats_of(value: Any) -> list[torch.Tensor]:
    """Return the float tensors among an operator's arguments or results."""
    return [tensor for tensor in tensors_among(value) if is_float(tensor)]


def with_floats(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Return an operator's argument with each float tensor in it replaced."""
    return with_tensors(lambda tensor: function(tensor) if is_float(tensor) else tensor, value)


def with_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Return an operator's argument with each tensor in it replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(function, item) for item in value)
    return value
