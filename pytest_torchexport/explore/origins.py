"""Remember the operators between the inputs of a run and its tensors.

Integers have no gradient, and what they go through (shifts, quotients, remainders, tables) has no
slope. But the operators that lead to one element of a result can run again, on other numbers and on
that element alone: ``explore/recomputation.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.thresholds import Operation
from pytest_torchexport.explore.views import is_view
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.operators import (
    name_of,
    tensors_among,
    writing_nothing,
    written_to,
)
from pytest_torchexport.torch_private.memory import memory_of

# Tensors with more elements are not followed, and none after so many elements in all: the results
# of a run are kept, at most 128 MiB of int64.
MOST_ELEMENTS = 2**20
MOST_IN_ALL = 2**24
# They only rearrange elements.
MOVES = frozenset(["view", "_unsafe_view", "_reshape_alias", "reshape", "permute", "transpose"])
MOVES |= {"t", "select", "slice", "squeeze", "unsqueeze", "expand", "alias", "detach"}
MOVES |= {"lift_fresh", "diagonal", "unfold", "flip", "roll", "repeat", "cat", "stack", "split"}
MOVES |= {"unbind", "split_with_sizes", "tril", "triu"}
# Elementwise operators that do not say so, and those with a table: the place of the argument that
# is no table.
ELEMENTWISE = frozenset(["floor_divide", "_to_copy"])
WITH_TABLE = {"bucketize": 0, "isin": 0, "searchsorted": 1}
LOOKUPS = frozenset(["index", "embedding", "index_select", "take"])
# Functions of rows, to one number each and to as many.
REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda rows: rows.sum(-1),
    "mean": lambda rows: rows.mean(-1),
    "prod": lambda rows: rows.prod(-1),
    "any": lambda rows: rows.any(-1),
    "all": lambda rows: rows.all(-1),
    **dict.fromkeys(("max", "amax"), lambda rows: rows.amax(-1)),
    **dict.fromkeys(("min", "amin"), lambda rows: rows.amin(-1)),
    "argmax": lambda rows: rows.argmax(-1),
    "argmin": lambda rows: rows.argmin(-1),
}
SCANS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda rows: rows.cumsum(-1),
    "_softmax": lambda rows: rows.softmax(-1),
    "_log_softmax": lambda rows: rows.log_softmax(-1),
}
# Products of a matrix with another one: the places of both among the arguments.
PRODUCTS: Mapping[str, tuple[int, int]] = {"mm": (0, 1), "addmm": (1, 2), "linear": (0, 1)}

_Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Origin:
    """A tensor that depends on the inputs: one of them (``leaf``), or the result of an operator.

    ``operands`` are those arguments of the operator that depend on the inputs, and ``number`` is
    the place among its results. ``reduction`` is a function of rows that stands for the operator.
    """

    value: Tensor
    leaf: int | None = None
    name: str = ""
    operation: Operation | None = None
    operands: tuple[tuple[Tensor, Origin], ...] = ()
    number: int = 0
    reduction: Callable[[Tensor], Tensor] | None = None

    def missing_at(self, index: float) -> Origin | None:
        """Return how far the element at ``index`` of each row is from the largest or the smallest.

        None if this is not the place of the largest or the smallest of a row.
        """
        sign = {("argmax", 0): 1, ("argmin", 0): -1, ("max", 1): 1, ("min", 1): -1}
        way = sign.get((self.name, self.number))
        if way is None or self.operation is None or not float(index).is_integer():
            return None
        place = int(index)

        def missing(rows: Tensor) -> Tensor:
            signed = way * rows.double()
            return signed.amax(-1) - signed[..., place]

        return dataclasses.replace(self, value=self.value.double(), reduction=missing)

    def inputs(self) -> frozenset[int] | None:
        """Return the inputs from which alone it was computed; None if there is another tensor."""
        if self.operation is None:
            return None if self.leaf is None else frozenset([self.leaf])
        arguments = [*self.operation.args, *self.operation.kwargs.values()]
        found: frozenset[int] = frozenset()
        for argument in tensors_among(arguments):
            origin = self.of(argument)
            inputs = origin.inputs() if origin is not None else None
            if inputs is None:
                return None
            found |= inputs
        return found

    def of(self, argument: Any) -> Origin | None:
        """Return the origin of an argument, None if it does not depend on the inputs."""
        return next((origin for tensor, origin in self.operands if tensor is argument), None)


class Origins:
    """The origins of the tensors of one run."""

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        self._known: dict[_Key, Origin] = {}
        self._left = MOST_IN_ALL
        self._inputs = [given for given in inputs if given is not None]
        for index, given in enumerate(inputs):
            if given is not None and _is_followed(given):
                self._known[_key(given)] = Origin(given, leaf=index)

    def of(self, value: Any) -> Origin | None:
        """Return the origin of a tensor, None if it is not known."""
        return self._known.get(_key(value)) if _is_followed(value) else None

    def has_part(self, value: Any) -> bool:
        """Return True if a tensor is a part of an input."""
        return any(is_view(value, given) for given in self._inputs)

    def saw(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Remember an operator that has run."""
        tensors = list(tensors_among(args))
        operands = tuple((item, found) for item in tensors if (found := self.of(item)) is not None)
        written = written_to(func)
        if written:
            touched = tensors_among([result, *tensors])
            changed = {memory_of(item) for item in touched if is_plain(item)}
            self._known = {k: known for k, known in self._known.items() if k[0] not in changed}
        name = name_of(func)
        if operands and "out" not in kwargs and _is_known(name, func):
            operation = Operation(writing_nothing(func), tuple(args), kwargs)
            for number, item in enumerate(tensors_among([result])):
                if _is_followed(item) and item.numel() <= self._left:
                    self._left -= item.numel()
                    self._known[_key(item)] = Origin(item, None, name, operation, operands, number)


def _is_followed(value: Any) -> bool:
    return is_plain(value) and not value.is_complex() and 0 < value.numel() <= MOST_ELEMENTS


def _key(value: Tensor) -> _Key:
    """Return what two views of the same elements have in common: autograd makes other objects."""
    return (memory_of(value), value.storage_offset(), value.shape, value.stride(), value.dtype)


def _is_known(name: str, func: Any) -> bool:
    if name in MOVES | ELEMENTWISE | LOOKUPS:
        return True
    if name in {**REDUCTIONS, **SCANS, **PRODUCTS, **WITH_TABLE}:
        return True
    tags = getattr(func, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
