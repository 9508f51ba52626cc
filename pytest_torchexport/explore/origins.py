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

from pytest_torchexport.explore.views import is_view
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.operator_table import of_kind, row_of
from pytest_torchexport.outcomes.operators import (
    Operation,
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
# Operators that are followed beside those that torch calls elementwise.
_FOLLOWED = of_kind("move", "elementwise", "lookup", "reduction", "scan", "product", "bucketing")

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
        row = row_of(self.name)
        places = row.second if self.number else row.of_rows
        if "arg" not in places or self.operation is None or not float(index).is_integer():
            return None
        way, place = (1 if row.largest else -1), int(index)

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
    if name in _FOLLOWED:
        return True
    tags = getattr(func, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
